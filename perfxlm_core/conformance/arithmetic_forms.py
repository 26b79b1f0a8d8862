"""Forms of operators that calculate, compare and sum over tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.shapes import (
    above,
    alike,
    along,
    axis,
    between,
    broadcast,
    few,
    narrowed,
    not_zero,
    one,
    positive,
    quarters,
    several,
    several_axes,
    shape,
)
from perfxlm_core.conformance.tensor import Facts, Form
from perfxlm_core.conformance.values import FINITE, integers
from perfxlm_core.ops.types import numpy_dtype

FLOATS = ("float64", "float32", "float16", "bfloat16")
UNBOUNDED = (*FINITE, "infinite")
ASKED = (*FINITE, "infinite", "nan")


def _clip(at: Draws) -> Facts:
    return {"x": shape(at, empty=True), **{n: () for n in ("low", "high") if at.flag()}}, {}


def _reduced(at: Draws) -> Facts:
    made = shape(at)
    sizes: dict[str, Any] = {"x": made}
    if made and at.flag():
        sizes["axes"] = several_axes(at, len(made))
    elif at.flag():
        sizes["axes"] = []
    return sizes, {"keepdims": at.one_of([1, 0]), "noop_with_empty_axes": at.one_of([0, 0, 1])}


def _running(at: Draws) -> Facts:
    made = shape(at, 1)
    flags = {n: at.one_of([0, 1]) for n in ("exclusive", "reverse")}
    return {"x": made, "axis": [axis(at, len(made))]}, flags


def _matmul(at: Draws) -> Facts:
    m, k, n = shape(at, 3, 3)
    lead = shape(at, 0, 2)
    if at.flag():
        m, n = 17, 33
    a, b = (*narrowed(at, lead), m, k), (*narrowed(at, lead), k, n)
    kind = at.one_of(["matrices", "matrices", "left", "right"])
    return {"a": (k,) if kind == "left" else a, "b": (k,) if kind == "right" else b}, {}


def _gemm(at: Draws) -> Facts:
    m, k, n = shape(at, 3, 3)
    left, right = at.one_of([0, 1]), at.one_of([0, 1])
    a, b = (k, m) if left else (m, k), (n, k) if right else (k, n)
    sizes: dict[str, Any] = {"a": a, "b": b}
    if at.flag():
        sizes["c"] = narrowed(at, (m, n))
    factors = {x: at.one_of([1.0, 0.5, -2.0]) for x in ("alpha", "beta")}
    return sizes, {"transA": left, "transB": right, **factors}


def _einsum(at: Draws) -> Facts:
    a, b, c, d = shape(at, 4, 4)
    equation, *shapes = at.one_of(
        [
            ("ij,jk->ik", (a, b), (b, c)),
            ("bij,bkj->bik", (a, b, c), (a, d, c)),
            ("ij->ji", (a, b)),
            ("ii->i", (a, a)),
            ("i,j->ij", (a,), (b,)),
            ("...ij,...jk->...ik", (a, b, c), (a, c, d)),
            ("ij->", (a, b)),
        ]
    )
    return {"inputs": tuple(shapes)}, {"equation": equation}


def _bits_of(case: Any, rng: Any, shape: Any, dtype: str) -> Any:  # noqa: ANN401
    return rng.integers(0, 8 * numpy_dtype(dtype).itemsize - 1, shape)


def _wide(case: Any, rng: Any, shape: Any, dtype: str) -> Any:  # noqa: ANN401
    return integers(rng, shape, dtype, wide=True)


SMOOTH = (
    "exp", "erf", "sigmoid", "sin", "cos", "tan", "arctan", "sinh", "cosh", "tanh", "arcsinh",
)  # fmt: skip
STEPS = ("absolute", "negative", "sign", "ceil", "floor", "rint", "relu")
COMPARED = ("equal", "less", "less_equal", "greater", "greater_equal")

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        **{n: Form(one(), dtypes=FLOATS, kinds=UNBOUNDED) for n in SMOOTH},
        **{n: Form(one(), exact=True, kinds=UNBOUNDED) for n in STEPS},
        "rint": Form(one(), exact=True, numbers={"x": quarters}),
        "sqrt": Form(one(), numbers={"x": above(0.0)}),
        "reciprocal": Form(one(), numbers={"x": not_zero}),
        "log": Form(one(), numbers={"x": above(1e-3)}),
        "arccosh": Form(one(), numbers={"x": above(1.0)}),
        **{
            n: Form(one(), numbers={"x": between(-1, 1)})
            for n in ("arcsin", "arccos")
        },
        "arctanh": Form(one(), numbers={"x": between(-0.99, 0.99)}),
        "swish": Form(one(alpha=[1.0, 1.702, -0.5])),
        "swiglu": Form(alike("gate", "up", alpha=[1.0, 1.702, -0.5])),
        **{n: Form(broadcast("a", "b")) for n in ("broadcast_add", "subtract", "multiply")},
        "divide": Form(broadcast("a", "b"), numbers={"a": quarters, "b": not_zero}),
        "remainder": Form(
            broadcast("a", "b", fmod=[0, 1]), exact=True, numbers={"a": quarters, "b": not_zero}
        ),
        "power": Form(broadcast("x", "y"), numbers={"x": positive, "y": between(0, 3)}),
        **{n: Form(several, exact=True, kinds=UNBOUNDED) for n in ("maximum", "minimum")},
        **{n: Form(several) for n in ("total", "average")},
        "clip": Form(
            _clip, exact=True, kinds=UNBOUNDED,
            numbers={"low": between(-1, 0), "high": between(0, 1)},
        ),
        "isnan": Form(one(), copies=True, kinds=ASKED, dtypes=FLOATS),
        "isinf": Form(
            one(detect_negative=[1, 0], detect_positive=[1, 0]), copies=True, kinds=ASKED,
            dtypes=FLOATS,
        ),
        "logical_not": Form(one(), copies=True),
        "bitwise_invert": Form(one(), copies=True),
        **{
            n: Form(broadcast("a", "b"), copies=True, numbers={"a": few, "b": few}, kinds=ASKED)
            for n in COMPARED
        },
        **{
            n: Form(broadcast("a", "b"), copies=True)
            for n in (
                "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or",
                "bitwise_xor",
            )
        },
        "bit_shift": Form(
            broadcast("x", "by", direction=["LEFT", "RIGHT"]), copies=True,
            numbers={"x": _wide, "by": _bits_of},
        ),
        "where": Form(broadcast("condition", "a", "b"), copies=True),
        "reduce_sum": Form(_reduced),
        **{
            n: Form(_reduced, dtypes=FLOATS)
            for n in ("reduce_mean", "reduce_l2", "reduce_log_sum_exp")
        },
        "reduce_prod": Form(_reduced),
        **{n: Form(_reduced, exact=True, kinds=UNBOUNDED) for n in ("reduce_max", "reduce_min")},
        **{
            n: Form(
                along(keepdims=[1, 0], select_last_index=[0, 1]), copies=True,
                numbers={"x": few}, kinds=UNBOUNDED,
            )
            for n in ("argmax", "argmin")
        },
        "cumulative_sum": Form(_running),
        "cumulative_product": Form(_running),
        "hardmax": Form(along(), copies=True, numbers={"x": few}, kinds=UNBOUNDED),
        "matmul": Form(_matmul),
        "gemm": Form(_gemm, dtypes=FLOATS),
        "einsum": Form(_einsum),
    }
)  # fmt: skip
"""Operator -> its form."""
