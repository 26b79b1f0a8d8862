"""Bodies of /v1/completions, /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from perfxlm_core.serve.protocol.fields import Body, Int, Prompt, SamplingBody, TokenId


class CompletionRequest(SamplingBody):
    """Prompts to go on with."""

    prompt: Prompt | None = None
    echo: bool | None = False
    logprobs: Int | None = None
    max_tokens: Int | None = 16
    suffix: str | None = None
    best_of: Int | None = None
    prompt_embeds: Any = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        **SamplingBody.refused,
        "suffix": (None, ""),
        "prompt_embeds": (None,),
    }


class TokenizeRequest(Body):
    """A prompt or a conversation to count; exactly one of the two."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class DetokenizeRequest(Body):
    """Token ids to write as text."""

    model: str | None = None
    tokens: list[Annotated[TokenId, Field(ge=0)]]


class EmbeddingRequest(Body):
    """What an embedding model would embed."""

    model: str | None = None
    input: Prompt | None = None
    messages: list[dict[str, Any]] | None = None
