"""`perfxlm.inputs.data`, where vLLM's users look for it."""

from perfxlm_core.engine.prompts import PromptType, TextPrompt, TokensPrompt

__all__ = ["PromptType", "TextPrompt", "TokensPrompt"]
