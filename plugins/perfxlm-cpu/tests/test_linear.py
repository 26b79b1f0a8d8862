"""Products with weights of every format, exact and with rounded activations; embeddings."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.plugin import FORMATS

PLAIN = ["float32", "float16", "bfloat16"]
SIMPLE = ["q4_0", "q4_1", "q8_0"]
ROUNDED = [*SIMPLE, "q4_k", "q6_k"]
SEEDS = st.integers(0, 2**32 - 1)
TOKENS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 17])


def columns_of(draw, format_name: str) -> int:
    if format_name in PLAIN:
        return draw(st.sampled_from([1, 3, 16, 33, 100, 1500]))
    block = FORMATS[format_name].block_size
    return block * draw(st.integers(1, 9 if block == 32 else 5))


@pytest.mark.parametrize("format_name", [*PLAIN, *FORMATS])
@settings(max_examples=8)
@given(data=st.data(), seed=SEEDS, tokens=TOKENS, rows=st.integers(1, 21), bias=st.booleans())
def test_exact(bench, weight, format_name, data, seed, tokens, rows, bias):
    rng = np.random.default_rng(seed)
    columns = columns_of(data.draw, format_name)
    arrays = {
        "x": rng.standard_normal((tokens, columns)).astype(np.float32),
        "weight": weight(rng, format_name, rows, columns),
        "bias": rng.standard_normal(rows).astype(np.float32) if bias else None,
    }
    got = bench.run(ops.linear, arrays, exact=True)[0]
    w = arrays["weight"].float32().astype(np.float64)
    want = arrays["x"].astype(np.float64) @ w.T + (arrays["bias"] if bias else 0)
    # relative to the row's largest, and to what a sum of random signs of these terms would be
    reach = np.sqrt(arrays["x"].astype(np.float64) ** 2 @ (w**2).T)
    size = np.maximum(np.abs(want), reach).max(axis=-1, keepdims=True, initial=1e-30)
    assert (np.abs(got - want) <= 2e-5 * size).all()


@pytest.mark.parametrize("format_name", [*PLAIN, *FORMATS])
@settings(max_examples=5)
@given(data=st.data(), seed=SEEDS, tokens=TOKENS)
def test_embedding(bench, weight, format_name, data, seed, tokens):
    rng = np.random.default_rng(seed)
    columns = columns_of(data.draw, format_name)
    arrays = {
        "token_ids": rng.integers(0, 13, tokens, dtype=np.int32),
        "table": weight(rng, format_name, 13, columns),
    }
    bench.check(ops.embedding, arrays, dtype="float32")


def rounded_activations(x: np.ndarray) -> np.ndarray:
    """What the kernel should multiply with: codes of 8 bits times a scale for every 32.

    Blocks that stand out among their token's are rounded a second time, what was left over.
    """
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    once = rounded_blocks(blocks)
    top = np.abs(blocks).max(axis=-1, keepdims=True)
    outlier = top > 2 * top.mean(axis=-2, keepdims=True)
    twice = once + rounded_blocks((blocks - once).astype(np.float32))
    return np.where(outlier, twice, once).reshape(x.shape)


def rounded_blocks(blocks: np.ndarray) -> np.ndarray:
    top = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    return np.rint(blocks.astype(np.float64) * inverse) * (top / np.float32(127))


@pytest.mark.parametrize("format_name", ROUNDED)
@settings(max_examples=30)
@given(
    seed=SEEDS,
    tokens=st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 64, 65, 130]),
    rows=st.integers(1, 70),
    blocks=st.integers(1, 20),
    bias=st.booleans(),
    outlier=st.sampled_from([1, 10, 1000]),
)
def test_rounded(bench, weight, format_name, seed, tokens, rows, blocks, bias, outlier):
    rng = np.random.default_rng(seed)
    columns = 32 * blocks if format_name in SIMPLE else 256 * (1 + blocks % 3)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = 0
    x[:, rng.integers(0, columns)] *= outlier
    arrays = {
        "x": x,
        "weight": weight(rng, format_name, rows, columns),
        "bias": rng.standard_normal(rows).astype(np.float32) if bias else None,
    }
    _, _, name = bench.bind(ops.linear, arrays, {"exact": False})
    assert name == "cpu.linear_int8"
    got = bench.run(ops.linear, arrays, exact=False)[0]
    if not tokens:
        return
    decoded = arrays["weight"].float32().astype(np.float64)
    shift = 0 if arrays["bias"] is None else arrays["bias"].astype(np.float64)
    rounded = rounded_activations(x) @ decoded.T + shift
    # scales of two levels are multiplied out and rounded to float16
    scales = 0 if format_name in SIMPLE else 2.0**-11 * np.abs(x) @ spread(arrays["weight"]).T
    size = np.abs(rounded).max(axis=-1, keepdims=True) + 1e-6
    # a quotient half way between two codes may fall either way where there is no fused product:
    # in few tokens, if any
    slack = 1.01 * np.abs(x).max() / 127 * np.abs(decoded).max()
    error = np.abs(got - rounded)
    assert (error <= 2e-5 * size + slack + scales).all()
    if tokens > 2:
        assert np.median(error / (2e-5 * size + scales)) <= 1
    exact = x.astype(np.float64) @ decoded.T + shift
    half_steps = np.abs(x.reshape(tokens, -1, 32)).max(axis=-1).repeat(32, axis=-1) / 254
    allowed = 1.01 * half_steps @ np.abs(decoded).T + 2e-5 * size + scales
    assert (np.abs(got - exact) <= allowed).all()


@pytest.mark.parametrize(("format_name", "places"), [("q4_k", (0, 2)), ("q6_k", (208,))])
@settings(max_examples=40)
@given(seed=SEEDS, scale=st.floats(width=16, allow_nan=False, allow_infinity=False))
@example(seed=0, scale=65504.0)
@example(seed=0, scale=6e-8)
@example(seed=0, scale=-513.0)
def test_scales_of_any_size(bench, weight, format_name, places, seed, scale):
    """Multiplied out they may be beyond float16; small ones lose nothing."""
    rng = np.random.default_rng(seed)
    w = weight(rng, format_name, 17, 512)
    raw = w.data.reshape(-1, FORMATS[format_name].block_bytes)
    for at in places:
        raw[:, at : at + 2] = np.array([scale], "<f2").view(np.uint8)
    x = rng.standard_normal((3, 512)).astype(np.float32)
    got = bench.run(ops.linear, {"x": x, "weight": w, "bias": None}, exact=False)[0]
    decoded = w.float32().astype(np.float64)
    half_steps = np.abs(x.reshape(3, -1, 32)).max(axis=-1).repeat(32, axis=-1) / 254
    scales = 2.0**-11 * np.abs(x) @ spread(w).T
    allowed = 1.01 * half_steps @ np.abs(decoded).T + 1.05 * scales
    assert (np.abs(got - x.astype(np.float64) @ decoded.T) <= allowed).all()


def spread(weight) -> np.ndarray:
    """Largest magnitude of scaled code plus that of the minimum, at least, for each weight."""
    w = np.abs(weight.float32().astype(np.float64))
    return w + 3 * w.reshape(len(w), -1, 32).max(axis=-1).repeat(32, axis=-1)


@pytest.mark.parametrize("format_name", SIMPLE)
def test_extreme_codes(bench, weight, format_name):
    """All codes at their limits: integer sums must neither saturate nor wrap."""
    rng = np.random.default_rng(0)
    w = weight(rng, format_name, 16, 64)
    raw = w.data.reshape(-1, FORMATS[format_name].block_bytes)
    head = 4 if format_name == "q4_1" else 2
    for low, high in ((0xFF, 0x00), (0x80, 0x7F), (0x80, 0x80), (0x81, 0x81)):
        raw[:, head:] = np.where(np.arange(raw.shape[1] - head) % 2, low, high)
        for x in (np.ones(64), -np.ones(64), np.where(np.arange(64) % 2, 1, -1)):
            x = x.astype(np.float32)[None]
            got = bench.run(ops.linear, {"x": x, "weight": w, "bias": None}, exact=False)[0]
            want = x.astype(np.float64) @ w.float32().astype(np.float64).T
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("tokens", [1, 31, 200])
@pytest.mark.parametrize("exact", [True, False])
def test_threads_agree(crew, weight, tokens, exact):
    rng = np.random.default_rng(tokens)
    arrays = {
        "x": rng.standard_normal((tokens, 160)).astype(np.float32),
        "weight": weight(rng, "q4_1", 77, 160),
        "bias": None,
    }
    crew.check(ops.linear, arrays, exact=exact, tolerance=2e-5 if exact else 2e-2)


def test_leading_dimensions(bench, weight):
    rng = np.random.default_rng(3)
    arrays = {
        "x": rng.standard_normal((2, 3, 64)).astype(np.float32),
        "weight": weight(rng, "q8_0", 5, 64),
        "bias": None,
    }
    bench.check(ops.linear, arrays, exact=True)
