"""References against independent implementations, in float64 and in the activation types."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.ops.formats import FORMATS, Tensor

lengths = st.sampled_from([1, 2, 3, 7, 16, 33])
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-12)


@given(seeds, lengths, lengths)
def test_norms(seed: int, rows: int, hidden: int) -> None:
    x, w, b = normal(seed, rows, hidden), normal(seed + 1, hidden), normal(seed + 2, hidden)
    tx, tw, tb = map(torch.from_numpy, (x, w, b))
    close(ops.rms_norm(x, w, eps=1e-5), F.rms_norm(tx, (hidden,), tw, 1e-5))
    close(ops.layer_norm(x, w, b, eps=1e-5), F.layer_norm(tx, (hidden,), tw, tb, 1e-5))
    close(ops.layer_norm(x, w, eps=1e-3), F.layer_norm(tx, (hidden,), tw, None, 1e-3))


@given(seeds, lengths)
def test_activations(seed: int, n: int) -> None:
    x, y = normal(seed, n, 3) * 4, normal(seed + 1, n, 3)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    close(ops.silu(x), F.silu(tx))
    close(ops.silu_and_mul(x, y), F.silu(tx) * ty)
    for form in ("none", "tanh"):
        close(ops.gelu(x, approximate=form), F.gelu(tx, approximate=form))
        close(ops.gelu_and_mul(x, y, approximate=form), F.gelu(tx, approximate=form) * ty)
    close(ops.soft_cap(x, cap=2.5), 2.5 * torch.tanh(tx / 2.5))
    close(ops.scale(x, factor=1.5, offset=-2.0), tx * 1.5 - 2)
    close(ops.add(x, y), tx + ty)
    close(ops.mul(x, y), tx * ty)


def test_activations_do_not_overflow() -> None:
    x = np.array([-1e4, -90.0, 0.0, 90.0, 1e4], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        assert np.isfinite(ops.silu(x)).all()
        assert np.isfinite(ops.gelu(x)).all()


@given(seeds, lengths, lengths, lengths)
def test_linear(seed: int, rows: int, n: int, k: int) -> None:
    x, w, b = normal(seed, rows, k), normal(seed + 1, n, k), normal(seed + 2, n)
    close(ops.linear(x, w, b), F.linear(*map(torch.from_numpy, (x, w, b))))


@given(seeds, st.sampled_from(sorted(f for f in FORMATS if FORMATS[f].encode)))
def test_quantized_weights_count_as_their_decoded_values(seed: int, name: str) -> None:
    w = normal(seed, 5, 64, dtype="float32")
    weight = Tensor("w", (5, 64), name, FORMATS[name].quantize(w).reshape(-1))
    x = normal(seed + 1, 3, 64, dtype="float32")
    np.testing.assert_array_equal(ops.linear(x, weight), ops.linear(x, weight.float32()))
    ids = np.array([4, 0, 4], np.int32)
    np.testing.assert_array_equal(ops.embedding(ids, weight), weight.float32()[ids])


@given(seeds, lengths, st.sampled_from([2, 4, 8]), st.sampled_from([1, 3]), st.booleans())
def test_rotary_embedding(seed: int, tokens: int, half: int, heads: int, interleaved: bool) -> None:
    """As a rotation of complex numbers; elements past the rotated ones pass."""
    dim = 2 * half + 2
    x = normal(seed, tokens, heads, dim)
    positions = np.random.default_rng(seed).integers(0, 5000, tokens).astype(np.int32)
    inverse = 10000.0 ** (-np.arange(half) / half)
    cos, sin = ops.rotary_table(positions, inverse)
    out = ops.rotary_embedding(x, cos, sin, interleaved=interleaved)
    turn = np.exp(1j * positions[:, None] * inverse)[:, None]
    a, b = (
        (x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2])
        if interleaved
        else (x[..., :half], x[..., half : 2 * half])
    )
    turned = (a + 1j * b) * turn
    want = np.array(x)
    if interleaved:
        want[..., 0 : 2 * half : 2], want[..., 1 : 2 * half : 2] = turned.real, turned.imag
    else:
        want[..., :half], want[..., half : 2 * half] = turned.real, turned.imag
    np.testing.assert_allclose(out, want, rtol=1e-9, atol=1e-11)


@settings(deadline=None)
@given(
    data=st.data(),
    group=st.sampled_from([1, 2, 3]),
    kv_heads=st.sampled_from([1, 2]),
    window=st.none() | st.integers(1, 6),
    cap=st.none() | st.floats(0.5, 20),
    with_sinks=st.booleans(),
)
def test_paged_attention_equals_dense(
    data: st.DataObject,
    group: int,
    kv_heads: int,
    window: int | None,
    cap: float | None,
    with_sinks: bool,
) -> None:
    """Ragged, chunked, permuted and NaN-filled where nobody may look."""
    heads, dim, v_dim, size = group * kv_heads, 4, 3, data.draw(st.sampled_from([1, 2, 4]))
    lens = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    news = [data.draw(st.integers(1, n)) for n in lens]
    counts = [-(-n // size) for n in lens]
    ids = data.draw(st.permutations(range(sum(counts) + 2)))
    rng = np.random.default_rng(data.draw(seeds))
    k_cache = np.full((len(ids), size, kv_heads, dim), np.nan)
    v_cache = np.full((len(ids), size, kv_heads, v_dim), np.nan)
    tables = np.full((len(lens), max(counts)), 10**6, np.int32)
    starts = np.concatenate([[0], np.cumsum(news)]).astype(np.int32)
    q = rng.standard_normal((int(starts[-1]), heads, dim))
    sinks = rng.standard_normal(heads) if with_sinks else None
    want, used = [], 0
    for s, (n, m, c) in enumerate(zip(lens, news, counts, strict=True)):
        tables[s, :c] = ids[used : used + c]
        used += c
        k, v = rng.standard_normal((n, kv_heads, dim)), rng.standard_normal((n, kv_heads, v_dim))
        slots = np.array([tables[s, j // size] * size + j % size for j in range(n)], np.int32)
        ops.store_kv(k, v, k_cache, v_cache, slots)
        want.append(dense(q[starts[s] : starts[s + 1]], k, v, group, m, window, cap, sinks))
    out = ops.paged_attention(
        q, k_cache, v_cache, tables, np.array(lens, np.int32), starts, sinks,
        window=window, soft_cap=cap,
    )  # fmt: skip
    np.testing.assert_allclose(out, np.concatenate(want), rtol=1e-9, atol=1e-11)


def dense(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    group: int,
    new: int,
    window: int | None,
    cap: float | None,
    sinks: np.ndarray | None,
) -> np.ndarray:
    """One query, one head, one key at a time."""
    n = len(k)
    out = np.zeros((new, q.shape[1], v.shape[2]))
    for i in range(new):
        p = n - new + i
        for h in range(q.shape[1]):
            seen = range(max(0, p - (window or n) + 1), p + 1)
            scores = [float(q[i, h] @ k[j, h // group]) / q.shape[2] ** 0.5 for j in seen]
            if cap is not None:
                scores = [cap * np.tanh(s / cap) for s in scores]
            weights = [np.exp(s) for s in scores]
            total = sum(weights) + (0 if sinks is None else np.exp(sinks[h]))
            for j, weight in zip(seen, weights, strict=True):
                out[i, h] += weight / total * v[j, h // group]
    return out


@given(seeds, st.sampled_from(["float16", "float32", "bfloat16"]))
def test_store_kv_rounds_and_skips_negative_slots(seed: int, dtype: str) -> None:
    from perfxlm_core.ops.types import numpy_dtype

    kind = numpy_dtype(dtype)
    k = normal(seed, 3, 2, 4, dtype="float32")
    caches = [np.full((4, 2, 2, 4), 7, kind) for _ in "kv"]
    ops.store_kv(k, k + 1, *caches, np.array([5, -1, 0], np.int32))
    flat = caches[0].reshape(8, 2, 4)
    np.testing.assert_array_equal(flat[5], k[0].astype(kind))
    np.testing.assert_array_equal(flat[0], k[2].astype(kind))
    assert (flat[[1, 2, 3, 4, 6, 7]] == kind.type(7)).all()


@given(seeds, st.sampled_from([1e-33, 1e-6, 1.0, 1e6, 1e37]), st.sampled_from([1, 5, 64]))
def test_store_kv_int8_is_within_half_a_code(seed: int, size: float, dim: int) -> None:
    k = (normal(seed, 3, 2, dim, dtype="float32") * np.float32(size)).astype(np.float32)
    k[1, 1] = 0
    codes = [np.full((4, 2, 2, dim), 7, np.int8) for _ in "kv"]
    scales = [np.full((4, 2, 2), 7, np.float32) for _ in "kv"]
    ops.store_kv_int8(k, -k, *codes, *scales, np.array([5, -1, 0], np.int32))
    for code, scale, new in zip(codes, scales, (k, -k), strict=True):
        flat, kept = code.reshape(8, 2, dim).astype(np.float64), scale.reshape(8, 2, 1)
        for slot, token in ((5, 0), (0, 2)):
            error = np.abs(flat[slot] * kept[slot] - new[token])
            assert (error <= kept[slot] * (0.5 + 1e-4) + 2.0**-100).all()
            tops = np.abs(flat[slot]).max(axis=-1, keepdims=True)
            np.testing.assert_array_equal(tops, np.where(kept[slot] == 0, 0, 127))
        assert (flat[[1, 2, 3, 4, 6, 7]] == 7).all()
        assert (kept[[1, 2, 3, 4, 6, 7]] == 7).all()


@given(
    seed=seeds,
    infinite=st.sampled_from(["k_cache", "v_cache"]),
    window=st.none() | st.integers(1, 6),
)
def test_rows_get_nothing_of_what_they_do_not_see(
    seed: int, infinite: str, window: int | None
) -> None:
    rng = np.random.default_rng(seed)
    place = int(rng.integers(0, 9))
    caches = {n: rng.standard_normal((1, 9, 1, 4)) for n in ("k_cache", "v_cache")}
    batch = {
        "block_tables": np.zeros((1, 1), np.int32),
        "seq_lens": np.array([9], np.int32),
        "query_starts": np.array([0, 9], np.int32),
    }
    q = rng.standard_normal((9, 2, 4))
    clean = ops.paged_attention(q, **caches, **batch, window=window)
    caches[infinite][0, place] = np.inf
    with np.errstate(invalid="ignore"):
        found = ops.paged_attention(q, **caches, **batch, window=window)
    ages = np.arange(9) - place
    blind = (ages < 0) | (ages >= (window or 9))
    np.testing.assert_allclose(found[blind], clean[blind], rtol=1e-12)
    assert infinite == "k_cache" or not np.isfinite(found[~blind]).any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_keep_the_activation_dtype(dtype: str) -> None:
    x, w = normal(0, 2, 8, dtype=dtype), normal(1, 8, dtype=dtype)
    for out in (
        ops.rms_norm(x, w),
        ops.layer_norm(x, w),
        ops.silu_and_mul(x, x),
        ops.linear(x, x),
        ops.gelu(x),
        ops.scale(x, factor=2.0),
    ):
        assert out.dtype == dtype


def test_take_rows() -> None:
    x = normal(0, 5, 3)
    np.testing.assert_array_equal(ops.take_rows(x, np.array([4, 4, 0], np.int32)), x[[4, 4, 0]])
