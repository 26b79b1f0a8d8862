"""Changes of dtype: casts, and numbers stored as small codes with a scale."""

from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import (
    E2,
    INTEGERS,
    SMALL_FLOATS,
    SMALL_INTEGERS,
    E,
    F,
    axis_of,
)
from perfxlm_core.ops.types import F32, Array, DTypes, W, dtype_name, numpy_dtype

BYTE = DTypes("BYTE", ("int8", "uint8", *(n for n in SMALL_FLOATS if n.startswith("float8"))))
"""Codes of eight bits."""
CODE = DTypes("CODE", ("int32", "int16", "int8", "uint16", "uint8", *SMALL_INTEGERS, *SMALL_FLOATS))
"""What quantized elements are stored as."""
CODE2 = DTypes("CODE2", CODE.allowed)
SCALE = DTypes("SCALE", (*F.allowed, "float8_e8m0fnu"))
"""Scales of quantized elements."""
SOURCE = DTypes("SOURCE", (*F.allowed, "int32"))
CODE_OR_FLOAT = DTypes("CODE_OR_FLOAT", (*CODE.allowed, *F.allowed))
U8 = DTypes("U8", ("uint8",))


def saturate(v: Any, dtype: Any) -> np.ndarray:  # noqa: ANN401
    """Numbers in a smaller dtype, those out of range as its nearest end.

    Fractions are cut off for integers, rounded to nearest even for floats.
    """
    import ml_dtypes

    target, v = np.dtype(dtype), np.asarray(v)
    name = dtype_name(target)
    number_info: Any = ml_dtypes.iinfo if name in (*INTEGERS, *SMALL_INTEGERS) else ml_dtypes.finfo
    info = number_info(target)
    low, high = (np.asarray(n).astype(v.dtype) for n in (info.min, info.max))
    return np.asarray(np.clip(v, low, high).astype(target))


def _power_of_two(v: np.ndarray, mode: str, saturating: bool) -> np.ndarray:
    """Floats as exponents alone (float8_e8m0fnu): bits of the exponent, rounded as `mode` says."""
    bits = v.astype(np.float32).view(np.uint32)
    exponent = ((bits >> 23) & 0xFF).astype(np.int64)
    fraction = bits & 0x7FFFFF
    round_bit, sticky = fraction >> 22 & 1, fraction & 0x3FFFFF
    if mode == "up":
        more = fraction > 0
    elif mode == "nearest":
        more = (round_bit == 1) & ((sticky > 0) | (exponent > 0))
    else:
        more = np.zeros(v.shape, bool)
    special = exponent == 255
    exponent = exponent + (more & ~special)
    if saturating:
        exponent = np.where(special & ~np.isnan(v), 254, np.minimum(exponent, 254))
    exponent = np.where(np.isnan(v), 255, np.minimum(exponent, 255))
    return exponent.astype(np.uint8).view(numpy_dtype("float8_e8m0fnu"))


def _known_mode(
    dims: object,
    *,
    to: str,
    saturate: int = 1,
    round_mode: str = "up",
) -> None:
    if round_mode not in ("up", "down", "nearest"):
        raise ValueError(f"round_mode={round_mode!r}, want up, down or nearest")
    if to not in E.allowed:
        raise ValueError(f"to={to!r} is not a dtype")


@op(onnx=Standard("Cast", 28), requires=_known_mode)
def cast(
    x: Annotated[Array, "...", E], *, to: str, saturate: int = 1, round_mode: str = "up"
) -> Annotated[Array, "...", E2]:
    """Elements in another dtype: floats to nearest even, fractions cut off for integers.

    Args:
        to: the dtype's name.
        saturate: floats of 8 bits take their largest value for what is out of their range,
            rather than infinity or not-a-number.
        round_mode: of float8_e8m0fnu, which holds powers of two: "up", "down" or "nearest".

    Source:
        ONNX Cast-28.
    """
    v, target = np.asarray(x), numpy_dtype(to)
    with np.errstate(all="ignore"):
        if to == "float8_e8m0fnu":
            return _power_of_two(v, round_mode, bool(saturate))
        if to.startswith("float8") and saturate:
            return _saturate(v.astype(np.float32, copy=False), target)
        if to in SMALL_INTEGERS and v.dtype.kind in "fV":
            v = v.astype(np.float32).astype(np.int32)
        if v.dtype.kind == "V" and target.kind == "V":
            v = v.astype(np.float32)
        return v.astype(target)


_saturate = saturate
cast.shapes(lambda x, *, to, **_: (TensorType(x.shape, to),))


def _same_bits(dims: object, *, to: str) -> None:
    if to not in E.allowed:
        raise ValueError(f"to={to!r} is not a dtype")


