"""`EngineArgs`: an engine's arguments as an object, and as flags of a command line."""

from __future__ import annotations

import argparse
import copy
import json
import re
from dataclasses import field, fields, make_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from perfxlm_core.engine.arguments import ARGUMENTS, Argument, Effect, engine_config, refuse_unknown
from perfxlm_core.engine.config import EngineConfig

_SUFFIXES = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _fields(*names: str) -> list[tuple[str, Any, Any]]:
    defaults = ((n, ARGUMENTS[n].default) for n in names)
    return [(n, Any, _field(d)) for n, d in defaults]


def _field(default: Any) -> Any:  # noqa: ANN401 - whatever it is
    """A dataclass's field; a list or a dict is a new one for each object."""
    if isinstance(default, list | dict):
        return field(default_factory=partial(copy.copy, default))
    return field(default=default)


if TYPE_CHECKING:

    class _Fields:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # noqa: ANN401
        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401
        def __setattr__(self, name: str, value: Any) -> None: ...  # noqa: ANN401
else:
    _Fields = make_dataclass(
        "_Fields", _fields(*(n for n in ARGUMENTS if n != "enable_log_requests"))
    )


class EngineArgs(_Fields):
    """Every argument that vLLM's engine knows; what each does here is in `argument_table`.

    A dataclass: `dataclasses.fields`, `asdict` and `replace` work. Values are checked when the
    configuration is made.

    Raises:
        TypeError: an argument that nobody knows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the table's
        refuse_unknown(type(self).__name__, kwargs, self.names())
        super().__init__(*args, **kwargs)

    @classmethod
    def names(cls) -> list[str]:
        """The arguments, in order."""
        return [f.name for f in fields(cls)]  # type: ignore[arg-type]  # a dataclass at run time

    def to_config(self) -> EngineConfig:
        """The engine's settings.

        Raises:
            ArgumentError: a value is not supported, or out of range.
        """
        return engine_config({name: getattr(self, name) for name in self.names()})

    def create_engine_config(self, *_: object, **__: object) -> EngineConfig:
        """The same, by vLLM's name; a usage context makes no difference."""
        return self.to_config()

    @classmethod
    def add_cli_args(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add a flag for each argument: `--max-model-len 4096`, `--no-enable-prefix-caching`."""
        group = parser.add_argument_group(cls.__name__)
        for name in cls.names():
            if not name.startswith("_"):
                _add_flag(group, ARGUMENTS[name])
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """The arguments that a parsed command line has; others keep their defaults."""
        return cls(**{name: getattr(args, name) for name in cls.names() if hasattr(args, name)})


if TYPE_CHECKING:
    _AsyncFields = EngineArgs
else:
    _AsyncFields = make_dataclass(
        "_AsyncFields", _fields("enable_log_requests"), bases=(_Fields,), repr=True
    )


class AsyncEngineArgs(EngineArgs, _AsyncFields):  # type: ignore[misc]  # one base to a checker
    """`EngineArgs`, and `enable_log_requests`."""

    @classmethod
    def add_cli_args(
        cls, parser: argparse.ArgumentParser, async_args_only: bool = False
    ) -> argparse.ArgumentParser:
        """Add a flag for each argument, or only for those that `EngineArgs` lacks."""
        if async_args_only:
            _add_flag(parser, ARGUMENTS["enable_log_requests"])
        else:
            super().add_cli_args(parser)
        return parser


def _add_flag(parser: argparse._ActionsContainer, argument: Argument) -> None:
    flag = f"--{argument.name.replace('_', '-')}"
    default = copy.copy(argument.default)
    help_text = (argument.reason or argument.effect.value).replace("%", "%%")
    if _is_switch(argument):
        switch = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=switch, default=default, help=help_text)
    else:
        parser.add_argument(flag, type=_reader(argument), default=default, help=help_text)


def _is_switch(argument: Argument) -> bool:
    named = argument.name.startswith(("enable_", "disable_", "async_"))
    return isinstance(argument.default, bool) or (argument.default is None and named)


def _reader(argument: Argument) -> Any:  # noqa: ANN401 - a function of text
    if argument.effect is not Effect.ENGINE:
        return _value
    kind = str(EngineConfig.__annotations__[argument.name])
    return next((r for start, r in _READERS.items() if kind.startswith(start)), _value)


def human_int(text: str) -> int:
    """An integer, or one with a suffix: 2k is 2000, 2K is 2048."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG])", text)
    return int(float(found[1]) * _SUFFIXES[found[2]]) if found else int(text)


def _value(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


_READERS = {"int": human_int, "float": float, "str": str, "Mapping": json.loads}
