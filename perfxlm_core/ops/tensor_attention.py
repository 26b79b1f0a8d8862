"""Attention over whole tensors, and rotary embedding, as ONNX defines them."""

from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.numerics import compute
from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import F2, I64, INTEGERS, F, same_type
from perfxlm_core.ops.types import FLOATS, Array, DTypes

MASK = DTypes("MASK", (*FLOATS, *INTEGERS, "bool"))
"""A mask that is added, or that tells which keys are seen."""


def _heads(x: Any, count: int | None) -> np.ndarray:  # noqa: ANN401
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]; 4-D as it is."""
    v = np.asarray(x)
    if v.ndim == 4:
        return v
    if v.ndim != 3 or not count or v.shape[2] % count:
        raise ValueError(f"shape {v.shape} cannot be {count} heads")
    return v.reshape(*v.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _bias(
    mask: Any,  # noqa: ANN401
    shape: tuple[int, ...],
    offset: np.ndarray,
    lengths: Any,  # noqa: ANN401
    causal: bool,
    left: int,
    right: int,
    dtype: Any,  # noqa: ANN401
) -> np.ndarray:
    """What is added to scores [batch, heads, queries, keys]: minus infinity hides a key."""
    queries, keys = shape[2:]
    p = offset.reshape(-1, 1, 1, 1) + np.arange(queries)[:, None]
    j = np.arange(keys)
    seen = np.ones((1, 1, queries, keys), bool)
    seen = seen & (j <= p) if causal else seen
    seen = seen & (j >= p - left) if left >= 0 else seen
    seen = seen & (j <= p + right) if right >= 0 else seen
    if lengths is not None:
        seen = seen & (j < np.asarray(lengths).reshape(-1, 1, 1, 1))
    added: Any = 0
    if mask is not None:
        given = np.asarray(mask)
        short = keys - given.shape[-1]
        if short > 0:
            fill = False if given.dtype == np.bool_ else -np.inf
            widths = [(0, 0)] * (given.ndim - 1) + [(0, short)]
            given = np.pad(given.astype(dtype) if fill else given, widths, constant_values=fill)
        if given.dtype == np.bool_:
            seen = seen & given
        else:
            added = given.astype(dtype)
    return np.asarray(np.where(seen, added, -np.inf), dtype)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; a row that sees no key is 0."""
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.where(total == 0, 1, total))


def _windows(dims: object, *, qk_matmul_output_mode: int = 0, **attrs: Any) -> None:  # noqa: ANN401
    if qk_matmul_output_mode not in (0, 1, 2, 3):
        raise ValueError(f"qk_matmul_output_mode={qk_matmul_output_mode}, want 0 to 3")
    for name in ("left_window_size", "right_window_size"):
        if attrs[name] < -1:
            raise ValueError(f"{name}={attrs[name]} must be -1 or more")


