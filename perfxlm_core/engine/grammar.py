"""Constraints compiled by llguidance: which tokens may come next, for one request.

Source:
    https://github.com/guidance-ai/llguidance (MIT); docs/decisions/0019-structured-outputs.md.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from perfxlm_core.errors import ArgumentError, RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from perfxlm_core.engine.runner import Tokenizer
    from perfxlm_core.engine.sampler import Floats
    from perfxlm_core.engine.structured_params import StructuredOutputsParams

_KEPT = 64
"""Compiled constraints that are remembered."""


class Grammar:
    """Where one completion is in its constraint.

    Args:
        matcher: Belongs to this completion alone.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)
        self._vocab_size = vocab_size

    def mask(self, row: Floats) -> None:
        """Exclude every token that may not come next, in place.

        Args:
            row: [vocab] float32 logits.

        Raises:
            RequestError: the constraint became too complex to go on with.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        np.copyto(row, -np.inf, where=bits[: self._vocab_size] == 0)

    def accept(self, token_id: int) -> None:
        """Go on with the token that was sampled."""
        self._matcher.consume_token(token_id)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(
                f"structured_outputs cannot be followed further: {self._reason()}; use a simpler "
                "constraint, of characters that the model's vocabulary has"
            )

    def _reason(self) -> str:
        """The error without the dump of the parser's state."""
        error = self._matcher.get_error().partition("<state>")[0].strip()
        return error.partition("\n")[0][:200]


class Grammars:
    """Compiles constraints for one model; llguidance is imported by the first of them.

    Args:
        eos_ids: Tokens that end an output, once the constraint allows it to end.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, vocab_size: int, eos_ids: Iterable[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def grammar(self, params: StructuredOutputsParams) -> Grammar:
        """A constraint at its beginning.

        Raises:
            ArgumentError: it does not compile, or llguidance is not installed.
        """
        key = json.dumps(vars(params), sort_keys=True, default=str)
        matcher = self._compiled.get(key)
        if matcher is None:
            matcher = self._compiled[key] = self._compile(params)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return Grammar(matcher.deep_copy(), self._vocab_size)

    def _compile(self, params: StructuredOutputsParams) -> LLMatcher:
        vocabulary = self._vocabulary = self._vocabulary or self._make_vocabulary()
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(vocabulary, _SOURCES[params.kind](params), log_level=0)
        except (ValueError, RecursionError, AssertionError) as error:
            _refuse(params.kind, str(error))
        if matcher.is_error():
            _refuse(params.kind, matcher.get_error())
        return matcher

    def _make_vocabulary(self) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise ArgumentError(
                "structured_outputs needs llguidance, which is not installed: "
                "pip install 'perfxlm[structured]'",
                parameter="structured_outputs",
            ) from error
        backend = getattr(self._tokenizer, "backend", None)
        if backend is None or not self._eos_ids:
            raise ArgumentError(
                "structured_outputs needs a model with a tokenizer and an end-of-sequence token",
                parameter="structured_outputs",
            )
        return LLTokenizer(backend.to_str(), n_vocab=self._vocab_size, eos_token=self._eos_ids)


def _refuse(kind: str, reason: str) -> NoReturn:
    raise ArgumentError(
        f"structured_outputs.{kind} does not compile: {reason.strip()}",
        parameter="structured_outputs",
    )


def _from_json(params: StructuredOutputsParams) -> str:
    return _json_grammar(params, params.schema())


def _from_json_object(params: StructuredOutputsParams) -> str:
    return _json_grammar(params, {"type": "object"})


def _json_grammar(params: StructuredOutputsParams, schema: Any) -> str:  # noqa: ANN401 - JSON
    from llguidance import LLMatcher

    if params.disable_additional_properties:
        schema = closed(schema)
    options: Any = {"whitespace_flexible": not params.disable_any_whitespace}
    if params.whitespace_pattern is not None:
        options["whitespace_pattern"] = params.whitespace_pattern
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)


def closed(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """The schema, its objects without properties of which it says nothing."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), Mapping) and "patternProperties" not in found:
        found.setdefault("additionalProperties", False)
    return found


def _from_regex(params: StructuredOutputsParams) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(params.regex or "")


def _from_choice(params: StructuredOutputsParams) -> str:
    from llguidance import LLMatcher

    choices = (json.dumps(text, ensure_ascii=False) for text in params.choice or ())
    return LLMatcher.grammar_from_lark(f"start: {' | '.join(choices)}")


def _from_grammar(params: StructuredOutputsParams) -> str:
    from llguidance import grammar_from

    text = params.grammar or ""
    return grammar_from("gbnf" if "::=" in text else "lark", text)


def _from_structural_tag(params: StructuredOutputsParams) -> str:
    from llguidance import StructTag

    given = json.loads(params.structural_tag or "")
    tags = [
        StructTag(trigger=_trigger(begin, triggers), begin=begin, grammar=grammar, end=end)
        for begin, grammar, end, triggers in _tags(given)
    ]
    return StructTag.to_grammar(tags, assume_special=False)


def _tags(given: Any) -> list[tuple[str, Any, str, list[str]]]:  # noqa: ANN401 - JSON
    """Begin, schema, end and triggers of each tag, of either form that vLLM has had."""
    form = given.get("format") if isinstance(given, Mapping) else None
    try:
        if form is None:
            triggers = list(given["triggers"])
            return [(t["begin"], t["schema"], t["end"], triggers) for t in given["structures"]]
        if form["type"] != "triggered_tags" or form.get("at_least_one"):
            raise ValueError("only triggered_tags, without at_least_one, are supported")
        triggers = list(form["triggers"])
        return [(t["begin"], t["content"]["json_schema"], t["end"], triggers) for t in form["tags"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            "expected {'structures': [{'begin', 'schema', 'end'}], 'triggers': [...]}, or a "
            f"format of triggered_tags with a json_schema each; {error!r} is missing or wrong"
        ) from error


def _trigger(begin: str, triggers: list[str]) -> str:
    for trigger in triggers:
        if begin.startswith(trigger):
            return trigger
    raise ValueError(f"no trigger begins {begin!r}")


_SOURCES: Mapping[str, Callable[[StructuredOutputsParams], str]] = {
    "json": _from_json,
    "json_object": _from_json_object,
    "regex": _from_regex,
    "choice": _from_choice,
    "grammar": _from_grammar,
    "structural_tag": _from_structural_tag,
}
