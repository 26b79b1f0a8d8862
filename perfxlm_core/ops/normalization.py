"""Normalizations."""

from typing import Annotated

import numpy as np

from perfxlm_core.ops.numerics import as_type, compute
from perfxlm_core.ops.spec import Standard, op
from perfxlm_core.ops.types import Array, T


@op(onnx=Standard("RMSNormalization", 23, eps="epsilon"), batch_invariant=True)
def rms_norm(
    x: Annotated[Array, "*batch hidden", T],
    weight: Annotated[Array, "hidden", T],
    *,
    eps: float = 1e-6,
) -> Annotated[Array, "*batch hidden", T]:
    """Scale each row by the inverse of its root mean square, then by `weight`.

        out = x / sqrt(mean(x ** 2) + eps) * weight

    Numerics:
        The mean and the quotient in float32; one rounding, at the end.

    Source:
        Zhang and Sennrich 2019, arXiv:1910.07467; ONNX RMSNormalization-23.
    """
    v = compute(x)
    scale = 1 / np.sqrt(np.mean(v * v, axis=-1, keepdims=True) + v.dtype.type(eps))
    return as_type(v * scale * compute(weight), x)


@op(onnx=Standard("LayerNormalization", 17, eps="epsilon"), batch_invariant=True)
def layer_norm(
    x: Annotated[Array, "*batch hidden", T],
    weight: Annotated[Array, "hidden", T],
    bias: Annotated[Array, "hidden", T] | None = None,
    *,
    eps: float = 1e-5,
) -> Annotated[Array, "*batch hidden", T]:
    """Bring each row to mean 0 and variance 1, then apply `weight` and `bias`.

        out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias

    Numerics:
        Mean and (biased) variance in float32, variance as the mean of squared differences.

    Source:
        Ba et al. 2016, arXiv:1607.06450; ONNX LayerNormalization-17.
    """
    v = compute(x)
    centred = v - v.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + v.dtype.type(eps))
    y = centred * scale * compute(weight)
    return as_type(y if bias is None else y + compute(bias), x)
