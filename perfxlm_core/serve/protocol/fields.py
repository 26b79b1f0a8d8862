"""What the bodies of several routes have in common."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Int = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""An integer that fits into 64 bits."""
TokenId = Annotated[int, Field(ge=-1, le=2**31 - 1)]
Prompt = Annotated[str, Field(min_length=1)] | list[TokenId] | list[str] | list[list[TokenId]]

CONSTRAINTS = frozenset(
    "guided_json guided_regex guided_choice guided_grammar guided_decoding_backend "
    "guided_whitespace_pattern guided_options guided_json_object structural_tag guidance "
    "json_schema regex ebnf grammar choice".split()
)
"""Fields that ask for constrained text in older or other servers. Ignoring one would give an
unconstrained answer to somebody who relies on the constraint."""


class Body(BaseModel):
    """A body; unknown fields are kept apart, so that the answer can name them."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Known fields that are not supported, with the values that change nothing."""

    @property
    def unknown(self) -> list[str]:
        """Fields that nobody reads."""
        return sorted(self.model_extra or ())


class StreamOptions(BaseModel):
    """What a stream says beside the text."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class JsonSchema(BaseModel):
    """A named schema."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = "schema"
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form that the answer must have."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """One constraint on the text."""

    model_config = ConfigDict(extra="forbid")

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


class SamplingBody(Body):
    """How a text is drawn: OpenAI's fields, then vLLM's; None takes the model's default."""

    model: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: Int | None = None
    seed: Int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None

    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Int = 0
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    prompt_logprobs: Int | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[str] | None = None
    add_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Int = 0
    request_id: Annotated[str, Field(max_length=256)] | None = None
    cache_salt: Annotated[str, Field(min_length=1)] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None

    use_beam_search: bool = False
    length_penalty: float = 1.0
    watermarking: bool | None = None
    repetition_detection: dict[str, Any] | None = None
    thinking_token_budget: Int | None = None
    stream_interval: Int | None = None
    logits_processors: list[Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    session_id: str | None = None
    return_weight_versions: bool = False
    routed_experts_prompt_start: Int = 0

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        "use_beam_search": (False,),
        "watermarking": (None, False),
        "repetition_detection": (None,),
        "thinking_token_budget": (None,),
        "logits_processors": (None, []),
        "vllm_xargs": (None, {}),
        "kv_transfer_params": (None,),
        "ec_transfer_params": (None,),
        "return_weight_versions": (False,),
    }