@op(
    onnx=Standard("Attention", 25),
    outputs=("out", "present_key", "present_value", "scores"),
    requires=_windows,
)
def dense_attention(
    q: Annotated[Array, "...", F],
    k: Annotated[Array, "...", F],
    v: Annotated[Array, "...", F2],
    mask: Annotated[Array, "...", MASK] | None = None,
    past_key: Annotated[Array, "...", F] | None = None,
    past_value: Annotated[Array, "...", F2] | None = None,
    key_lengths: Annotated[Array, "...", I64] | None = None,
    *,
    is_causal: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    softmax_precision: str | None = None,
    qk_matmul_output_mode: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
) -> tuple[
    Annotated[Array, "...", F],
    Annotated[Array, "...", F],
    Annotated[Array, "...", F2],
    Annotated[Array, "...", F],
]:
    """Grouped-query attention of a batch of equally long queries, cache in and out.

        out = softmax(softcap * tanh(scale * q @ k.T / softcap) + bias) @ v

    Query `i` stands at `p = offset + i`, where `offset` is the length of the past, or
    `key_lengths - queries`, or 0. It sees the keys `p - left .. p + right`, none after `p` when
    causal, none from `key_lengths` on, and what the mask says. A query that sees no key gives 0.

    Args:
        q: [batch, heads, queries, size], or [batch, queries, heads * size] with `q_num_heads`.
        mask: True where a key is seen, or numbers to add; keys that it lacks are hidden.
        past_key: cache that goes before `k`; `past_value` goes with it.
        key_lengths: keys that count in each element of the batch, when `k` is a whole cache.
        scale: `size ** -0.5` when left out.
        softcap: 0 for none.
        softmax_precision: accepted; the softmax is in float32 at least.
        qk_matmul_output_mode: which scores to give: 0 after the product, 1 after the soft cap,
            2 after the bias, 3 the probabilities.

    Raises:
        ValueError: heads do not divide, only one of the caches is given, or a cache together with
            `key_lengths`.

    Source:
        Vaswani et al. 2017, arXiv:1706.03762; ONNX Attention-25.
    """
    if (past_key is None) != (past_value is None):
        raise ValueError("past_key and past_value go together")
    if past_key is not None and key_lengths is not None:
        raise ValueError("past_key and key_lengths exclude each other")
    kind, packed = np.asarray(q).dtype, np.ndim(np.asarray(q)) == 3
    queries, keys, values = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    offset = np.zeros(1, np.int64)
    if past_key is not None:
        offset = np.array([np.asarray(past_key).shape[2]])
        keys = np.concatenate([np.asarray(past_key), keys], axis=2)
        values = np.concatenate([np.asarray(past_value), values], axis=2)
    elif key_lengths is not None:
        offset = np.asarray(key_lengths) - queries.shape[2]
    if keys.shape[1] == 0 or queries.shape[1] % keys.shape[1]:
        raise ValueError(f"{queries.shape[1]} query heads for {keys.shape[1]} key heads")
    group = queries.shape[1] // keys.shape[1]
    factor = queries.shape[3] ** -0.5 if scale is None else scale
    with np.errstate(all="ignore"):
        wide_q, wide_k = compute(queries), np.repeat(compute(keys), group, axis=1)
        raw = wide_q @ wide_k.swapaxes(2, 3) * wide_q.dtype.type(factor)
        capped = np.tanh(raw / softcap) * softcap if softcap else raw
        bias = _bias(
            mask, raw.shape, offset, key_lengths, bool(is_causal), left_window_size,
            right_window_size, raw.dtype,
        )  # fmt: skip
        # a hidden key must not count, not even where it or its value is not a number
        hidden = np.asarray(np.isneginf(bias))
        scores = np.where(hidden, -np.inf, capped + bias).astype(raw.dtype)
        weights = _probabilities(scores)
        unseen = np.asarray(hidden.all(axis=(1, 2)))[:, None, :, None]
        seen = np.where(unseen, 0, np.repeat(compute(values), group, axis=1))
        out = (weights @ seen).astype(kind)
    shown = (raw, capped, scores, weights)[qk_matmul_output_mode].astype(kind)
    if packed:
        out = out.transpose(0, 2, 1, 3).reshape(*np.asarray(q).shape[:2], -1)
    return out, keys, values, shown


@dense_attention.shapes
def _(q: TensorType, k: TensorType, v: TensorType, *_: Any, **__: Any) -> tuple[TensorType, ...]:  # noqa: ANN401
    unknown = TensorType(None, q.dtype)
    out = TensorType(q.shape, q.dtype) if q.shape is not None and q.shape == v.shape else unknown
    return out, unknown, TensorType(None, v.dtype), unknown


@op(onnx=Standard("RotaryEmbedding", 23))
def rotary_positions(
    x: Annotated[Array, "...", F],
    cos: Annotated[Array, "...", F],
    sin: Annotated[Array, "...", F],
    positions: Annotated[Array, "...", I64] | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Annotated[Array, "...", F]:
    """Turn pairs of each head's elements by angles whose cosines and sines are given.

        out[a] = x[a] * cos[i] - x[b] * sin[i],  out[b] = x[b] * cos[i] + x[a] * sin[i]

    with `(a, b) = (i, i + half)`, or `(2 * i, 2 * i + 1)` when interleaved.

    Args:
        x: [batch, heads, sequence, size], or [batch, sequence, heads * size] with `num_heads`.
        cos: [positions, half] with `positions`, else [batch, sequence, half]; `sin` alike.
        rotary_embedding_dim: elements of a head that turn; 0 for all.

    Raises:
        ValueError: shapes do not fit.

    Source:
        Su et al. 2021, arXiv:2104.09864; ONNX RotaryEmbedding-23.
    """
    given = np.asarray(x)
    v = compute(_heads(given, num_heads))
    width = rotary_embedding_dim or v.shape[3]
    c, s = (compute(t) if positions is None else compute(t)[np.asarray(positions)]
            for t in (cos, sin))  # fmt: skip
    if width % 2 or c.shape[-1] != width // 2 or s.shape != c.shape:
        raise ValueError(f"{width} elements turn, but the tables are {c.shape} and {s.shape}")
    c, s = c[:, None], s[:, None]
    half = width // 2
    first, second = (
        (slice(0, width, 2), slice(1, width, 2))
        if interleaved
        else (slice(0, half), slice(half, width))
    )
    out = v.copy()
    out[..., first] = v[..., first] * c - v[..., second] * s
    out[..., second] = v[..., second] * c + v[..., first] * s
    if given.ndim == 3:
        out = out.transpose(0, 2, 1, 3).reshape(given.shape)
    return out.astype(given.dtype)


rotary_positions.shapes(same_type)
