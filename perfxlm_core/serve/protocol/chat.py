"""Body of /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from perfxlm_core.serve.protocol.fields import Int, SamplingBody

Message = dict[str, Any]


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only ones."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: Function


class FunctionName(BaseModel):
    """Which function."""

    name: str


class NamedToolChoice(BaseModel):
    """The function that must be called."""

    type: Literal["function"] = "function"
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class ChatRequest(SamplingBody):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = False
    top_logprobs: Int | None = 0
    max_tokens: Int | None = None
    max_completion_tokens: Int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    echo: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_prompt_text: bool | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None
    function_call: Any = None

    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    store: bool | None = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        **SamplingBody.refused,
        "echo": (False,),
        "mm_processor_kwargs": (None, {}),
        "audio": (None,),
        "modalities": (None, ["text"]),
        "functions": (None, []),
        "function_call": (None, "none"),
    }
