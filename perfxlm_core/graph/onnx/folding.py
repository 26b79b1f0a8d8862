"""What can be calculated while a model is read: shapes and other small constants.

Large constants stay what they are, and nothing that could become large is calculated; a graph is no
place for surprises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfxlm_core.graph.ir import Value
from perfxlm_core.ops.spec import Op

FOLD_LIMIT = 4096
"""Constants of up to this many elements together are calculated with."""
GROWING = frozenset({"full", "expand_to", "tile", "arange", "pad", "one_hot"})
"""Operators whose output's size is in their inputs' values; folded only while it is small."""


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


def _grows(op: Op[..., Any], given: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether calculating now could make a large tensor out of small ones."""
    if op.name not in GROWING:
        return False
    try:
        if op.name in ("full", "expand_to"):
            size = float(np.prod(np.asarray(known["shape"], np.float64)))
        elif op.name == "tile":
            size = float(np.prod(np.asarray(known["repeats"], np.float64))) * known["x"].size
        elif op.name == "arange":
            start, limit, step = (float(np.asarray(known[n])) for n in ("start", "limit", "delta"))
            size = abs((limit - start) / step)
        elif op.name == "one_hot":
            size = float(np.asarray(known["depth"]).reshape(())) * known["indices"].size
        else:
            size = float(np.abs(np.asarray(known["pads"], np.float64)).max(initial=0) + 1) ** 2
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return True
    return not size <= FOLD_LIMIT


def is_static(value: Value) -> bool:
    shape = value.type.shape
    return shape is not None and all(isinstance(n, int) for n in shape)


def dimensions(shape: Sequence[int], attrs: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """What Shape gives for a shape that is known."""
    start, end = attrs["start"], attrs["end"]
    return np.array(shape, np.int64)[slice(start, end)]
