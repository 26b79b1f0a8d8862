"""Products of matrices in any number of dimensions, and of quantized matrices."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.quantization import BYTE, saturate
from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import F, N, broadcast, rounded
from perfxlm_core.ops.types import Array, DTypes

I32_OUT = DTypes("I32_OUT", ("int32",))
BYTE2 = DTypes("BYTE2", BYTE.allowed)


@op(onnx=Standard("MatMul", 13))
def matmul(
    a: Annotated[Array, "...", N], b: Annotated[Array, "...", N]
) -> Annotated[Array, "...", N]:
    """Matrix product of the last two axes, the others broadcast.

    Numerics:
        Sums in float32 at least, one rounding.

    Source:
        ONNX MatMul-13.
    """
    return rounded(np.matmul, a, b)


@matmul.shapes
def _(a: TensorType, b: TensorType) -> tuple[TensorType, ...]:
    if a.shape is None or b.shape is None or len(a.shape) < 2 or len(b.shape) < 2:
        return (TensorType(None, a.dtype),)
    inner = (a.shape[-1], b.shape[-2])
    if all(isinstance(n, int) for n in inner) and inner[0] != inner[1]:
        raise ValueError(f"matmul: {a.shape} by {b.shape}: inner lengths {inner} differ")
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    return (TensorType(None if lead is None else (*lead, a.shape[-2], b.shape[-1]), a.dtype),)


@op(onnx=Standard("Gemm", 13))
def gemm(
    a: Annotated[Array, "...", N],
    b: Annotated[Array, "...", N],
    c: Annotated[Array, "...", N] | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Annotated[Array, "...", N]:
    """`out = alpha * a @ b + beta * c` of two matrices, each transposed first if asked for.

    Numerics:
        Sums in float32 at least, one rounding.

    Source:
        ONNX Gemm-13.
    """

    def body(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
        y = (a.T if transA else a) @ (b.T if transB else b)
        y = y if alpha == 1 else y * y.dtype.type(alpha)
        return y + c[0] * y.dtype.type(beta) if c else y

    return rounded(body, a, b, *(() if c is None else (c,)))


@gemm.shapes
def _(
    a: TensorType,
    b: TensorType,
    c: TensorType | None = None,
    **attrs: Any,  # noqa: ANN401
) -> tuple[TensorType, ...]:
    if a.shape is None or b.shape is None:
        return (TensorType(None, a.dtype),)
    rows, columns = a.shape[1 if attrs["transA"] else 0], b.shape[0 if attrs["transB"] else 1]
    return (TensorType((rows, columns), a.dtype),)


def _centred(x: Any, zero: Any, axis: int) -> np.ndarray:  # noqa: ANN401
    v = np.asarray(x).astype(np.int32)
    if zero is None:
        return v
    z = np.asarray(zero).astype(np.int32)
    if z.ndim == 1 and z.size > 1:
        z = z[:, None] if axis == 0 else z
    return np.asarray(v - z)


@op(onnx=Standard("MatMulInteger", 10))
def matmul_integer(
    a: Annotated[Array, "...", BYTE],
    b: Annotated[Array, "...", BYTE2],
    a_zero: Annotated[Array, "...", BYTE] | None = None,
    b_zero: Annotated[Array, "...", BYTE2] | None = None,
) -> Annotated[Array, "...", I32_OUT]:
    """`(a - a_zero) @ (b - b_zero)` of bytes, exactly, in int32.

    Args:
        a_zero: one, or one for each row.
        b_zero: one, or one for each column.

    Source:
        ONNX MatMulInteger-10.
    """
    return np.matmul(_centred(a, a_zero, 0), _centred(b, b_zero, 1))


@op(onnx=Standard("QLinearMatMul", 21))
def quantized_matmul(
    a: Annotated[Array, "...", BYTE],
    a_scale: Annotated[Array, "...", F],
    a_zero: Annotated[Array, "...", BYTE],
    b: Annotated[Array, "...", BYTE2],
    b_scale: Annotated[Array, "...", F],
    b_zero: Annotated[Array, "...", BYTE2],
    y_scale: Annotated[Array, "...", F],
    y_zero: Annotated[Array, "...", BYTE],
) -> Annotated[Array, "...", BYTE]:
    """The product of two quantized matrices, quantized again.

    Numerics:
        An exact integer product; the scales multiplied in float32.

    Source:
        ONNX QLinearMatMul-21.
    """
    product = np.matmul(_centred(a, a_zero, 0), _centred(b, b_zero, 1))
    scale = (np.asarray(s).astype(np.float32) for s in (a_scale, b_scale, y_scale))
    sa, sb, sy = scale
    y = np.rint(product * (sa * sb / sy)) + np.asarray(y_zero).astype(np.float32)
    return saturate(y, np.asarray(y_zero).dtype)


matmul_integer.shapes(lambda a, b, *_: (TensorType(None, "int32"),))
quantized_matmul.shapes(lambda a, *rest: (TensorType(None, rest[-1].dtype),))


@op(onnx=Standard("Einsum", 28))
def einsum(
    inputs: Sequence[Annotated[Array, "...", N]], *, equation: str
) -> Annotated[Array, "...", N]:
    """Sum of products over the letters that the result lacks, in Einstein's notation.

    Source:
        ONNX Einsum-28; NumPy's `einsum`.
    """
    return rounded(lambda *v: np.einsum(equation, *v), *inputs)


einsum.shapes(lambda inputs, *, equation: (TensorType(None, inputs[0].dtype),))
