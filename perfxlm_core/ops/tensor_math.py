"""Arithmetic, elementwise, shapes broadcast as NumPy does.

Floats of 16 bits are calculated with in float32 and rounded once. Where NumPy has a name for the
function, it is the name here.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Annotated

import numpy as np

from perfxlm_core.ops.elementwise import erf as erf_float
from perfxlm_core.ops.elementwise import sigmoid as sigmoid_float
from perfxlm_core.ops.spec import Standard, op
from perfxlm_core.ops.tensor_types import N2, F, N, broadcast_type, rounded
from perfxlm_core.ops.types import Array

NUMBER = Annotated[Array, "*shape", N]
FLOAT = Annotated[Array, "*shape", F]


@op(onnx=Standard("Abs", 13))
def absolute(x: NUMBER) -> NUMBER:
    """`out = |x|`. Source: ONNX Abs-13."""
    return rounded(np.abs, x)


@op(onnx=Standard("Neg", 13))
def negative(x: NUMBER) -> NUMBER:
    """`out = -x`. Source: ONNX Neg-13."""
    return rounded(np.negative, x)


@op(onnx=Standard("Sign", 13))
def sign(x: NUMBER) -> NUMBER:
    """-1, 0 or 1 with the sign of `x`. Source: ONNX Sign-13."""
    return rounded(np.sign, x)


@op(onnx=Standard("Ceil", 13))
def ceil(x: FLOAT) -> FLOAT:
    """The nearest whole number that is not less. Source: ONNX Ceil-13."""
    return rounded(np.ceil, x)


@op(onnx=Standard("Floor", 13))
def floor(x: FLOAT) -> FLOAT:
    """The nearest whole number that is not greater. Source: ONNX Floor-13."""
    return rounded(np.floor, x)


@op(onnx=Standard("Round", 22))
def rint(x: FLOAT) -> FLOAT:
    """The nearest whole number, halves to the even one. Source: ONNX Round-22."""
    return rounded(np.rint, x)


@op(onnx=Standard("Sqrt", 13))
def sqrt(x: FLOAT) -> FLOAT:
    """Square root; not-a-number below zero. Source: ONNX Sqrt-13."""
    return rounded(np.sqrt, x)


@op(onnx=Standard("Reciprocal", 13))
def reciprocal(x: FLOAT) -> FLOAT:
    """`out = 1 / x`. Source: ONNX Reciprocal-13."""
    return rounded(np.reciprocal, x)


@op(onnx=Standard("Exp", 13))
def exp(x: FLOAT) -> FLOAT:
    """`out = e ** x`. Source: ONNX Exp-13."""
    return rounded(np.exp, x)


@op(onnx=Standard("Log", 13))
def log(x: FLOAT) -> FLOAT:
    """Natural logarithm. Source: ONNX Log-13."""
    return rounded(np.log, x)


@op(onnx=Standard("Erf", 13))
def erf(x: NUMBER) -> NUMBER:
    """The error function. Source: ONNX Erf-13."""
    return rounded(erf_float, x)


@op(onnx=Standard("Sigmoid", 13))
def sigmoid(x: FLOAT) -> FLOAT:
    """`out = 1 / (1 + exp(-x))`. Source: ONNX Sigmoid-13."""
    return rounded(sigmoid_float, x)


@op(onnx=Standard("Relu", 14))
def relu(x: NUMBER) -> NUMBER:
    """`out = max(x, 0)`. Source: ONNX Relu-14."""
    return rounded(lambda v: np.maximum(v, 0), x)


@op(onnx=Standard("Sin", 22))
def sin(x: FLOAT) -> FLOAT:
    """Sine of an angle in radians. Source: ONNX Sin-22."""
    return rounded(np.sin, x)


@op(onnx=Standard("Cos", 22))
def cos(x: FLOAT) -> FLOAT:
    """Cosine of an angle in radians. Source: ONNX Cos-22."""
    return rounded(np.cos, x)


@op(onnx=Standard("Tan", 22))
def tan(x: FLOAT) -> FLOAT:
    """Tangent of an angle in radians. Source: ONNX Tan-22."""
    return rounded(np.tan, x)


@op(onnx=Standard("Asin", 22))
def arcsin(x: FLOAT) -> FLOAT:
    """The angle in radians whose sine is `x`. Source: ONNX Asin-22."""
    return rounded(np.arcsin, x)


@op(onnx=Standard("Acos", 22))
def arccos(x: FLOAT) -> FLOAT:
    """The angle in radians whose cosine is `x`. Source: ONNX Acos-22."""
    return rounded(np.arccos, x)


@op(onnx=Standard("Atan", 22))
def arctan(x: FLOAT) -> FLOAT:
    """The angle in radians whose tangent is `x`. Source: ONNX Atan-22."""
    return rounded(np.arctan, x)


@op(onnx=Standard("Sinh", 22))
def sinh(x: FLOAT) -> FLOAT:
    """Hyperbolic sine. Source: ONNX Sinh-22."""
    return rounded(np.sinh, x)


@op(onnx=Standard("Cosh", 22))
def cosh(x: FLOAT) -> FLOAT:
    """Hyperbolic cosine. Source: ONNX Cosh-22."""
    return rounded(np.cosh, x)


@op(onnx=Standard("Tanh", 13))
def tanh(x: FLOAT) -> FLOAT:
    """Hyperbolic tangent. Source: ONNX Tanh-13."""
    return rounded(np.tanh, x)


@op(onnx=Standard("Asinh", 22))
def arcsinh(x: FLOAT) -> FLOAT:
    """Inverse of the hyperbolic sine. Source: ONNX Asinh-22."""
    return rounded(np.arcsinh, x)


@op(onnx=Standard("Acosh", 22))
def arccosh(x: FLOAT) -> FLOAT:
    """Inverse of the hyperbolic cosine. Source: ONNX Acosh-22."""
    return rounded(np.arccosh, x)


@op(onnx=Standard("Atanh", 22))
def arctanh(x: FLOAT) -> FLOAT:
    """Inverse of the hyperbolic tangent. Source: ONNX Atanh-22."""
    return rounded(np.arctanh, x)


@op(onnx=Standard("Swish", 24))
def swish(x: FLOAT, *, alpha: float = 1.0) -> FLOAT:
    """`out = x * sigmoid(alpha * x)`. Source: arXiv:1710.05941; ONNX Swish-24."""
    return rounded(lambda v: v * sigmoid_float(v.dtype.type(alpha) * v), x)


@op(onnx=Standard("SwiGLU", 28))
def swiglu(gate: FLOAT, up: FLOAT, *, alpha: float = 1.0) -> FLOAT:
    """`out = swish(gate) * up`, shapes equal. Source: arXiv:2002.05202; ONNX SwiGLU-28."""
    return rounded(lambda g, u: g * sigmoid_float(g.dtype.type(alpha) * g) * u, gate, up)


# Two inputs, broadcast

NUMBERS = Annotated[Array, "...", N]


@op(onnx=Standard("Add", 14))
def broadcast_add(a: NUMBERS, b: NUMBERS) -> NUMBERS:
    """`out = a + b`. Source: ONNX Add-14."""
    return rounded(np.add, a, b)


@op(onnx=Standard("Sub", 14))
def subtract(a: NUMBERS, b: NUMBERS) -> NUMBERS:
    """`out = a - b`. Source: ONNX Sub-14."""
    return rounded(np.subtract, a, b)


@op(onnx=Standard("Mul", 14))
def multiply(a: NUMBERS, b: NUMBERS) -> NUMBERS:
    """`out = a * b`. Source: ONNX Mul-14."""
    return rounded(np.multiply, a, b)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    down = np.floor_divide(a, b)
    return down + ((np.remainder(a, b) != 0) & ((a < 0) != (b < 0))).astype(down.dtype)


@op(onnx=Standard("Div", 14))
def divide(a: NUMBERS, b: NUMBERS) -> NUMBERS:
    """`out = a / b`; of whole numbers, rounded toward zero. Source: ONNX Div-14."""
    return rounded(_quotient, a, b)


@op(onnx=Standard("Mod", 28))
def remainder(a: NUMBERS, b: NUMBERS, *, fmod: int = 0) -> NUMBERS:
    """What division leaves: the divisor's sign, or the dividend's with `fmod`.

    Source:
        ONNX Mod-28.
    """
    return rounded(np.fmod if fmod else np.mod, a, b)


@op(onnx=Standard("Pow", 15))
def power(x: Annotated[Array, "...", N], y: Annotated[Array, "...", N2]) -> NUMBERS:
    """`out = x ** y` in the dtype of `x`. Source: ONNX Pow-15."""
    with np.errstate(all="ignore"):
        base, exponent = np.asarray(x), np.asarray(y)
        if base.dtype.kind == "V" or base.dtype == np.float16:
            base = base.astype(np.float32)
        if exponent.dtype.kind == "V":
            exponent = exponent.astype(np.float32)
        if base.dtype.kind in "iu" and exponent.dtype.kind == "i":
            exponent = exponent.astype(np.float64) if (exponent < 0).any() else exponent
        return np.power(base, exponent).astype(np.asarray(x).dtype)


# Any number of inputs, broadcast


@op(onnx=Standard("Max", 13))
def maximum(inputs: Sequence[Annotated[Array, "...", N]]) -> NUMBERS:
    """The largest of the inputs, element by element. Source: ONNX Max-13."""
    return reduce(np.maximum, (np.asarray(x) for x in inputs))


@op(onnx=Standard("Min", 13))
def minimum(inputs: Sequence[Annotated[Array, "...", N]]) -> NUMBERS:
    """The smallest of the inputs, element by element. Source: ONNX Min-13."""
    return reduce(np.minimum, (np.asarray(x) for x in inputs))


@op(onnx=Standard("Sum", 13))
def total(inputs: Sequence[Annotated[Array, "...", F]]) -> Annotated[Array, "...", F]:
    """The sum of the inputs, element by element. Source: ONNX Sum-13."""
    return rounded(lambda *v: reduce(np.add, v), *inputs)


@op(onnx=Standard("Mean", 13))
def average(inputs: Sequence[Annotated[Array, "...", F]]) -> Annotated[Array, "...", F]:
    """The mean of the inputs, element by element. Source: ONNX Mean-13."""
    return rounded(lambda *v: reduce(np.add, v) / v[0].dtype.type(len(v)), *inputs)


@op(onnx=Standard("Clip", 13))
def clip(
    x: Annotated[Array, "...", N],
    low: Annotated[Array, "...", N] | None = None,
    high: Annotated[Array, "...", N] | None = None,
) -> NUMBERS:
    """`out = min(max(x, low), high)`; a bound that is left out does not bind.

    Source:
        ONNX Clip-13.
    """
    out = np.asarray(x)
    out = out if low is None else np.maximum(out, np.asarray(low))
    return out if high is None else np.minimum(out, np.asarray(high))


for _op in (broadcast_add, subtract, multiply, divide, remainder, power):
    _op.shapes(broadcast_type())
for _several in (maximum, minimum, total, average):
    _several.shapes(lambda inputs: broadcast_type()(*inputs))
clip.shapes(lambda x, low=None, high=None: (x,))
