"""Forms of operators that move elements by position, and of those that make tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.shape_forms import DTYPES, copied
from perfxlm_core.conformance.shapes import (
    Shape,
    axis,
    elements,
    few,
    one,
    positions,
    shape,
)
from perfxlm_core.conformance.tensor import Facts, Form

NUMBERS = DTYPES[:-1]


def _axis_length(case: Case) -> int:
    return int(case.sizes["x"][case.attrs["axis"]])


def _gather(at: Draws) -> Facts:
    made = shape(at, 1)
    return {"x": made, "indices": shape(at, 0, 2, empty=True)}, {"axis": axis(at, len(made))}


def _gather_elements(at: Draws) -> Facts:
    made = shape(at, 1)
    return {"x": made, "indices": tuple(at.number(1, n) for n in made)}, {
        "axis": axis(at, len(made))
    }


def _gather_nd(at: Draws) -> Facts:
    made = shape(at, 1, 3)
    batch = at.number(0, len(made) - 1)
    depth = at.number(1, len(made) - batch)
    where = (*made[:batch], at.number(1, 5), depth)
    return {"x": made, "indices": where}, {"batch_dims": batch}


def _each_own(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Positions in the axes that the last dimension of the indices names."""
    first = case.attrs.get("batch_dims", 0)
    limits = case.sizes["x"][first : first + shape[-1]]
    return rng.integers(np.negative(limits), limits, shape)


def _scatter_elements(at: Draws) -> Facts:
    sizes, attrs = _gather_elements(at)
    sizes["updates"] = sizes["indices"]
    return sizes, {**attrs, "reduction": at.one_of(["none", "add", "mul", "max", "min"])}


def _once(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Different positions along the axis."""
    at, length = case.attrs["axis"], _axis_length(case)
    wide = list(shape)
    wide[at] = length
    order = rng.permuted(np.broadcast_to(_along(length, at, len(shape)), wide), axis=at)
    made = np.take(order, range(shape[at]), axis=at)
    return np.where(rng.random(shape) < 0.3, made - length, made)


def _along(length: int, at: int, rank: int) -> np.ndarray:
    where = at % rank
    return np.arange(length).reshape([-1 if i == where else 1 for i in range(rank)])


def _scatter_nd(at: Draws) -> Facts:
    made = shape(at, 1, 3)
    depth = at.number(1, len(made))
    count = at.number(1, min(9, elements(made[:depth])))
    sizes = {"x": made, "indices": (count, depth), "updates": (count, *made[depth:])}
    return dict(sizes), {"reduction": at.one_of(["none", "add", "mul", "max", "min"])}


def _places_once(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    limits = case.sizes["x"][: shape[1]]
    flat = rng.permutation(elements(limits))[: shape[0]]
    return np.stack(np.unravel_index(flat, limits), axis=1)


def _tensor_scatter(at: Draws) -> Facts:
    cache = shape(at, 2, 4)
    where = at.number(1, len(cache) - 1)
    new = list(cache)
    new[where] = at.number(1, cache[where])
    sizes: dict[str, Any] = {"cache": cache, "update": tuple(new)}
    mode = at.one_of(["linear", "circular"])
    if at.flag():
        sizes["write_indices"] = (cache[0],)
    return sizes, {"axis": where - len(cache) if at.flag() else where, "mode": mode}


def _first_places(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    at = case.attrs["axis"]
    room = case.sizes["cache"][at]
    if case.attrs["mode"] == "linear":
        room -= case.sizes["update"][at] - 1
    return rng.integers(0, room, shape)


def _compress(at: Draws) -> Facts:
    made = shape(at, 1)
    if at.flag():
        return {"x": made, "condition": (elements(made),)}, {}
    where = axis(at, len(made))
    return {"x": made, "condition": (made[where],)}, {"axis": where}


def _reverse_sequence(at: Draws) -> Facts:
    made, batch = shape(at, 2, 4), at.one_of([0, 1])
    return {"x": made, "lengths": (made[batch],)}, {"batch_axis": batch, "time_axis": 1 - batch}


def _prefixes(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    return rng.integers(0, case.sizes["x"][case.attrs["time_axis"]] + 1, shape)


def _one_hot(at: Draws) -> Facts:
    made = shape(at, 0, 3)
    sizes = {"indices": made, "depth": at.number(1, 17), "values": (2,)}
    return {**sizes, "dtypes": {"indices": "int64", "depth": "int64"}}, {
        "axis": axis(at, len(made) + 1)
    }


def _around_depth(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    depth = case.sizes["depth"]
    return rng.integers(-depth - 2, depth + 2, shape)


def _triangle(at: Draws) -> Facts:
    sizes: dict[str, Any] = {"x": shape(at, 2)}
    if at.flag():
        sizes["k"] = at.number(-9, 9)
    return sizes, {"upper": at.one_of([1, 0])}


def _arange(at: Draws) -> Facts:
    low = 0 if at.variant.dtype.startswith("u") else -20
    delta = at.one_of([1, 2, 3] if low == 0 else [1, 2, 3, -1, -2])
    return {"start": at.number(low, 20), "limit": at.number(low, 60), "delta": delta}, {}


def _full(at: Draws) -> Facts:
    return {"shape": list(shape(at, empty=True))}, {
        "value": at.one_of([0, 1, 3]),
        "dtype": at.one_of(["float32", "float16", "int64", "int32", "bool"]),
    }


def _eye_like(at: Draws) -> Facts:
    return {"x": shape(at, 2, 2)}, {
        "k": at.number(-5, 5),
        "dtype": at.one_of([None, "float32", "int64"]),
    }


def _unique(at: Draws) -> Facts:
    made = shape(at, 1)
    return {"x": made}, {
        "axis": at.one_of([None, at.number(0, len(made) - 1)]),
        "sorted": at.one_of([1, 0]),
    }


def _top_k(at: Draws) -> Facts:
    made = shape(at, 1)
    where = axis(at, len(made))
    ends = {n: at.one_of([1, 0]) for n in ("largest", "sorted")}
    count = at.one_of([1, made[where], at.number(0, made[where])])
    return {"x": made, "k": [count]}, {"axis": where, **ends}


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "gather": copied(_gather, indices=positions(_axis_length)),
        "gather_elements": copied(_gather_elements, indices=positions(_axis_length)),
        "gather_nd": copied(_gather_nd, indices=_each_own),
        "scatter_elements": Form(
            _scatter_elements, exact=True, dtypes=NUMBERS, numbers={"indices": _once}
        ),
        "scatter_nd": Form(
            _scatter_nd, exact=True, dtypes=NUMBERS, numbers={"indices": _places_once}
        ),
        "tensor_scatter": copied(_tensor_scatter, write_indices=_first_places),
        "nonzero": copied(one(), x=few),
        "compress": copied(_compress),
        "reverse_sequence": copied(_reverse_sequence, lengths=_prefixes),
        "one_hot": copied(_one_hot, indices=_around_depth),
        "triangle": copied(_triangle),
        "arange": Form(_arange, exact=True, dtypes=NUMBERS),
        "full": copied(_full),
        "eye_like": copied(_eye_like),
        "unique": Form(_unique, copies=True, dtypes=NUMBERS, numbers={"x": few}),
        "top_k": Form(
            _top_k, copies=True, dtypes=NUMBERS, numbers={"x": few},
            kinds=("normal", "infinite"),
        ),
    }
)  # fmt: skip
"""Operator -> its form."""
