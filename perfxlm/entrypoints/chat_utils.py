"""`perfxlm.entrypoints.chat_utils`, where older programs look for the chat template."""

from perfxlm.renderers.hf import resolve_chat_template as resolve_hf_chat_template

__all__ = ["resolve_hf_chat_template"]
