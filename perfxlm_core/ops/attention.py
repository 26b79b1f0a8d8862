"""Attention over the paged key/value cache, and the writing of that cache."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.numerics import as_type, compute
from perfxlm_core.ops.spec import op
from perfxlm_core.ops.types import I32, Array, C, T


@op(updates=("k_cache", "v_cache"), batch_invariant=True)
def store_kv(
    k: Annotated[Array, "tokens kv_heads head_dim", T],
    v: Annotated[Array, "tokens kv_heads v_head_dim", T],
    k_cache: Annotated[Array, "blocks block_size kv_heads head_dim", C],
    v_cache: Annotated[Array, "blocks block_size kv_heads v_head_dim", C],
    slot_mapping: Annotated[Array, "tokens", I32],
) -> None:
    """Write the keys and values of new tokens into their slots of the paged cache.

        cache[slot // block_size, slot % block_size] = new[t]     with slot = slot_mapping[t]

    Args:
        slot_mapping: a slot for each token; a negative one means that the token is not kept.

    Assumes:
        No slot occurs twice; slots are below `blocks * block_size`.

    Numerics:
        Rounded to the cache's dtype, to nearest even.

    Source:
        Kwon et al. 2023, arXiv:2309.06180.
    """
    slots = np.asarray(slot_mapping)
    keep = slots >= 0
    size = k_cache.shape[1]
    block, offset = slots[keep] // size, slots[keep] % size
    np.asarray(k_cache)[block, offset] = np.asarray(k)[keep].astype(k_cache.dtype)
    np.asarray(v_cache)[block, offset] = np.asarray(v)[keep].astype(v_cache.dtype)


def _requires(
    dims: Mapping[str, Any],
    *,
    window: int | None,
    soft_cap: float | None,
    **_: Any,  # noqa: ANN401
) -> None:
    if dims["heads"] % dims["kv_heads"]:
        raise ValueError(f"heads={dims['heads']} is not a multiple of kv_heads={dims['kv_heads']}")
    if window is not None and window < 1:
        raise ValueError(f"window={window} must be at least 1")
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"soft_cap={soft_cap} must be positive")


@op(
    requires=_requires,
    tolerance={"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2},
)
def paged_attention(
    q: Annotated[Array, "tokens heads head_dim", T],
    k_cache: Annotated[Array, "blocks block_size kv_heads head_dim", C],
    v_cache: Annotated[Array, "blocks block_size kv_heads v_head_dim", C],
    block_tables: Annotated[Array, "seqs max_blocks", I32],
    seq_lens: Annotated[Array, "seqs", I32],
    query_starts: Annotated[Array, "seqs+1", I32],
    sinks: Annotated[Array, "heads", T] | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Annotated[Array, "tokens heads v_head_dim", T]:
    r"""Causal grouped-query attention over a paged key/value cache.

    One call serves a mixed batch. Sequence `s` owns the query rows
    `query_starts[s]:query_starts[s + 1]`. They are its newest tokens: of the `m` rows it owns,
    row `i` stands at position `p = seq_lens[s] - m + i` and sees the keys `0..p`, or the latest
    `window` of them. A whole prompt has `m == seq_lens[s]`, a decode has `m == 1`, a chunk of a
    prompt lies between. Key `j` is at
    `k_cache[block_tables[s, j // block_size], j % block_size]`, and the keys of the new tokens are
    there already. Query head `h` reads key/value head `h // (heads // kv_heads)`.

        score[j] = scale * q . K[j];  score = soft_cap * tanh(score / soft_cap)  if soft_cap
        out      = sum_j exp(score[j]) V[j] / (sum_j exp(score[j]) + exp(sinks[h]) if sinks)

    Args:
        block_tables: entries behind a sequence's last block are never read.
        query_starts: exclusive prefix sums of the rows; `query_starts[-1] == tokens`.
        sinks: one more score for each head, which takes weight and gives no value.
        scale: `head_dim ** -0.5` when None.
        window: keys visible to a query, its own among them; None means all.
        soft_cap: bound of the scores; None means unbounded.

    Raises:
        OperatorError: `heads` is not a multiple of `kv_heads`; `window` < 1; `soft_cap` <= 0.

    Assumes:
        `seq_lens[s] >= query_starts[s + 1] - query_starts[s]`; block ids are in `[0, blocks)`.

    Numerics:
        Scores, softmax and the sum of values in float32.

    Source:
        Kwon et al. 2023, arXiv:2309.06180 (paging); Ainslie et al. 2023, arXiv:2305.13245 (groups);
        Xiao et al. 2023, arXiv:2309.17453 (sinks). Causal alignment as in ONNX Attention-24.
    """
    queries, starts = compute(q), np.asarray(query_starts)
    group = q.shape[1] // k_cache.shape[2]
    factor = queries.dtype.type(q.shape[2] ** -0.5 if scale is None else scale)
    out = np.zeros((*q.shape[:2], v_cache.shape[3]), queries.dtype)
    for s, length in enumerate(np.asarray(seq_lens).tolist()):
        rows = slice(starts[s], starts[s + 1])
        m = rows.stop - rows.start
        if not m:
            continue
        blocks = np.asarray(block_tables)[s, : -(-length // k_cache.shape[1])]
        keys, values = (
            np.repeat(
                compute(np.asarray(c)[blocks]).reshape(-1, *c.shape[2:])[:length], group, axis=1
            )
            for c in (k_cache, v_cache)
        )
        scores = factor * np.einsum("mhd,jhd->hmj", queries[rows], keys)
        if soft_cap is not None:
            scores = np.tanh(scores / soft_cap) * soft_cap
        scores = scores.astype(queries.dtype)
        p, j = np.arange(length - m, length)[:, None], np.arange(length)
        visible = (j <= p) & (j > p - (length if window is None else window))
        scores[:, ~visible] = -np.inf
        out[rows] = _summed(_softmax(scores, sinks), values, visible)
    return as_type(out, q)


def _summed(weights: np.ndarray, values: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Weighted values of what each row sees: zero times an infinite value is no number."""
    if np.isfinite(values).all():
        return np.asarray(np.einsum("hmj,jhd->mhd", weights, values))
    rows = enumerate(visible)
    return np.stack([np.einsum("hj,jhd->hd", weights[:, i, v], values[v]) for i, v in rows])


def _softmax(scores: np.ndarray, sinks: Any) -> np.ndarray:  # noqa: ANN401
    """Softmax over the last axis of [heads, queries, keys], with a sink for each head."""
    top = scores.max(axis=-1, keepdims=True)
    if sinks is None:
        weights = np.exp(scores - top)
        return weights / weights.sum(axis=-1, keepdims=True)
    sink = compute(sinks)[:, None, None]
    top = np.maximum(top, sink)
    weights = np.exp(scores - top)
    return weights / (weights.sum(axis=-1, keepdims=True) + np.exp(sink - top))


@op(requires=_requires)
def attention(
    q: Annotated[Array, "tokens heads head_dim", T],
    k: Annotated[Array, "tokens kv_heads head_dim", T],
    v: Annotated[Array, "tokens kv_heads v_head_dim", T],
    sinks: Annotated[Array, "heads", T] | None = None,
    *,
    layer: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Annotated[Array, "tokens heads v_head_dim", T]:
    """Causal attention of a recipe: what a model means, before anyone decides where keys live.

    For a running engine a pass replaces it by `store_kv` and `paged_attention` over the cache
    of `layer`; for an ONNX file it becomes Attention with past and present keys and values.
    Called on arrays it attends within one sequence that starts at position 0.

    Args:
        layer: index of the cache that holds this attention's keys and values.
        scale: see `paged_attention`, as for `window`, `soft_cap` and `sinks`.

    Raises:
        OperatorError: see `paged_attention`.

    Source:
        Vaswani et al. 2017, arXiv:1706.03762; ONNX Attention-24.
    """
    n = np.int32(q.shape[0])
    table, lens = np.zeros((1, 1), np.int32), np.array([n])
    starts = np.array([0, n], np.int32)
    keys, values = np.asarray(k)[None], np.asarray(v)[None]
    return paged_attention(
        q, keys, values, table, lens, starts, sinks, scale=scale, window=window,
        soft_cap=soft_cap,
    )  # fmt: skip
