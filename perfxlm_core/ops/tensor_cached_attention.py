"""Attention of other exporters: heads, rotation, cache and mask in one operator."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.numerics import compute
from perfxlm_core.ops.spec import TensorType, op
from perfxlm_core.ops.tensor_attention import rotary_positions
from perfxlm_core.ops.tensor_types import I64, F
from perfxlm_core.ops.types import I32, Array


def _heads_divide(dims: Mapping[str, Any], *, num_heads: int, kv_num_heads: int, **_: Any) -> None:  # noqa: ANN401
    if kv_num_heads < 1 or num_heads % kv_num_heads:
        raise ValueError(f"{num_heads} query heads for {kv_num_heads} key heads")


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _cache(past: Any, new: np.ndarray, starts: np.ndarray, total: int) -> np.ndarray:  # noqa: ANN401
    """The cache with the new entries of each sequence behind the ones that it has."""
    length = max(total, 0 if past is None else np.asarray(past).shape[2])
    out = np.zeros((*new.shape[:2], length, new.shape[3]), new.dtype)
    if past is not None:
        out[:, :, : np.asarray(past).shape[2]] = np.asarray(past)
    for b, start in enumerate(starts):
        count = min(new.shape[2], length - int(start))
        out[b, :, start : start + count] = new[b, :, :count]
    return out


@op(outputs=("out", "present_key", "present_value"), requires=_heads_divide)
def group_query_attention(
    q: Annotated[Array, "batch length width", F],
    last_positions: Annotated[Array, "...", I32],
    total_length: Annotated[Array, "...", I32],
    k: Annotated[Array, "batch length kv_width", F] | None = None,
    v: Annotated[Array, "batch length v_width", F] | None = None,
    past_key: Annotated[Array, "batch kv_heads past head_dim", F] | None = None,
    past_value: Annotated[Array, "batch kv_heads past v_head_dim", F] | None = None,
    cos: Annotated[Array, "positions half", F] | None = None,
    sin: Annotated[Array, "positions half", F] | None = None,
    position_ids: Annotated[Array, "batch length", I64] | None = None,
    bias: Annotated[Array, "...", F] | None = None,
    sinks: Annotated[Array, "heads", F] | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    scale: float | None = None,
    softcap: float = 0.0,
    local_window_size: int = -1,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
) -> tuple[
    Annotated[Array, "batch length out_width", F],
    Annotated[Array, "batch kv_heads total head_dim", F],
    Annotated[Array, "batch kv_heads total v_head_dim", F],
]:
    """Causal grouped-query attention that rotates, caches and attends.

    Args:
        q: queries; queries, keys and values side by side when `k` and `v` are left out.
        last_positions: position of each sequence's last token, one less than its length.
        total_length: length of the longest sequence, cache included.
        position_ids: of the tokens; behind what the cache holds when left out.
        bias: added to scores, [batch or 1, heads or 1, length, total].
        sinks: a score for each head that takes probability and gives nothing.
        local_window_size: keys visible to a query, itself included; -1 for all.
        do_rotary: rotate queries and keys first.

    Raises:
        ValueError: heads do not divide the widths, or there is nothing to rotate by.

    Source:
        com.microsoft GroupQueryAttention-1 of ONNX Runtime.
    """
    packed, kind = np.asarray(q), np.asarray(q).dtype
    if k is None or v is None:
        size = packed.shape[2] // (num_heads + 2 * kv_num_heads)
        edges = [num_heads * size, (num_heads + kv_num_heads) * size]
        packed, k, v = np.split(packed, edges, axis=2)
    queries, keys = _split(packed, num_heads), _split(np.asarray(k), kv_num_heads)
    values = _split(np.asarray(v), kv_num_heads)
    count, total = queries.shape[2], int(np.asarray(total_length).reshape(-1)[0])
    ends = np.asarray(last_positions).reshape(-1).astype(np.int64) + 1
    starts = np.zeros_like(ends) if count == total else ends - count
    if do_rotary:
        if cos is None or sin is None:
            raise ValueError("do_rotary=1 needs cosines and sines")
        where = starts[:, None] + np.arange(count) if position_ids is None else position_ids
        queries, keys = (
            np.asarray(rotary_positions.fn(x, cos, sin, where, interleaved=rotary_interleaved))
            for x in (queries, keys)
        )
    present_key = _cache(past_key, keys, starts, total)
    present_value = _cache(past_value, values, starts, total)
    p, j = starts[:, None, None, None] + np.arange(count)[:, None], np.arange(total)
    seen = (j <= p) & (j < np.maximum(ends, 1)[:, None, None, None])
    seen = seen & (j > p - local_window_size) if local_window_size > 0 else seen
    weights = _weights(
        queries, present_key[:, :, :total], seen, scale, softcap, bias, sinks
    )  # fmt: skip
    wide = np.repeat(compute(present_value[:, :, :total]), num_heads // kv_num_heads, axis=1)
    out = (weights @ wide).transpose(0, 2, 1, 3).reshape(*packed.shape[:2], -1)
    return out.astype(kind), present_key, present_value


def _weights(
    q: np.ndarray,
    k: np.ndarray,
    seen: np.ndarray,
    scale: float | None,
    softcap: float,
    bias: Any,  # noqa: ANN401
    sinks: Any,  # noqa: ANN401
) -> np.ndarray:
    """Probabilities [batch, heads, queries, keys]."""
    wide_q = compute(q)
    wide_k = np.repeat(compute(k), q.shape[1] // k.shape[1], axis=1)
    scores = wide_q @ wide_k.swapaxes(2, 3) * wide_q.dtype.type(scale or q.shape[3] ** -0.5)
    scores = np.tanh(scores / softcap) * softcap if softcap else scores
    scores = scores if bias is None else scores + compute(bias)[..., : scores.shape[3]]
    scores = np.where(seen, scores, -np.inf).astype(wide_q.dtype)
    top = scores.max(axis=-1, keepdims=True)
    extra: Any = 0
    if sinks is not None:
        sink = compute(sinks).reshape(-1, 1, 1)
        top = np.maximum(top, sink)
        extra = np.exp(sink - top)
    top = np.where(np.isneginf(top), 0, top)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True) + extra
    return np.asarray(weights / np.where(total == 0, 1, total))


@group_query_attention.shapes
def _(q: TensorType, *_: Any, **__: Any) -> tuple[TensorType, ...]:  # noqa: ANN401
    return (TensorType(None, q.dtype),) * 3
