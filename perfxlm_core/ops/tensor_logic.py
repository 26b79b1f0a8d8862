"""Comparison, logic and bits, elementwise, shapes broadcast as NumPy does."""

from typing import Annotated

import numpy as np

from perfxlm_core.ops.spec import Standard, op
from perfxlm_core.ops.tensor_types import B, E, F, K, N, broadcast_type
from perfxlm_core.ops.types import Array, DTypes

FLOAT_OR_SMALL = DTypes("S", (*F.allowed, *(n for n in E.allowed if n.startswith("float8"))))
"""Floats for which infinity and not-a-number are asked about."""

NUMBERS = Annotated[Array, "...", N]
LOGICAL = Annotated[Array, "...", B]
BITS = Annotated[Array, "...", K]
ANYTHING = Annotated[Array, "...", E]


@op(onnx=Standard("IsNaN", 20))
def isnan(x: Annotated[Array, "*shape", FLOAT_OR_SMALL]) -> Annotated[Array, "*shape", B]:
    """Whether each element is not a number. Source: ONNX IsNaN-20."""
    return np.isnan(np.asarray(x))


@op(onnx=Standard("IsInf", 20))
def isinf(
    x: Annotated[Array, "*shape", FLOAT_OR_SMALL],
    *,
    detect_negative: int = 1,
    detect_positive: int = 1,
) -> Annotated[Array, "*shape", B]:
    """Whether each element is an infinity of a sign asked for. Source: ONNX IsInf-20."""
    v = np.asarray(x)
    found = np.isinf(v)
    v = v.astype(np.float32) if v.dtype.kind == "V" else v
    return found & (((v < 0) & bool(detect_negative)) | ((v > 0) & bool(detect_positive)))


@op(onnx=Standard("Not", 1))
def logical_not(x: Annotated[Array, "*shape", B]) -> Annotated[Array, "*shape", B]:
    """True where `x` is false. Source: ONNX Not-1."""
    return np.logical_not(np.asarray(x))


@op(onnx=Standard("BitwiseNot", 18))
def bitwise_invert(x: Annotated[Array, "*shape", K]) -> Annotated[Array, "*shape", K]:
    """Every bit turned over. Source: ONNX BitwiseNot-18."""
    return np.invert(np.asarray(x))


@op(onnx=Standard("Equal", 19))
def equal(a: ANYTHING, b: ANYTHING) -> LOGICAL:
    """`out = a == b`. Source: ONNX Equal-19."""
    return np.equal(np.asarray(a), np.asarray(b))


@op(onnx=Standard("Less", 13))
def less(a: NUMBERS, b: NUMBERS) -> LOGICAL:
    """`out = a < b`. Source: ONNX Less-13."""
    return np.less(np.asarray(a), np.asarray(b))


@op(onnx=Standard("LessOrEqual", 16))
def less_equal(a: NUMBERS, b: NUMBERS) -> LOGICAL:
    """`out = a <= b`. Source: ONNX LessOrEqual-16."""
    return np.less_equal(np.asarray(a), np.asarray(b))


@op(onnx=Standard("Greater", 13))
def greater(a: NUMBERS, b: NUMBERS) -> LOGICAL:
    """`out = a > b`. Source: ONNX Greater-13."""
    return np.greater(np.asarray(a), np.asarray(b))


@op(onnx=Standard("GreaterOrEqual", 16))
def greater_equal(a: NUMBERS, b: NUMBERS) -> LOGICAL:
    """`out = a >= b`. Source: ONNX GreaterOrEqual-16."""
    return np.greater_equal(np.asarray(a), np.asarray(b))


@op(onnx=Standard("And", 7))
def logical_and(a: LOGICAL, b: LOGICAL) -> LOGICAL:
    """True where both are. Source: ONNX And-7."""
    return np.logical_and(np.asarray(a), np.asarray(b))


@op(onnx=Standard("Or", 7))
def logical_or(a: LOGICAL, b: LOGICAL) -> LOGICAL:
    """True where one is. Source: ONNX Or-7."""
    return np.logical_or(np.asarray(a), np.asarray(b))


@op(onnx=Standard("Xor", 7))
def logical_xor(a: LOGICAL, b: LOGICAL) -> LOGICAL:
    """True where exactly one is. Source: ONNX Xor-7."""
    return np.logical_xor(np.asarray(a), np.asarray(b))


@op(onnx=Standard("BitwiseAnd", 18))
def bitwise_and(a: BITS, b: BITS) -> BITS:
    """Bits that both have. Source: ONNX BitwiseAnd-18."""
    return np.bitwise_and(np.asarray(a), np.asarray(b))


@op(onnx=Standard("BitwiseOr", 18))
def bitwise_or(a: BITS, b: BITS) -> BITS:
    """Bits that one has. Source: ONNX BitwiseOr-18."""
    return np.bitwise_or(np.asarray(a), np.asarray(b))


@op(onnx=Standard("BitwiseXor", 18))
def bitwise_xor(a: BITS, b: BITS) -> BITS:
    """Bits that exactly one has. Source: ONNX BitwiseXor-18."""
    return np.bitwise_xor(np.asarray(a), np.asarray(b))


def _known_direction(dims: object, *, direction: str) -> None:
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction={direction!r}, want 'NUMBERS' or 'RIGHT'")


@op(onnx=Standard("BitShift", 28), requires=_known_direction)
def bit_shift(x: BITS, by: BITS, *, direction: str) -> BITS:
    """`x` moved by that many bits; zeros, or copies of the sign, come in.

    Source:
        ONNX BitShift-28.
    """
    shift = np.left_shift if direction == "LEFT" else np.right_shift
    return shift(np.asarray(x), np.asarray(by))


@op(onnx=Standard("Where", 16))
def where(
    condition: LOGICAL, a: Annotated[Array, "...", E], b: Annotated[Array, "...", E]
) -> Annotated[Array, "...", E]:
    """`a` where the condition holds, else `b`. Source: ONNX Where-16."""
    return np.where(np.asarray(condition), np.asarray(a), np.asarray(b))


for _bits in (bitwise_and, bitwise_or, bitwise_xor, bit_shift):
    _bits.shapes(broadcast_type())
for _truth in (
    equal, less, less_equal, greater, greater_equal, logical_and, logical_or, logical_xor,
):  # fmt: skip
    _truth.shapes(broadcast_type("bool"))
where.shapes(lambda condition, a, b: broadcast_type(a.dtype)(condition, a, b))
