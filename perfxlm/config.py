"""`perfxlm.config`: one flat configuration, and names of what cannot be configured."""

from __future__ import annotations

from dataclasses import dataclass

from perfxlm.refused import refused
from perfxlm_core.engine.config import EngineConfig

VllmConfig = EngineConfig
ModelConfig = EngineConfig


@dataclass
class ProfilerConfig:
    """Where `LLM.start_profile` writes its traces."""

    profiler: str | None = None
    torch_profiler_dir: str = ""


@dataclass
class StructuredOutputsConfig:
    """How constraints are compiled; llguidance compiles them all, whatever the backend."""

    backend: str = "auto"
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False


KVTransferConfig = refused("KVTransferConfig", "KV blocks stay in this process")
WeightTransferConfig = refused("WeightTransferConfig", "weights come from the checkpoint alone")
PoolerConfig = refused("PoolerConfig", "models here generate text")
CompilationConfig = refused("CompilationConfig", "the plan is compiled in one way; leave it out")

__all__ = [
    "CompilationConfig",
    "KVTransferConfig",
    "ModelConfig",
    "PoolerConfig",
    "ProfilerConfig",
    "StructuredOutputsConfig",
    "VllmConfig",
    "WeightTransferConfig",
]
