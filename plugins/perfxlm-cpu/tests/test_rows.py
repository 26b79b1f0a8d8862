"""Elementwise operators, normalizations, rotary tables and rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import ops

SEEDS = st.integers(0, 2**32 - 1)
WIDTHS = st.sampled_from([1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 576])
ROWS = st.integers(0, 9)


def normal(seed: int, *shape: int, size: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float32)


@pytest.mark.parametrize("op", [ops.add, ops.mul], ids=str)
@given(seed=SEEDS, rows=ROWS, width=WIDTHS)
def test_two_arguments(bench, op, seed, rows, width):
    bench.check(op, {"a": normal(seed, rows, width), "b": normal(seed + 1, rows, width)})


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        (ops.scale, {"factor": 0.37, "offset": -1.5}),
        (ops.soft_cap, {"cap": 3.0}),
        (ops.silu, {}),
        (ops.gelu, {"approximate": "none"}),
        (ops.gelu, {"approximate": "tanh"}),
    ],
    ids=str,
)
@given(seed=SEEDS, rows=ROWS, width=WIDTHS, size=st.sampled_from([1e-4, 0.1, 1.0, 20.0]))
def test_one_argument(bench, op, attrs, seed, rows, width, size):
    bench.check(op, {"x": normal(seed, rows, width, size=size)}, **attrs)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        (ops.silu_and_mul, {}),
        (ops.gelu_and_mul, {"approximate": "none"}),
        (ops.gelu_and_mul, {"approximate": "tanh"}),
    ],
    ids=str,
)
@given(seed=SEEDS, rows=ROWS, width=WIDTHS)
def test_gates(bench, op, attrs, seed, rows, width):
    gate, up = normal(seed, rows, width), normal(seed + 1, rows, width)
    bench.check(op, {"gate": gate, "up": up}, **attrs)


def test_activations_far_from_zero(bench):
    x = np.linspace(-200, 200, 4001, dtype=np.float32)[:, None]
    for approximate in ("none", "tanh"):
        got = bench.run(ops.gelu, {"x": x}, approximate=approximate)[0]
        np.testing.assert_allclose(got, np.maximum(x, 0), atol=0.2)
        assert np.abs(got[x < -15]).max() < 1e-30
    got = bench.run(ops.silu, {"x": x})[0]
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-36)


@given(seed=SEEDS, rows=ROWS, width=WIDTHS, eps=st.sampled_from([1e-6, 1e-5, 0.1]))
def test_normalizations(bench, seed, rows, width, eps):
    x, weight = normal(seed, rows, width), normal(seed + 1, width)
    bench.check(ops.rms_norm, {"x": x, "weight": weight}, eps=eps)
    if width > 2:  # one or two elements minus their mean are mostly rounding
        bias = normal(seed + 2, width)
        bench.check(ops.layer_norm, {"x": x, "weight": weight, "bias": bias}, eps=eps)
        bench.check(ops.layer_norm, {"x": x, "weight": weight, "bias": None}, eps=eps)


def test_row_of_zeros(bench):
    zeros = np.zeros((2, 5), np.float32)
    bench.check(ops.rms_norm, {"x": zeros, "weight": np.ones(5, np.float32)})


@given(seed=SEEDS, tokens=ROWS, half=st.integers(1, 65), top=st.sampled_from([10, 1_000_000]))
def test_rotary_table(bench, seed, tokens, half, top):
    rng = np.random.default_rng(seed)
    arrays = {
        "positions": rng.integers(0, top, tokens, dtype=np.int32),
        "inverse_frequencies": (10000.0 ** -(np.arange(half) / half)).astype(np.float32),
    }
    got = bench.run(ops.rotary_table, arrays, attention_factor=1.2)
    want = ops.rotary_table(**arrays, attention_factor=1.2)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, atol=3e-7)


@given(
    seed=SEEDS,
    tokens=ROWS,
    heads=st.integers(1, 5),
    head_dim=st.sampled_from([2, 3, 8, 20, 64, 80, 128]),
    part=st.floats(0.1, 1),
    interleaved=st.booleans(),
)
def test_rotary_embedding(bench, seed, tokens, heads, head_dim, part, interleaved):
    half = max(1, int(head_dim * part) // 2)
    angles = normal(seed, tokens, half)
    arrays = {
        "x": normal(seed + 1, tokens, heads, head_dim),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }
    bench.check(ops.rotary_embedding, arrays, interleaved=interleaved)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8"])
@given(seed=SEEDS, rows=ROWS, width=WIDTHS)
def test_take_rows(bench, dtype, seed, rows, width):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 100, (11, width)).astype(dtype)
    picked = rng.integers(0, 11, rows).astype(np.int32)
    got = bench.run(ops.take_rows, {"x": x, "rows": picked})[0]
    np.testing.assert_array_equal(got, x[picked])
