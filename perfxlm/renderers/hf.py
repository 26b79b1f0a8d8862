"""`perfxlm.renderers.hf`: which chat template a conversation gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfxlm_core.checkpoints.tokenizer import Tokenizer


def resolve_chat_template(
    tokenizer: Tokenizer,
    chat_template: str | None = None,
    tools: object = None,
    *,
    model_config: object = None,
    trust_remote_code: bool | None = None,
) -> str | None:
    """The template given, else the model's own for tools, else its usual one."""
    if chat_template is not None:
        return chat_template
    templates = tokenizer.chat_templates
    return templates["tool_use"] if tools and "tool_use" in templates else tokenizer.chat_template


__all__ = ["resolve_chat_template"]
