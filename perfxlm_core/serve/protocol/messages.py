"""Bodies of /v1/messages and /v1/messages/count_tokens (Anthropic's interface)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from perfxlm_core.serve.protocol.fields import Body, Int


class MessagesTool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)


class MessagesToolChoice(BaseModel):
    """Whether, and which, tool must be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class MessagesMessage(BaseModel):
    """A turn."""

    model_config = ConfigDict(extra="allow")

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class CountTokensRequest(Body):
    """A conversation to count."""

    model: str | None = None
    messages: Annotated[list[MessagesMessage], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest):
    """A conversation to go on with."""

    max_tokens: Int
    metadata: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: Int | None = None
    top_p: float | None = None
    cache_salt: Annotated[str, Field(min_length=1)] | None = None
    service_tier: str | None = None
    container: Any = None
    mcp_servers: list[Any] | None = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        "container": (None,),
        "mcp_servers": (None, []),
    }
