"""`perfxlm.engine.arg_utils`, where vLLM's users look for it."""

from perfxlm_core.engine.engine_args import AsyncEngineArgs, EngineArgs

__all__ = ["AsyncEngineArgs", "EngineArgs"]
