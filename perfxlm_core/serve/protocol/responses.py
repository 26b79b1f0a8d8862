"""Body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from perfxlm_core.serve.protocol.fields import Body, Int


class ResponsesTool(BaseModel):
    """A function, flat as this interface has it."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesToolName(BaseModel):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(BaseModel):
    """The form that the answer must have."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "schema"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextSettings(BaseModel):
    """Of the text that is generated."""

    format: TextFormat = TextFormat()
    verbosity: str | None = None


class Reasoning(BaseModel):
    """How much the model should think."""

    effort: str | None = None
    summary: str | None = None


Text = Annotated[str, Field(min_length=1)]
Items = Annotated[list[dict[str, Any]], Field(min_length=1)]


class ResponsesRequest(Body):
    """A conversation to go on with."""

    model: str | None = None
    input: Text | Items
    instructions: str | None = None
    max_output_tokens: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    seed: Int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    tools: list[ResponsesTool] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | ResponsesToolName = "auto"
    parallel_tool_calls: bool | None = True
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    service_tier: str = "auto"
    store: bool | None = True
    truncation: Literal["auto", "disabled"] | None = "disabled"
    user: str | None = None
    priority: Int = 0
    request_id: Annotated[str, Field(max_length=256)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    background: bool | None = False
    previous_response_id: str | None = None
    prompt: Any = None
    max_tool_calls: Int | None = None
    top_logprobs: Int | None = None
    include: list[str] | None = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        "background": (False, None),
        "previous_response_id": (None,),
        "prompt": (None,),
        "max_tool_calls": (None,),
        "top_logprobs": (None, 0),
        "include": (None, []),
        "truncation": ("disabled", None),
    }
