"""Checks of single values; each failure names the parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from perfxlm_core.errors import ArgumentError


def require(good: bool, name: str, expected: str, value: object) -> None:
    """Refuse `value` unless it is good.

    Raises:
        ArgumentError: it is not.
    """
    if not good:
        raise ArgumentError(
            f"{name} must be {expected}, got {value!r}.", parameter=name, value=value
        )


def is_int(value: object) -> bool:
    """Whether it is an integer, of Python's or NumPy's, and no bool."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether it is a finite number, and no bool."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return False
    return math.isfinite(value)


def check_ids(name: str, ids: Iterable[object] | None) -> None:
    """Refuse what is not a token id.

    Raises:
        ArgumentError: there is one.
    """
    wrong = [i for i in ids or () if not is_int(i)]
    if wrong:
        raise ArgumentError(
            f"{name} must contain only integers, got {some(wrong)}.", parameter=name, value=ids
        )


def check_strings(name: str, strings: Iterable[object] | str | None) -> None:
    """Refuse what is not a string, or an empty one.

    Raises:
        ArgumentError: there is one.
    """
    for text in strings or ():
        if not isinstance(text, str):
            raise ArgumentError(
                f"{name} must contain only strings, got {text!r}.", parameter=name, value=text
            )
        if not text:
            raise ArgumentError(
                f"{name} cannot contain an empty string.", parameter=name, value=text
            )


def some(values: list[Any]) -> str:
    """The first few of many, for a message."""
    shown = ", ".join(map(repr, values[:5]))
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"
