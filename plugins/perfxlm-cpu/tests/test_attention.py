"""Paged attention and the writing of the cache, over ragged batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.conformance import Case
from perfxlm_core.conformance.check import run_case
from perfxlm_core.ops.quantized_cache import quantized_rows
from perfxlm_core.plugin import numpy_dtype

FLOATS = ["float32", "float16", "bfloat16"]
CACHES = [*FLOATS, "int8"]


@st.composite
def batches(draw):
    """Lengths of contexts, and how many of their newest tokens are queries."""
    lengths = draw(st.lists(st.integers(1, 150), min_size=0, max_size=4))
    queries = [draw(st.sampled_from(sorted({0, 1, min(7, n), n}))) for n in lengths]
    return lengths, queries


def make_case(rng, batch, *, heads, kv_heads, head_dim, v_head_dim, block_size, cache, sinks):
    lengths, queries = batch
    needed = [-(-n // block_size) for n in lengths]
    blocks = sum(needed) + 2
    table = np.full((len(lengths), max(needed, default=0) + 1), 10**8, np.int32)
    free = rng.permutation(blocks)
    for s, n in enumerate(needed):
        table[s, :n], free = free[:n], free[n:]

    def fill(dim):
        made = np.full((blocks, block_size, kv_heads, dim), np.nan, np.float32)
        for s, n in enumerate(lengths):
            for j in range(n):
                row = rng.standard_normal((kv_heads, dim))
                made[table[s, j // block_size], j % block_size] = row
        return made

    keys, values = fill(head_dim), fill(v_head_dim)
    if cache == "int8":
        with np.errstate(invalid="ignore"):
            (k_codes, k_scales), (v_codes, v_scales) = quantized_rows(keys), quantized_rows(values)
        caches = {"k_cache": k_codes, "v_cache": v_codes}
        caches |= {"k_scales": k_scales, "v_scales": v_scales}
    else:
        dtype = numpy_dtype(cache)
        caches = {"k_cache": keys.astype(dtype), "v_cache": values.astype(dtype)}
    return {
        "q": rng.standard_normal((sum(queries), heads, head_dim)).astype(np.float32),
        **caches,
        "block_tables": table,
        "seq_lens": np.array(lengths, np.int32),
        "query_starts": np.cumsum([0, *queries]).astype(np.int32),
        "sinks": rng.standard_normal(heads).astype(np.float32) if sinks else None,
    }


def attention_of(case):
    return ops.paged_attention_int8 if "k_scales" in case else ops.paged_attention


def check(bench, case, **attrs):
    got = bench.run(attention_of(case), case, **attrs)[0]
    exact = ("q", "sinks", "k_cache", "v_cache")
    wide = {k: v.astype(np.float64) if k in exact and v is not None else v
            for k, v in case.items()}  # fmt: skip
    want = attention_of(case).fn(**wide, **attrs)
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("cache", CACHES)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=batches(),
    groups=st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 3), (40, 2), (7, 7)]),
    head_dim=st.sampled_from([1, 3, 16, 40, 64, 80]),
    v_head_dim=st.sampled_from([None, 1, 24, 70]),
    block_size=st.sampled_from([1, 7, 16]),
    window=st.sampled_from([None, 1, 5, 64, 1000]),
    soft_cap=st.sampled_from([None, 2.0]),
    scale=st.sampled_from([None, 0.3]),
    sinks=st.booleans(),
)
def test_ragged_batches(
    bench, cache, seed, batch, groups, head_dim, v_head_dim, block_size, window, soft_cap, scale,
    sinks,
):  # fmt: skip
    case = make_case(
        np.random.default_rng(seed),
        batch,
        heads=groups[0],
        kv_heads=groups[1],
        head_dim=head_dim,
        v_head_dim=v_head_dim or head_dim,
        block_size=block_size,
        cache=cache,
        sinks=sinks,
    )
    check(bench, case, window=window, soft_cap=soft_cap, scale=scale)


@pytest.mark.parametrize("batch", [([900], [1]), ([300], [300]), ([513, 2, 64], [1, 2, 40])])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("window", [None, 150])
def test_long_contexts(crew, batch, sinks, window):
    case = make_case(
        np.random.default_rng(1), batch, heads=9, kv_heads=3, head_dim=64, v_head_dim=64,
        block_size=16, cache="float16", sinks=sinks,
    )  # fmt: skip
    check(crew, case, window=window)
    if batch == ([900], [1]):  # one item, cut along its keys as far as it goes
        alone = make_case(
            np.random.default_rng(2), batch, heads=2, kv_heads=1, head_dim=20, v_head_dim=12,
            block_size=16, cache="bfloat16", sinks=sinks,
        )  # fmt: skip
        check(crew, alone, window=window)


def test_wide_heads(bench):
    case = make_case(
        np.random.default_rng(2), ([70], [3]), heads=2, kv_heads=1, head_dim=512, v_head_dim=512,
        block_size=16, cache="float32", sinks=True,
    )  # fmt: skip
    check(bench, case)


def test_one_score_outshines_the_rest(bench):
    """Weights that underflow must neither poison the sum nor slow down into denormals."""
    case = make_case(
        np.random.default_rng(4), ([100], [1]), heads=1, kv_heads=1, head_dim=16, v_head_dim=16,
        block_size=16, cache="float32", sinks=False,
    )  # fmt: skip
    case["q"] *= 300
    check(bench, case)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("lengths", [([12], [12]), ([140, 9], [70, 9])])
def test_what_a_later_key_holds_does_not_matter(crew_of, threads, poison, lengths):
    """Its weight is zero, which times infinity would be no number."""
    case = make_case(
        np.random.default_rng(5), lengths, heads=6, kv_heads=2, head_dim=24, v_head_dim=24,
        block_size=16, cache="float32", sinks=False,
    )  # fmt: skip
    crew = crew_of(threads)
    want = crew.run(ops.paged_attention, case)[0]
    last = lengths[0][0] - 1
    at = case["block_tables"][0, last // 16], last % 16
    for name in ("k_cache", "v_cache"):
        case[name][at] = poison
    got = crew.run(ops.paged_attention, case)[0]
    touched = lengths[1][0] - 1
    assert not np.isfinite(got[touched]).any()
    np.testing.assert_array_equal(np.delete(got, touched, 0), np.delete(want, touched, 0))


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(0, 6),
    heads=st.integers(1, 3),
    dims=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    exponents=st.lists(st.integers(-45, 38), min_size=6, max_size=6),
)
def test_store_kv_int8(bench, seed, tokens, heads, dims, exponents):
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** np.array(exponents[:tokens]).reshape(-1, 1, 1)
    k, v = ((rng.uniform(-1, 1, (tokens, heads, d)) * sizes).astype(np.float32) for d in dims)
    slots = rng.permutation(4 * 5)[:tokens].astype(np.int32)
    slots[rng.random(tokens) < 0.2] = -1
    codes = [np.full((4, 5, heads, d), 77, np.int8) for d in dims]
    scales = [np.full((4, 5, heads), 0.5, np.float32) for _ in dims]
    arrays = {
        "k": k, "v": v, "k_cache": codes[0], "v_cache": codes[1], "k_scales": scales[0],
        "v_scales": scales[1], "slot_mapping": slots,
    }  # fmt: skip
    got = bench.run(ops.store_kv_int8, arrays)
    ops.store_kv_int8(**arrays)
    for g, w in zip(got, [*codes, *scales], strict=True):
        np.testing.assert_array_equal(g.view(np.uint8), w.view(np.uint8))


@pytest.mark.parametrize("cache", FLOATS)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(0, 6),
    heads=st.integers(1, 3),
    dims=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_store_kv(bench, cache, seed, tokens, heads, dims):
    rng = np.random.default_rng(seed)
    k, v = (
        (rng.standard_normal((tokens, heads, d)) * 10.0 ** rng.integers(-9, 5)).astype(np.float32)
        for d in dims
    )
    slots = rng.permutation(4 * 5)[:tokens].astype(np.int32)
    slots[rng.random(tokens) < 0.2] = -1
    caches = [np.zeros((4, 5, heads, d), numpy_dtype(cache)) for d in dims]
    arrays = {"k": k, "v": v, "k_cache": caches[0], "v_cache": caches[1], "slot_mapping": slots}
    with np.errstate(over="ignore"):
        got = bench.run(ops.store_kv, arrays)
        ops.store_kv(**arrays)
    for g, w in zip(got, caches, strict=True):
        np.testing.assert_array_equal(g.view(np.uint8), w.view(np.uint8))


def part_of(case, sequences):
    """The batch of `(sequence, first query, last query)`: so much of what is asked of each."""
    starts = case["query_starts"]
    queries = [np.arange(starts[s] + a, starts[s] + b) for s, a, b in sequences]
    ends = [case["seq_lens"][s] - (starts[s + 1] - starts[s] - b) for s, _, b in sequences]
    numbers = [s for s, _, _ in sequences]
    return np.concatenate(queries), case | {
        "q": case["q"][np.concatenate(queries)],
        "block_tables": case["block_tables"][numbers],
        "seq_lens": np.array(ends, np.int32),
        "query_starts": np.cumsum([0, *map(len, queries)]).astype(np.int32),
    }


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    groups=st.sampled_from([(1, 1), (3, 1), (8, 2), (9, 3), (40, 2)]),
    head_dim=st.sampled_from([1, 16, 24, 40, 64, 70]),
    cache=st.sampled_from(CACHES),
    window=st.sampled_from([None, 1, 100, 130]),
    soft_cap=st.sampled_from([None, 2.0]),
    sinks=st.booleans(),
    odd=st.booleans(),
    threads=st.integers(1, 3),
)
def test_same_bits_in_any_batch(
    bench, crew_of, seed, lengths, groups, head_dim, cache, window, soft_cap, sinks, odd, threads
):
    rng = np.random.default_rng(seed)
    asked = [int(rng.integers(1, min(n, 50) + 1)) for n in lengths]
    case = make_case(
        rng, (lengths, asked), heads=groups[0], kv_heads=groups[1], head_dim=head_dim,
        v_head_dim=head_dim, block_size=16, cache=cache, sinks=sinks,
    )  # fmt: skip
    attrs = {"window": window, "soft_cap": soft_cap, "scale": None}
    if odd:
        some = rng.random(case["q"].shape) < 0.02
        case["q"][some] = rng.choice([np.inf, -np.inf, np.nan], some.sum())
        values = case["v_scales" if cache == "int8" else "v_cache"]
        values[rng.random(values.shape) < 0.001] = np.inf

    def attend(by, case):
        return by.run(attention_of(case), case, **attrs)[0]

    whole = attend(bench, case)
    last = len(lengths) - 1
    cuts = [
        [(s, 0, asked[s]) for s in rng.permutation(len(lengths))],
        [(last, 0, asked[last])],
        [(s, asked[s] - 1, asked[s]) for s in range(len(lengths))],  # as when each is decoded
        [(0, asked[0] // 2, asked[0])],  # the second of two chunks
    ]
    for cut in cuts:
        rows, fewer = part_of(case, cut)
        np.testing.assert_array_equal(attend(bench, fewer), whole[rows])
    if bench.device.variant == crew_of(1).device.variant:
        np.testing.assert_array_equal(attend(crew_of(threads), case), whole)


@pytest.mark.parametrize("kind", ["infinite", "nan"])
@pytest.mark.parametrize("cache", FLOATS)
def test_rows_without_a_number_have_none_in_any_batch(bench, cache, kind):
    """A tile whose visible scores are no numbers once gave zeros, if others of it were masked."""
    (kernel,) = bench.registry.kernels["paged_attention"]
    for dim in (8, 64):
        case = Case(
            "paged_attention", cache_dtype=cache,
            sizes={"heads": 1, "kv_heads": 1, "head_dim": dim, "v_head_dim": dim,
                   "block_size": 16, "max_blocks": 256},
            steps=({"sequences": ((2063, 64),), "share": False},), given=("sinks",),
            constants=False, values=kind,
        )  # fmt: skip
        run_case(bench.device, kernel, case)


@pytest.mark.parametrize("cache", CACHES)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.sampled_from([1, 30, 64, 65, 140, 700]),
    groups=st.sampled_from([(1, 1), (6, 2), (40, 2)]),
    window=st.sampled_from([None, 1, 20, 130]),
    keys=st.booleans(),
    threads=st.integers(1, 3),
)
def test_infinite_values_reach_those_who_see_them(
    bench, crew_of, cache, seed, length, groups, window, keys, threads
):
    rng = np.random.default_rng(seed)
    queries = int(rng.integers(1, min(length, 60) + 1))
    case = make_case(
        rng, ([length], [queries]), heads=groups[0], kv_heads=groups[1], head_dim=16,
        v_head_dim=24, block_size=16, cache=cache, sinks=False,
    )  # fmt: skip

    def attend(by):
        return by.run(attention_of(case), case, window=window)[0]

    clean = attend(bench)
    place = int(rng.integers(length - queries, length))
    at = case["block_tables"][0, place // 16], place % 16
    stem = "k" if keys else "v"
    case[f"{stem}_scales" if cache == "int8" else f"{stem}_cache"][at] = np.inf
    ages = np.arange(length - queries, length) - place
    sees = (ages >= 0) & (ages < (window or length))
    found = attend(bench)
    np.testing.assert_array_equal(found[~sees], clean[~sees])
    assert keys or not np.isfinite(found[sees]).any()
    if bench.device.variant == crew_of(1).device.variant:
        np.testing.assert_array_equal(attend(crew_of(threads)), found)


@pytest.mark.parametrize("length", [127, 128, 129, 1000, 9000])
@pytest.mark.parametrize("groups", [(3, 1), (40, 2)])
def test_long_attention_by_any_threads(crew_of, length, groups):
    """Parts spread over threads, and more of them than there is room for at once."""
    case = make_case(
        np.random.default_rng(length), ([length, 5, 700], [min(length, 30), 1, 2]),
        heads=groups[0], kv_heads=groups[1], head_dim=16, v_head_dim=16, block_size=16,
        cache="float16", sinks=True,
    )  # fmt: skip
    want = crew_of(1).run(ops.paged_attention, case)[0]
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(crew_of(threads).run(ops.paged_attention, case)[0], want)
