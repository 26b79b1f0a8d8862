"""Keywords of `SamplingParams` that vLLM has dropped and programs still pass."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from perfxlm_core.engine.arguments import refuse_unknown
from perfxlm_core.engine.structured_params import StructuredOutputsParams
from perfxlm_core.errors import ArgumentError

T = TypeVar("T")


def _guided_decoding(values: dict[str, Any], given: Any) -> None:  # noqa: ANN401 - a user's
    if given is not None:
        values["structured_outputs"] = StructuredOutputsParams.of(given)


def _best_of(values: dict[str, Any], given: Any) -> None:  # noqa: ANN401 - a user's
    n = values.get("n", 1)
    if given not in (None, n):
        raise ArgumentError(
            f"best_of={given!r} is not supported: every output is returned; leave it out, or set "
            f"n={given!r} and choose by cumulative_logprob",
            parameter="best_of",
        )


def _use_beam_search(values: dict[str, Any], given: Any) -> None:  # noqa: ANN401 - a user's
    if given:
        raise ArgumentError(
            "use_beam_search is not supported in SamplingParams; call LLM.beam_search",
            parameter="use_beam_search",
        )


def _logits_processors(values: dict[str, Any], given: Any) -> None:  # noqa: ANN401 - a user's
    if given:
        raise ArgumentError(
            "logits_processors are not supported; logit_bias, allowed_token_ids, bad_words and "
            "structured_outputs change the logits",
            parameter="logits_processors",
        )


def _ignored(values: dict[str, Any], given: Any) -> None:  # noqa: ANN401 - a user's
    """Only beam search read it."""


DROPPED: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "guided_decoding": _guided_decoding,
    "best_of": _best_of,
    "use_beam_search": _use_beam_search,
    "logits_processors": _logits_processors,
    "length_penalty": _ignored,
    "early_stopping": _ignored,
}


def accepting_dropped(cls: type[T]) -> type[T]:
    """Let a dataclass take the dropped keywords, with a warning, and refuse unknown ones."""
    init, known = cls.__init__, [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]  # a dataclass

    @functools.wraps(init)
    def __init__(self: T, *args: Any, **values: Any) -> None:  # noqa: ANN401
        if not values.keys() <= set(known):
            refuse_unknown(cls.__name__, values, [*known, *DROPPED])
            _translate(cls.__name__, values)
        init(self, *args, **values)

    cls.__init__ = __init__  # type: ignore[assignment]  # the decorator's purpose
    return cls


def _translate(caller: str, values: dict[str, Any]) -> None:
    for name in DROPPED.keys() & values:
        given = values.pop(name)
        warnings.warn(f"{caller}({name}=) was dropped by vLLM", DeprecationWarning, stacklevel=4)
        DROPPED[name](values, given)