@op(onnx=Standard("BitCast", 26), requires=_same_bits)
def bit_cast(x: Annotated[Array, "...", E], *, to: str) -> Annotated[Array, "...", E2]:
    """The same bits read as another dtype of the same width. Source: ONNX BitCast-26."""
    v = np.asarray(x)
    if v.dtype.itemsize != numpy_dtype(to).itemsize:
        raise ValueError(f"{dtype_name(v.dtype)} and {to} differ in width")
    return np.ascontiguousarray(v).view(numpy_dtype(to)).reshape(v.shape)


bit_cast.shapes(lambda x, *, to: (TensorType(x.shape, to),))


def spread(scale: Any, shape: tuple[int, ...], axis: int, block_size: int) -> np.ndarray:  # noqa: ANN401
    """Scales or zero points laid out along the tensor that they belong to.

    One for all; one for each position of `axis`; or one for each `block_size` neighbours there.

    Raises:
        ValueError: their shape is none of these.
    """
    s = np.asarray(scale)
    if s.ndim == 0 or (s.size == 1 and not block_size):
        return s.reshape(())
    at = axis_of(axis, len(shape))
    if block_size:
        wide = np.repeat(s, min(block_size, shape[at]), axis=at)
        wide = wide[tuple(slice(n) for n in shape)]
        if wide.shape != shape:
            raise ValueError(f"scales {s.shape} of blocks of {block_size} for {shape}")
        return wide
    if s.ndim != 1 or len(s) != shape[at]:
        raise ValueError(f"scales {s.shape} for axis {at} of {shape}")
    return s.reshape([-1 if i == at else 1 for i in range(len(shape))])


def _wide(x: Any) -> np.ndarray:  # noqa: ANN401
    """Codes or scales as numbers that NumPy calculates with: int32, float32 or float64."""
    v = np.asarray(x)
    name = dtype_name(v.dtype)
    if name == "float64":
        return v
    return v.astype(np.int32 if name in (*INTEGERS, *SMALL_INTEGERS) else np.float32)


@op(onnx=Standard("DequantizeLinear", 28))
def dequantize_linear(
    x: Annotated[Array, "...", CODE],
    scale: Annotated[Array, "...", SCALE],
    zero_point: Annotated[Array, "...", CODE] | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str | None = None,
) -> Annotated[Array, "...", F]:
    """`out = (x - zero_point) * scale`.

    Args:
        scale: one for all, one for each position of `axis`, or one for each block.
        block_size: neighbours along `axis` that share a scale; 0 for none.
        output_dtype: the scale's when left out.

    Numerics:
        The difference is exact, the product in float32, one rounding.

    Source:
        ONNX DequantizeLinear-28.
    """
    v = _wide(x)
    if zero_point is not None:
        v = v - spread(_wide(zero_point), v.shape, axis, block_size)
    factor = spread(_wide(scale), v.shape, axis, block_size)
    out = v.astype(factor.dtype) * factor
    return out.astype(
        np.asarray(scale).dtype if output_dtype is None else numpy_dtype(output_dtype)
    )


@dequantize_linear.shapes
def _(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None = None,
    *,
    output_dtype: str | None = None,
    **_: Any,  # noqa: ANN401
) -> tuple[TensorType, ...]:
    return (TensorType(x.shape, scale.dtype if output_dtype is None else output_dtype),)


@op(onnx=Standard("QuantizeLinear", 28))
def quantize_linear(
    x: Annotated[Array, "...", SOURCE],
    scale: Annotated[Array, "...", SCALE],
    zero_point: Annotated[Array, "...", CODE] | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str | None = None,
    precision: str | None = None,
    saturate: int = 1,
) -> Annotated[Array, "...", CODE2]:
    """`out = saturate(round(x / scale) + zero_point)`, halves to even.

    Args:
        scale: see `dequantize_linear`, as for `axis` and `block_size`.
        output_dtype: the zero point's when left out, and uint8 without one.
        precision: dtype of the quotient; the scale's when left out.
        saturate: see `cast`.

    Source:
        ONNX QuantizeLinear-28.
    """
    v = np.asarray(x)
    named = "uint8" if zero_point is None else dtype_name(np.asarray(zero_point).dtype)
    target = numpy_dtype(named if output_dtype is None else output_dtype)
    kind = np.asarray(scale).dtype if precision is None else numpy_dtype(precision)
    factor = spread(_wide(scale), v.shape, axis, block_size)
    with np.errstate(all="ignore"):
        y = (v.astype(factor.dtype) / factor).astype(kind)
        y = y.astype(np.float32) if y.dtype.kind == "V" or y.dtype == np.float16 else y
        if dtype_name(target) in SMALL_FLOATS:
            if zero_point is not None:
                y = y + spread(_wide(zero_point), v.shape, axis, block_size)
            return _saturate(y, target) if saturate else y.astype(target)
        y = np.rint(y)
        if zero_point is not None:
            y = y + spread(_wide(zero_point), v.shape, axis, block_size)
        return _saturate(y, target)


