"""Parsers by name: a table of ours, and entry points for those of other distributions."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from perfxlm_core.errors import ArgumentError, PluginError

T = TypeVar("T")


class Named(Generic[T]):
    """Finds what makes parsers of one kind; nothing is imported before it is asked for.

    Args:
        what: What they are, for messages.
        group: Of entry points.
        table: Name -> `module:name`; an entry point of the same name does not replace it.
    """

    def __init__(self, what: str, group: str, table: Mapping[str, str]) -> None:
        self.what = what
        self.group = group
        self.table = table

    def names(self) -> list[str]:
        """All that can be asked for."""
        return sorted({*self.table, *(point.name for point in entry_points(group=self.group))})

    def find(self, name: str) -> Callable[[], T]:
        """What makes a parser for one answer.

        Raises:
            ArgumentError: there is none of this name.
            PluginError: its distribution is broken.
        """
        if name in self.table:
            module, _, attribute = self.table[name].partition(":")
            return cast("Callable[[], T]", getattr(importlib.import_module(module), attribute))
        for point in entry_points(group=self.group, name=name):
            return self._load(point)
        near = difflib.get_close_matches(name, self.names(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ArgumentError(f"no {self.what} {name!r}; {hint}known: {', '.join(self.names())}")

    def _load(self, point: EntryPoint) -> Callable[[], T]:
        try:
            return cast("Callable[[], T]", point.load())
        except Exception as error:  # a vendor's bug, told as one
            raise PluginError(
                f"{self.what} {point.name!r} ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
