"""A paged key/value cache of 8-bit codes, with a scale for each token and head."""

from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.attention import _requires, paged_attention
from perfxlm_core.ops.spec import op
from perfxlm_core.ops.types import F32, I8, I32, Array, T

SMALLEST = np.float32(2.0**-100)
"""Rows whose largest magnitude is below are kept as zeros: 127 over it would overflow."""


def quantized_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the rows along the last axis, and the scale of each; see `store_kv_int8`."""
    rows = np.asarray(x).astype(np.float32)
    top = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
    with np.errstate(all="ignore"):
        inverse = np.where(top < SMALLEST, np.float32(0), np.float32(127) / top)
        codes = np.nan_to_num(np.rint(rows * inverse)).astype(np.int8)
        scales = np.where(top < SMALLEST, np.float32(0), top / np.float32(127))
    return codes, scales[..., 0]


@op(updates=("k_cache", "v_cache", "k_scales", "v_scales"), batch_invariant=True)
def store_kv_int8(
    k: Annotated[Array, "tokens kv_heads head_dim", T],
    v: Annotated[Array, "tokens kv_heads v_head_dim", T],
    k_cache: Annotated[Array, "blocks block_size kv_heads head_dim", I8],
    v_cache: Annotated[Array, "blocks block_size kv_heads v_head_dim", I8],
    k_scales: Annotated[Array, "blocks block_size kv_heads", F32],
    v_scales: Annotated[Array, "blocks block_size kv_heads", F32],
    slot_mapping: Annotated[Array, "tokens", I32],
) -> None:
    """Write the keys and values of new tokens, rounded to 8 bits, into a paged cache.

        top    = max |new[t, h]|
        scale  = top / 127
        cache  = round(new[t, h] * (127 / top))

    each for a token and a head, in the slot that `store_kv` would write.

    Args:
        slot_mapping: see `store_kv`.

    Assumes:
        See `store_kv`; keys and values are finite.

    Numerics:
        Each of these operations in float32, rounded once, so that codes and scales are the same
        everywhere; `round` is to nearest even. Where `top < 2**-100`, codes and scale are zero.

    Source:
        Kwon et al. 2023, arXiv:2309.06180 (paging); Dettmers et al. 2022, arXiv:2208.07339
        (a scale for each vector).
    """
    slots = np.asarray(slot_mapping)
    keep = slots >= 0
    at = slots[keep] // k_cache.shape[1], slots[keep] % k_cache.shape[1]
    for new, cache, scales in ((k, k_cache, k_scales), (v, v_cache, v_scales)):
        codes, scale = quantized_rows(np.asarray(new)[keep])
        np.asarray(cache)[at] = codes
        np.asarray(scales)[at] = scale.astype(scales.dtype)


@op(requires=_requires, tolerance=paged_attention.tolerance)
def paged_attention_int8(
    q: Annotated[Array, "tokens heads head_dim", T],
    k_cache: Annotated[Array, "blocks block_size kv_heads head_dim", I8],
    v_cache: Annotated[Array, "blocks block_size kv_heads v_head_dim", I8],
    k_scales: Annotated[Array, "blocks block_size kv_heads", F32],
    v_scales: Annotated[Array, "blocks block_size kv_heads", F32],
    block_tables: Annotated[Array, "seqs max_blocks", I32],
    seq_lens: Annotated[Array, "seqs", I32],
    query_starts: Annotated[Array, "seqs+1", I32],
    sinks: Annotated[Array, "heads", T] | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Annotated[Array, "tokens heads v_head_dim", T]:
    """`paged_attention` over a cache that `store_kv_int8` has written.

        out = paged_attention(q, k_cache * k_scales, v_cache * v_scales, ...)

    Args:
        k_scales: of the keys of a token and head, as `v_scales` of its values.
        block_tables: see `paged_attention`, as for all others.

    Raises:
        OperatorError: see `paged_attention`.

    Assumes:
        See `paged_attention`.

    Numerics:
        Scores, softmax and the sum of values in float32.

    Source:
        See `paged_attention`.
    """
    keys, values = (
        np.asarray(codes) * _widest(scales)[..., None]
        for codes, scales in ((k_cache, k_scales), (v_cache, v_scales))
    )
    return paged_attention.fn(
        q, keys, values, block_tables, seq_lens, query_starts, sinks, scale=scale, window=window,
        soft_cap=soft_cap,
    )  # fmt: skip


def _widest(scales: Any) -> np.ndarray:  # noqa: ANN401
    """In float64, so that products with codes are exact before attention rounds them."""
    return np.asarray(scales).astype(np.float64)
