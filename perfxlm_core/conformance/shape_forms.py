"""Forms of operators on the form of tensors: shapes, axes, pieces, repetition and padding."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.shapes import (
    axis,
    elements,
    narrowed,
    one,
    permutation,
    several_axes,
    shape,
)
from perfxlm_core.conformance.tensor import Facts, Form, Numbers, Shapes

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")


def copied(shapes: Shapes, **numbers: Numbers) -> Form:
    """The form of an operator that copies elements; the content of some inputs by name."""
    return Form(shapes, copies=True, dtypes=DTYPES, numbers=numbers)


def _shape_of(at: Draws) -> Facts:
    return {"x": shape(at, empty=True)}, {
        "start": at.number(-5, 5),
        "end": at.one_of([None, *range(-5, 6)]),
    }


def _factors(at: Draws, count: int) -> list[int]:
    """Lengths whose product is `count`."""
    found: list[int] = []
    for n in (2, 3, 5, 7):
        if count and count % n == 0 and at.flag():
            found.append(n)
            count //= n
    return [*found, count]


def _reshape(at: Draws) -> Facts:
    made = shape(at, empty=True)
    want = _factors(at, elements(made))
    if elements(made) and at.flag():
        want[at.number(0, len(want) - 1)] = -1
    return {"x": made}, {"shape": tuple(want)}


def _reshape_to(at: Draws) -> Facts:
    sizes, attrs = _reshape(at)
    want, made = list(attrs["shape"]), sizes["x"]
    if 0 not in made and made and want[0] == made[0] and at.flag():
        want[0] = 0
    return {**sizes, "shape": want}, {"allowzero": 1 if 0 in made else 0}


def _flatten(at: Draws) -> Facts:
    made = shape(at, empty=True)
    return {"x": made}, {"axis": at.number(-len(made), len(made))}


def _transpose(at: Draws) -> Facts:
    made = shape(at, empty=True)
    if at.flag():  # all alike: the wrong order then gives a result of the right shape
        made = made[:1] * len(made)
    return {"x": made}, {"perm": permutation(at, len(made)) if at.flag() else None}


def _squeeze(at: Draws) -> Facts:
    made = tuple(1 if at.flag() else n for n in shape(at))
    ones = [i for i, n in enumerate(made) if n == 1]
    if at.flag():
        return {"x": made}, {}
    return {"x": made, "axes": [i - len(made) if at.flag() else i for i in ones if at.flag()]}, {}


def _unsqueeze(at: Draws) -> Facts:
    made, rank = shape(at, 0, 3, empty=True), at.number(1, 2)
    order = permutation(at, len(made) + rank)[:rank]
    return {"x": made, "axes": [a - len(made) - rank if at.flag() else a for a in order]}, {}


def _concat(at: Draws) -> Facts:
    made = shape(at, 1)
    where = axis(at, len(made))
    parts = []
    for _ in range(at.number(1, 3)):
        part = list(made)
        part[where] = at.one_of([1, 2, 3, 8, 17, 0])
        parts.append(tuple(part))
    return {"inputs": tuple(parts)}, {"axis": where}


def _expand(at: Draws) -> Facts:
    full = shape(at)
    return {"x": narrowed(at, full), "shape": list(narrowed(at, full) if at.flag() else full)}, {}


def _tile(at: Draws) -> Facts:
    made = shape(at)
    return {"x": made, "repeats": [at.one_of([1, 2, 3, 0]) for _ in made]}, {}


def _slice(at: Draws) -> Facts:
    made = shape(at, 1)
    axes = several_axes(at, len(made)) if at.flag() else list(range(at.number(1, len(made))))
    far = 2**31 - 1
    sizes: dict[str, Any] = {
        "x": made,
        "starts": [at.number(-made[a] - 2, made[a] + 2) for a in axes],
        "ends": [at.one_of([at.number(-made[a] - 2, made[a] + 2), far, -far]) for a in axes],
    }
    if axes != list(range(len(axes))) or at.flag():
        sizes["axes"] = axes
    if at.flag():
        sizes["steps"] = [at.one_of([1, 2, 3, -1, -2]) for _ in axes]
    return sizes, {}


def _pad(at: Draws) -> Facts:
    made = tuple(n + 1 for n in shape(at, 1))
    mode = at.one_of(["constant", "constant", "edge", "reflect", "wrap"])
    axes = several_axes(at, len(made)) if at.flag() else None
    low = -1 if mode == "constant" else 0
    pads = [at.one_of([0, 1, low]) for _ in range(2 * len(axes or made))]
    sizes: dict[str, Any] = {"x": made, "pads": pads}
    if axes is not None:
        sizes["axes"] = axes
    if mode == "constant" and at.flag():
        sizes["value"] = ()
    return sizes, {"mode": mode}


def _depth(at: Draws) -> Facts:
    n, block = at.number(1, 2), at.one_of([2, 3])
    plane = (at.number(1, 5), at.number(1, 5))
    return {"x": (n, at.number(1, 3) * block**2, *plane)}, {
        "blocksize": block,
        "mode": at.one_of(["DCR", "CRD"]),
    }


def _space(at: Draws) -> Facts:
    block = at.one_of([2, 3])
    made = (at.number(1, 2), at.number(1, 3), block * at.number(1, 4), block * at.number(1, 4))
    return {"x": made}, {"blocksize": block}


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "identity": copied(one()),
        "shape_of": copied(_shape_of),
        "size_of": copied(one()),
        "reshape": copied(_reshape),
        "reshape_to": copied(_reshape_to),
        "flatten": copied(_flatten),
        "transpose": copied(_transpose),
        "squeeze": copied(_squeeze),
        "unsqueeze": copied(_unsqueeze),
        "concat": copied(_concat),
        "expand_to": copied(_expand),
        "tile": copied(_tile),
        "slice_axes": copied(_slice),
        "pad": copied(_pad),
        "depth_to_space": copied(_depth),
        "space_to_depth": copied(_space),
    }
)
"""Operator -> its form."""
