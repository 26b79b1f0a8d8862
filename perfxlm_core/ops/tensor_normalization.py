"""Normalizations over the axes that ONNX lets one choose."""

from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.numerics import compute
from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import F2, F, axis_of, rounded, same_type
from perfxlm_core.ops.types import F32, Array

ARRAY = Annotated[Array, "...", F]


@op(onnx=Standard("LayerNormalization", 17), outputs=("out", "mean", "inverse_deviation"))
def layer_normalization(
    x: Annotated[Array, "...", F],
    scale: Annotated[Array, "...", F],
    bias: Annotated[Array, "...", F] | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Annotated[Array, "...", F], Annotated[Array, "...", F32], Annotated[Array, "...", F32]]:
    """Mean 0 and variance 1 over the axes from `axis` on, then `scale` and `bias`.

        out = (x - mean) / sqrt(var + epsilon) * scale + bias

    Args:
        stash_type: accepted; means and variances are in float32 at least.

    Source:
        Ba et al. 2016, arXiv:1607.06450; ONNX LayerNormalization-17.
    """
    v = compute(x)
    axes = tuple(range(axis_of(axis, v.ndim), v.ndim))
    mean = v.mean(axis=axes, keepdims=True)
    centred = v - mean
    inverse = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + epsilon)
    inverse = inverse.astype(v.dtype)
    y = centred * inverse * compute(scale)
    y = y if bias is None else y + compute(bias)
    return y.astype(np.asarray(x).dtype), mean, inverse


@layer_normalization.shapes
def _(x: TensorType, *_: Any, axis: int = -1, **__: Any) -> tuple[TensorType, ...]:  # noqa: ANN401
    wide = "float64" if x.dtype == "float64" else "float32"
    if x.shape is None:
        return x, TensorType(None, wide), TensorType(None, wide)
    at = axis_of(axis, len(x.shape))
    rest = TensorType((*x.shape[:at], *(1,) * (len(x.shape) - at)), wide)
    return x, rest, rest


@op(onnx=Standard("RMSNormalization", 23))
def rms_normalization(
    x: Annotated[Array, "...", F],
    scale: Annotated[Array, "...", F2],
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Annotated[Array, "...", F2]:
    """Divide by the root mean square over the axes from `axis` on, then multiply by `scale`.

        out = cast(x / sqrt(mean(x ** 2) + epsilon)) * scale

    Args:
        stash_type: accepted; the mean is in float32 at least.

    Numerics:
        The quotient is rounded to the dtype of `x` before the product.

    Source:
        Zhang and Sennrich 2019, arXiv:1910.07467; ONNX RMSNormalization-23.
    """
    v = compute(x)
    axes = tuple(range(axis_of(axis, v.ndim), v.ndim))
    root = np.sqrt((v * v).mean(axis=axes, keepdims=True) + v.dtype.type(epsilon))
    y = (v / root).astype(np.asarray(x).dtype)
    return rounded(np.multiply, y.astype(np.asarray(scale).dtype), scale)


rms_normalization.shapes(lambda x, scale, **_: (TensorType(x.shape, scale.dtype),))


@op(onnx=Standard("LpNormalization", 22))
def lp_normalization(x: ARRAY, *, axis: int = -1, p: int = 2) -> ARRAY:
    """Divide by the 1-norm or the 2-norm along `axis`; 0 where that is 0.

    Source:
        ONNX LpNormalization-22.
    """

    def body(v: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(v, ord=p, axis=axis, keepdims=True)
        return np.where(norm == 0, v.dtype.type(0), v / np.where(norm == 0, 1, norm))

    return rounded(body, x)


@op(onnx=Standard("BatchNormalization", 15))
def batch_normalization(
    x: Annotated[Array, "...", F],
    scale: Annotated[Array, "...", F2],
    bias: Annotated[Array, "...", F2],
    mean: Annotated[Array, "...", F2],
    variance: Annotated[Array, "...", F2],
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Annotated[Array, "...", F]:
    """Each channel (axis 1) by statistics learnt before.

        out = (x - mean) / sqrt(variance + epsilon) * scale + bias

    Args:
        momentum: accepted; it matters only in training.
        training_mode: must be 0.

    Raises:
        ValueError: `training_mode` is 1.

    Source:
        ONNX BatchNormalization-15.
    """
    if training_mode:
        raise ValueError("training_mode=1 is not for inference")

    def body(v: np.ndarray, *channel: np.ndarray) -> np.ndarray:
        s, b, m, var = (c.reshape(-1, *(1,) * (v.ndim - 2)) for c in channel)
        return np.asarray((v - m) / np.sqrt(var + epsilon) * s + b)

    return rounded(body, x, scale, bias, mean, variance)


@op(onnx=Standard("InstanceNormalization", 22))
def instance_normalization(x: ARRAY, scale: ARRAY, bias: ARRAY, *, epsilon: float = 1e-5) -> ARRAY:
    """Each channel of each sample by its own mean and variance.

    Source:
        ONNX InstanceNormalization-22.
    """

    def body(v: np.ndarray, s: np.ndarray, b: np.ndarray) -> np.ndarray:
        axes = tuple(range(2, v.ndim))
        s, b = (c.reshape(-1, *(1,) * (v.ndim - 2)) for c in (s, b))
        centred = v - v.mean(axis=axes, keepdims=True)
        return np.asarray(centred / np.sqrt(v.var(axis=axes, keepdims=True) + epsilon) * s + b)

    return rounded(body, x, scale, bias)


for _op in (lp_normalization, batch_normalization, instance_normalization):
    _op.shapes(same_type)
