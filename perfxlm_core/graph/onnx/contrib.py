"""Operators outside of the standard that exporters write, and our own functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

CONTRIB: Mapping[tuple[str, str], Callable[[Any], Any]] = MappingProxyType({})
"""(domain, operator) -> rule."""

if TYPE_CHECKING:
    pass
