"""Operators that treat each element by itself, activation functions among them."""

import math
from typing import Annotated

import numpy as np

from perfxlm_core.ops.numerics import as_type, compute
from perfxlm_core.ops.spec import Standard, op
from perfxlm_core.ops.types import Array, T


@op(onnx=Standard("Add", 14), batch_invariant=True)
def add(
    a: Annotated[Array, "*batch", T], b: Annotated[Array, "*batch", T]
) -> Annotated[Array, "*batch", T]:
    """`out = a + b`, shapes equal.

    Source:
        ONNX Add-14, without broadcasting.
    """
    return as_type(compute(a) + compute(b), a)


@op(onnx=Standard("Mul", 14), batch_invariant=True)
def mul(
    a: Annotated[Array, "*batch", T], b: Annotated[Array, "*batch", T]
) -> Annotated[Array, "*batch", T]:
    """`out = a * b`, shapes equal.

    Source:
        ONNX Mul-14, without broadcasting.
    """
    return as_type(compute(a) * compute(b), a)


@op(batch_invariant=True)
def scale(
    x: Annotated[Array, "*batch", T], *, factor: float, offset: float = 0.0
) -> Annotated[Array, "*batch", T]:
    """`out = x * factor + offset`.

    Source:
        Embedding and logit multipliers of many families; ONNX Mul-14 and Add-14 by constants.
    """
    v = compute(x)
    return as_type(v * v.dtype.type(factor) + v.dtype.type(offset), x)


@op(batch_invariant=True)
def soft_cap(x: Annotated[Array, "*batch", T], *, cap: float) -> Annotated[Array, "*batch", T]:
    """`out = cap * tanh(x / cap)`: large values saturate smoothly.

    Source:
        Bello et al. 2016, arXiv:1611.09940, section 5.
    """
    v = compute(x)
    return as_type(np.tanh(v / v.dtype.type(cap)) * v.dtype.type(cap), x)


def sigmoid(v: np.ndarray) -> np.ndarray:
    """Logistic function without overflow for large negative arguments."""
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1, e) / (1 + e)


@op(onnx=Standard("Swish", 24), batch_invariant=True)
def silu(x: Annotated[Array, "*batch", T]) -> Annotated[Array, "*batch", T]:
    """`out = x * sigmoid(x)`.

    Source:
        Ramachandran et al. 2017, arXiv:1710.05941; ONNX Swish-24.
    """
    v = compute(x)
    return as_type(v * sigmoid(v), x)


@op(onnx=Standard("SwiGLU", 28), batch_invariant=True)
def silu_and_mul(
    gate: Annotated[Array, "*batch", T], up: Annotated[Array, "*batch", T]
) -> Annotated[Array, "*batch", T]:
    """`out = gate * sigmoid(gate) * up`: the gate of a SwiGLU feed-forward.

    Source:
        Shazeer 2020, arXiv:2002.05202; ONNX SwiGLU-28.
    """
    v = compute(gate)
    return as_type(v * sigmoid(v) * compute(up), gate)


def _gelu(v: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        inner = np.sqrt(2 / np.pi).astype(v.dtype) * (v + v.dtype.type(0.044715) * v**3)
        return v * v.dtype.type(0.5) * (1 + np.tanh(inner))
    return v * v.dtype.type(0.5) * erfc(-v / np.sqrt(v.dtype.type(2)))


def erf(v: np.ndarray) -> np.ndarray:
    """The error function, elementwise, correctly rounded but for the last place."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(v)).astype(v.dtype)


def erfc(v: np.ndarray) -> np.ndarray:
    """`1 - erf(v)` without cancellation for large arguments."""
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(v)).astype(v.dtype)


def _known_form(dims: dict[str, int], *, approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate={approximate!r}, want 'none' or 'tanh'")


@op(
    onnx=Standard("Gelu", 20, approximate="approximate"),
    requires=_known_form,
    batch_invariant=True,
)
def gelu(
    x: Annotated[Array, "*batch", T], *, approximate: str = "none"
) -> Annotated[Array, "*batch", T]:
    """`out = x * P(N(0, 1) <= x)`, or its tanh approximation.

    Args:
        approximate: "none" for the exact form, "tanh" for the usual approximation.

    Source:
        Hendrycks and Gimpel 2016, arXiv:1606.08415; ONNX Gelu-20.
    """
    return as_type(_gelu(compute(x), approximate), x)


@op(requires=_known_form, batch_invariant=True)
def gelu_and_mul(
    gate: Annotated[Array, "*batch", T],
    up: Annotated[Array, "*batch", T],
    *,
    approximate: str = "none",
) -> Annotated[Array, "*batch", T]:
    """`out = gelu(gate) * up`: the gate of a GEGLU feed-forward.

    Source:
        Shazeer 2020, arXiv:2002.05202.
    """
    return as_type(_gelu(compute(gate), approximate) * compute(up), gate)
