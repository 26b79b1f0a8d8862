"""What a request's output must look like: `StructuredOutputsParams`."""

from __future__ import annotations

import json as json_module
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from perfxlm_core.engine.checks import check_strings, require
from perfxlm_core.errors import ArgumentError

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
MAX_NESTING = 64
ENGINE_DEFAULTS = ("disable_any_whitespace", "disable_additional_properties")


@dataclass
class StructuredOutputsParams:
    """The one constraint that an output obeys from its first token to its last.

    Args:
        json: A JSON schema, as a mapping or as text.
        regex: The whole output matches it.
        choice: The output is one of these strings.
        grammar: Lark, or GBNF as llama.cpp has it.
        json_object: Any JSON object.
        structural_tag: JSON text: free text in which certain tags begin constrained parts.
        disable_any_whitespace: JSON has none outside its strings.
        disable_additional_properties: Objects of the schema have its properties alone, unless it
            says otherwise.
        whitespace_pattern: A regular expression of the whitespace that JSON may have.

    Raises:
        ArgumentError: no constraint is given, or several, or one is malformed.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        self._check_count()
        self._check_kind()
        if self.json is not None:
            self._check_json()

    @property
    def kind(self) -> str:
        """Which of `KINDS` is set."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    def all_constraints_none(self) -> bool:
        """Whether nothing is constrained, which is never so: such an object cannot be made."""
        return all(getattr(self, name) is None for name in KINDS)

    @classmethod
    def of(cls, given: object) -> StructuredOutputsParams:
        """The object itself, or one from a mapping of its fields.

        Raises:
            ArgumentError: it is neither, or a field is unknown.
        """
        if isinstance(given, cls):
            return given
        require(isinstance(given, Mapping), "structured_outputs", "StructuredOutputsParams", given)
        values = dict(given)  # type: ignore[call-overload]  # a mapping, as just checked
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ArgumentError(
                f"structured_outputs has no field {unknown[0]!r}", parameter="structured_outputs"
            )
        return cls(**values)

    def with_defaults(self, config: Mapping[str, Any]) -> StructuredOutputsParams:
        """The same, and what the engine's configuration asks of every request."""
        wanted: dict[str, Any] = {name: True for name in ENGINE_DEFAULTS if config.get(name)}
        if self.whitespace_pattern is not None:
            wanted.pop("disable_any_whitespace", None)
        return replace(self, **wanted) if wanted else self

    def _check_count(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = f"{', '.join(given)} are" if given else "none is"
            raise ArgumentError(
                f"structured_outputs needs exactly one of {', '.join(KINDS)}; {found} given",
                parameter="structured_outputs",
            )

    def _check_kind(self) -> None:
        for name in ("regex", "grammar", "structural_tag", "whitespace_pattern"):
            value = getattr(self, name)
            require(isinstance(value, str | None), name, "a string", value)
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise ArgumentError(
                "whitespace_pattern has no meaning beside disable_any_whitespace=True; drop one",
                parameter="whitespace_pattern",
            )
        require(self.json_object in (None, True, False), "json_object", "a bool", self.json_object)
        if self.choice is not None:
            listed = isinstance(self.choice, list | tuple) and len(self.choice) > 0
            require(listed, "choice", "a list of strings, not empty", self.choice)
            check_strings("choice", self.choice)

    def _check_json(self) -> None:
        schema = self.schema()
        require(isinstance(schema, Mapping | bool), "json", "a JSON schema", schema)
        if _depth(schema) > MAX_NESTING:
            raise ArgumentError(
                f"json is nested more than {MAX_NESTING} levels deep", parameter="json"
            )

    def schema(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        """`json` parsed.

        Raises:
            ArgumentError: it is no JSON.
        """
        if not isinstance(self.json, str):
            return self.json
        try:
            return json_module.loads(self.json)
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"json is not JSON text: {error}", parameter="json") from error


class GuidedDecodingParams(StructuredOutputsParams):
    """The name that vLLM used before 0.12.

    Args:
        values: Those of `StructuredOutputsParams`; a `backend` makes no difference.
    """

    def __init__(self, json: Any = None, **values: Any) -> None:  # noqa: ANN401 - each is checked
        warnings.warn(
            "GuidedDecodingParams is now StructuredOutputsParams", DeprecationWarning, stacklevel=2
        )
        for name in ("backend", "backend_was_auto", "disable_fallback"):
            values.pop(name, None)
        super().__init__(json, **values)


def _depth(value: object) -> int:
    """Levels of nesting, as far as they matter."""
    level, depth = [value], 0
    while level and depth <= MAX_NESTING:
        level = [child for v in level for child in _children(v)]
        depth += 1
    return depth


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