@quantize_linear.shapes
def _(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None = None,
    *,
    output_dtype: str | None = None,
    **_: Any,  # noqa: ANN401
) -> tuple[TensorType, ...]:
    named = "uint8" if zero_point is None else zero_point.dtype
    return (TensorType(x.shape, named if output_dtype is None else output_dtype),)


@op(onnx=Standard("DynamicQuantizeLinear", 11), outputs=("out", "scale", "zero_point"))
def dynamic_quantize_linear(
    x: Annotated[Array, "...", F32],
) -> tuple[Annotated[Array, "...", U8], Annotated[Array, "...", F32], Annotated[Array, "...", U8]]:
    """Bytes, their scale and zero point, from the range of the values, which takes in 0.

        scale = (max(x, 0) - min(x, 0)) / 255, zero_point = saturate(round(-min(x, 0) / scale))

    Source:
        ONNX DynamicQuantizeLinear-11.
    """
    v = np.asarray(x)
    low, high = min(v.min(initial=0), v.dtype.type(0)), max(v.max(initial=0), v.dtype.type(0))
    scale = np.asarray((high - low) / v.dtype.type(255))
    with np.errstate(all="ignore"):
        zero = _saturate(np.rint(-low / scale) if scale else np.zeros_like(scale), np.uint8)
        out = _saturate(np.rint(v / scale) + zero if scale else np.zeros_like(v) + zero, np.uint8)
    return out, scale, zero


def _known_bits(dims: object, *, bits: int, block_size: int, **_: Any) -> None:  # noqa: ANN401
    if bits not in (2, 4, 8):
        raise ValueError(f"bits={bits}, want 2, 4 or 8")
    if block_size < 8 or block_size & (block_size - 1):
        raise ValueError(f"block_size={block_size}, want a power of two, at least 8")


def _fields(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bit fields of bytes along the last axis, lowest first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & (1 << bits) - 1).reshape(*packed.shape[:-1], -1)


@op(requires=_known_bits)
def dequantize_bits(
    codes: Annotated[Array, "rows blocks bytes", U8],
    scales: Annotated[Array, "...", F],
    zero_points: Annotated[Array, "...", CODE_OR_FLOAT] | None = None,
    *,
    bits: int,
    block_size: int,
    columns: int,
) -> Annotated[Array, "rows columns", F]:
    """`out = (code - zero_point) * scale` of codes packed into bytes, lowest bits first.

    Args:
        codes: the bytes of each block.
        scales: one for each block of each row.
        zero_points: one for each block, packed like the codes (a row filled up to a whole byte),
            or as floats; `2 ** (bits - 1)` when left out.
        columns: weights of a row; the last block may be longer.

    Source:
        com.microsoft MatMulNBits-1 of ONNX Runtime.
    """
    packed = np.asarray(codes)
    rows, blocks, _ = packed.shape
    numbers = _fields(packed, bits)[..., :block_size].astype(np.float32)
    zeros: Any = np.float32(1 << bits - 1)
    if zero_points is not None:
        zeros = np.asarray(zero_points)
        if zeros.dtype == np.uint8:
            zeros = _fields(zeros.reshape(rows, -1), bits)[:, :blocks]
        zeros = zeros.reshape(rows, blocks, 1).astype(np.float32)
    factor = np.asarray(scales).astype(np.float32).reshape(rows, blocks, 1)
    weights = ((numbers - zeros) * factor).reshape(rows, -1)[:, :columns]
    return weights.astype(np.asarray(scales).dtype)


dequantize_bits.shapes(
    lambda codes, scales, zero_points=None, *, columns, **_: (
        TensorType(None if codes.shape is None else (codes.shape[0], columns), scales.dtype),
    )
)


@op()
def decode_blocks(weight: Annotated[Array, "*shape", W]) -> Annotated[Array, "*shape", F32]:
    """The numbers of a weight in any format, as float32.

    Source:
        `QuantFormat.dequantize`; in an ONNX file, a function of domain ai.perfxlm for each format.
    """
    return weight.float32() if isinstance(weight, Tensor) else np.asarray(weight, np.float32)


decode_blocks.shapes(lambda weight: (TensorType(weight.shape, "float32"),))
dynamic_quantize_linear.shapes(
    lambda x: (TensorType(x.shape, "uint8"), TensorType((), x.dtype), TensorType((), "uint8"))
)
