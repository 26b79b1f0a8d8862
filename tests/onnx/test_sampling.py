"""Operators between logits and tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perfxlm_core import ops
from perfxlm_core.errors import OperatorError

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.floats(-20, 20, width=32),
)


def column(rows, value, kind):
    return np.full(rows, value, kind)


def draw(logits, *, heat=1.0, k=0, p=1.0, u=0.5):
    rows = len(logits)
    return ops.sample_top_k_top_p(
        logits, column(rows, heat, np.float32), column(rows, k, np.int32),
        column(rows, p, np.float32), column(rows, u, np.float32),
    )  # fmt: skip


@given(ROWS)
@settings(deadline=None)
def test_softmax_sums_to_one_and_ignores_shifts(logits):
    probabilities = ops.softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(ops.softmax(logits + 64), probabilities, atol=1e-4)
    np.testing.assert_allclose(np.exp(ops.log_softmax(logits)), probabilities, atol=1e-5)


def test_softmax_of_large_logits():
    logits = np.array([[1e4, 1e4, -1e4]], np.float32)
    np.testing.assert_array_equal(ops.softmax(logits), [[0.5, 0.5, 0]])


@given(ROWS)
@settings(deadline=None)
def test_greedy_is_what_every_limit_leaves_at_last(logits):
    best = ops.greedy(logits)
    np.testing.assert_array_equal(best, logits.argmax(axis=1))
    np.testing.assert_array_equal(draw(logits, heat=0.0), best)
    np.testing.assert_array_equal(draw(logits, k=1, u=0.99), best)
    np.testing.assert_array_equal(draw(logits, p=1e-6, u=0.99), best)


@given(ROWS, st.integers(1, 9), st.floats(0, 1, exclude_max=True, width=32))
@settings(deadline=None)
def test_a_draw_is_among_the_top_k(logits, k, u):
    k = min(k, logits.shape[1])
    values, _ = ops.top_k(logits, np.array([k]))
    drawn = draw(logits, k=k, u=u)
    assert (logits[np.arange(len(logits)), drawn] >= values[:, -1]).all()


@given(ROWS, st.floats(0.0625, 1, width=32), st.floats(0, 1, exclude_max=True, width=32))
@settings(deadline=None)
def test_a_draw_is_among_the_top_p(logits, p, u):
    probabilities = ops.softmax(logits.astype(np.float64))
    drawn = draw(logits, p=p, u=u)
    for row, token in zip(probabilities, drawn, strict=True):
        better = row[row > row[token]].sum()
        assert better < p + 1e-5


def test_draws_have_the_distribution_that_they_should():
    logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    steps = (np.arange(1000, dtype=np.float32) + 0.5) / 1000
    many = np.repeat(logits, 1000, axis=0)
    drawn = ops.sample_top_k_top_p(
        many, column(1000, 1, np.float32), column(1000, 0, np.int32),
        column(1000, 1, np.float32), steps,
    )  # fmt: skip
    np.testing.assert_allclose(np.bincount(drawn) / 1000, [0.5, 0.3, 0.2], atol=2e-3)
    drawn = ops.sample_top_k_top_p(
        many, column(1000, 1, np.float32), column(1000, 2, np.int32),
        column(1000, 1, np.float32), steps,
    )  # fmt: skip
    np.testing.assert_allclose(np.bincount(drawn) / 1000, [0.625, 0.375], atol=2e-3)


@given(ROWS)
@settings(deadline=None)
def test_log_probabilities(logits):
    ids = np.zeros(len(logits), np.int32)
    want = ops.log_softmax(logits)[:, 0]
    np.testing.assert_allclose(ops.log_probabilities(logits, ids), want, atol=1e-5)


def test_top_k_prefers_the_lower_index_among_equals():
    x = np.array([1, 3, 3, 2, 3], np.float32)
    values, indices = ops.top_k(x, np.array([3]))
    np.testing.assert_array_equal(indices, [1, 2, 4])
    np.testing.assert_array_equal(values, [3, 3, 3])
    _, indices = ops.top_k(-x, np.array([3]), largest=0)
    np.testing.assert_array_equal(indices, [1, 2, 4])


def test_limits_are_checked():
    with pytest.raises(ValueError, match="k=4 of an axis of 3"):
        ops.top_k(np.zeros(3, np.float32), np.array([4]))
    with pytest.raises(OperatorError, match="no token"):
        draw(np.zeros((1, 0), np.float32))
