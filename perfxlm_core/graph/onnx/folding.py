"""What can be calculated while a model is read: shapes and other small constants.

Large constants stay what they are, and nothing that could become large is calculated; a graph is no
place for surprises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from perfxlm_core.graph.ir import Value
from perfxlm_core.ops.spec import Op, TensorType

FOLD_LIMIT = 4096
"""Constants of up to this many elements together are calculated with."""
RESULT_LIMIT = 1 << 16
"""Elements of a result that is calculated."""
SIZED_BY_VALUES = frozenset({"full", "expand_to", "tile", "arange", "one_hot"})
"""Operators whose output's size is in their inputs' values."""
NEVER = frozenset({"pad", "einsum", "convolve"})
"""Operators that can make much out of little, and that shapes are not made by."""


def known_inputs(op: Op[..., Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inputs as arrays if all of them are small plain constants."""
    arrays: dict[str, Any] = {}
    total = 0
    for name, value in given.items():
        several = value if isinstance(value, tuple) else (value,)
        for one in several:
            if one is None:
                continue
            if one.constant is None or one.constant.is_quantized:
                return None
            total += int(np.prod(one.constant.shape, dtype=np.int64))
        if total > FOLD_LIMIT:
            return None
        found = [None if v is None else v.constant.array() for v in several]
        arrays[name] = found if isinstance(value, tuple) else found[0]
    return arrays


def stays_small(op: Op[..., Any], types: Sequence[TensorType], known: Mapping[str, Any]) -> bool:
    """Whether the results for these inputs are small, as far as can be told beforehand."""
    if op.name in NEVER:
        return False
    for kind in types:
        lengths = [n for n in kind.shape or () if isinstance(n, int)]
        if prod(lengths) > RESULT_LIMIT:
            return False
    if op.name not in SIZED_BY_VALUES:
        return True
    try:
        return _size(op.name, known) <= RESULT_LIMIT
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return False


def _size(name: str, known: Mapping[str, Any]) -> float:
    def product(key: str) -> float:
        return float(np.prod(np.asarray(known[key], np.float64)))

    def number(key: str) -> float:
        return float(np.asarray(known[key]).reshape(()))

    if name == "full":
        return product("shape")
    if name == "expand_to":
        return abs(product("shape")) * float(known["x"].size)
    if name == "tile":
        return product("repeats") * float(known["x"].size)
    if name == "one_hot":
        return number("depth") * float(known["indices"].size)
    return abs((number("limit") - number("start")) / number("delta"))


def is_static(value: Value) -> bool:
    """Whether every length of a value's shape is a number."""
    shape = value.type.shape
    return shape is not None and all(isinstance(n, int) for n in shape)


def dimensions(shape: Sequence[int], attrs: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """What Shape gives for a shape that is known."""
    start, end = attrs["start"], attrs["end"]
    return np.array(shape, np.int64)[slice(start, end)]
