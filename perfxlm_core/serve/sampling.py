"""From the fields of a body to `SamplingParams`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.engine.structured_params import StructuredOutputsParams
from perfxlm_core.serve.http_errors import bad_request

if TYPE_CHECKING:
    from perfxlm_core.serve.protocol.fields import ResponseFormat, SamplingBody
    from perfxlm_core.serve.service import Service

FIELDS = (
    "n", "frequency_penalty", "presence_penalty", "repetition_penalty", "temperature", "top_p",
    "top_k", "min_p", "seed", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
    "min_tokens", "skip_special_tokens", "spaces_between_special_tokens", "logit_bias",
    "allowed_token_ids", "bad_words", "prompt_logprobs", "stream_interval",
)  # fmt: skip
"""Fields of a body that are fields of `SamplingParams`."""


def sampling_params(
    service: Service,
    body: SamplingBody,
    max_tokens: int | None,
    *,
    logprobs: int | None = None,
    constraint: dict[str, Any] | None = None,
) -> SamplingParams:
    """What a body asks for, on top of what the model's authors recommend.

    Args:
        max_tokens: None for as many as fit.
        constraint: One that the route wants, instead of the body's.

    Raises:
        ApiError: a value cannot be used.
        ArgumentError: the same.
    """
    limit = service.llm.max_model_len
    if max_tokens is not None and max_tokens > limit:
        raise bad_request(
            f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request "
            f"fewer output tokens. (parameter=max_tokens, value={max_tokens})",
            "max_tokens",
        )
    given = {name: getattr(body, name) for name in FIELDS if getattr(body, name) is not None}
    if body.logit_bias is not None:
        given["logit_bias"] = _by_token(body.logit_bias)
    found = constraint or _constraint(body)
    if found is not None:
        given["structured_outputs"] = StructuredOutputsParams(**found)
    return dataclasses.replace(
        service.llm.admission.default_params(),
        **given,
        max_tokens=max_tokens,
        logprobs=logprobs,
        output_kind=RequestOutputKind.DELTA if body.stream else RequestOutputKind.FINAL_ONLY,
    )


def _by_token(bias: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): value for token, value in bias.items()}
    except ValueError:
        raise bad_request("logit_bias has keys that are no token ids", "logit_bias") from None


def _constraint(body: SamplingBody) -> dict[str, Any] | None:
    """The constraint of `structured_outputs` or `response_format`; both at once are refused."""
    wanted = None if body.response_format is None else _of_format(body.response_format)
    if body.structured_outputs is None:
        return wanted
    if wanted is not None:
        raise bad_request(
            "response_format and structured_outputs both constrain the answer; give one",
            "structured_outputs",
        )
    given = body.structured_outputs.model_dump(by_alias=True, exclude_none=True)
    return {k: v for k, v in given.items() if v is not False}


def _of_format(wanted: ResponseFormat) -> dict[str, Any] | None:
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"json_object": True}
    if wanted.type == "structural_tag":
        return {"structural_tag": wanted.model_dump_json(exclude_none=True)}
    schema = None if wanted.json_schema is None else wanted.json_schema.schema_
    if schema is None or isinstance(schema, bool):
        raise bad_request(
            "response_format of type json_schema needs json_schema.schema, an object",
            "response_format",
        )
    return {"json": schema}
