"""Rotary position embedding."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.numerics import as_type, compute
from perfxlm_core.ops.spec import op
from perfxlm_core.ops.types import F32, I32, Array, T


@op(outputs=("cos", "sin"), batch_invariant=True)
def rotary_table(
    positions: Annotated[Array, "tokens", I32],
    inverse_frequencies: Annotated[Array, "half", F32],
    *,
    attention_factor: float = 1.0,
) -> tuple[Annotated[Array, "tokens half", F32], Annotated[Array, "tokens half", F32]]:
    """Cosines and sines of each token's angles: computed once in a step, used by every layer.

        cos[t, i] = attention_factor * cos(positions[t] * inverse_frequencies[i]), sin alike

    Args:
        positions: of the tokens in their sequences, from 0.
        inverse_frequencies: see `perfxlm_core.recipes.inverse_frequencies` for the scalings.
        attention_factor: multiplies both tables (YaRN, LongRoPE).

    Numerics:
        The angle is one float32 product; its sine and cosine are right to 2e-7 absolute, up to
        angles of 1e6.

    Source:
        Su et al. 2021, arXiv:2104.09864.
    """
    inverse = compute(inverse_frequencies)
    angles = (np.asarray(positions)[:, None].astype(inverse.dtype) * inverse).astype(np.float64)
    factor = inverse.dtype.type(attention_factor)
    return (
        np.cos(angles).astype(inverse.dtype) * factor,
        np.sin(angles).astype(inverse.dtype) * factor,
    )


def _fits(dims: Mapping[str, Any], **_: Any) -> None:  # noqa: ANN401
    if 2 * dims["half"] > dims["head_dim"]:
        raise ValueError(f"rotates {2 * dims['half']} elements of a head of {dims['head_dim']}")


@op(requires=_fits, batch_invariant=True)
def rotary_embedding(
    x: Annotated[Array, "tokens heads head_dim", T],
    cos: Annotated[Array, "tokens half", F32],
    sin: Annotated[Array, "tokens half", F32],
    *,
    interleaved: bool = False,
) -> Annotated[Array, "tokens heads head_dim", T]:
    """Turn pairs of each head's first `2 * half` elements by the token's angles.

        out[a] = x[a] * cos[i] - x[b] * sin[i]
        out[b] = x[b] * cos[i] + x[a] * sin[i]

    with `(a, b) = (i, i + half)`, or `(2 * i, 2 * i + 1)` when interleaved. Elements from
    `2 * half` on pass unchanged (partial rotation).

    Args:
        interleaved: pairs are neighbours (GGUF's layout of some families, GPT-J) rather than
            halves (Hugging Face's layout, GPT-NeoX).

    Raises:
        OperatorError: `2 * half > head_dim`.

    Source:
        Su et al. 2021, arXiv:2104.09864; ONNX RotaryEmbedding-23.
    """
    v = compute(x)
    half = cos.shape[1]
    c, s = compute(cos)[:, None].astype(v.dtype), compute(sin)[:, None].astype(v.dtype)
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(0, half), slice(half, 2 * half))
    )
    out = v.copy()
    out[..., first] = v[..., first] * c - v[..., second] * s
    out[..., second] = v[..., second] * c + v[..., first] * s
    return as_type(out, x)
