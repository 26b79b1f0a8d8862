"""A row of a linear layer has the same bits whatever is beside it, by any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core import ops

PLAIN = ["float32", "float16", "bfloat16"]
TOKENS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 13, 33, 70])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("format_name", [*PLAIN, "q4_0", "q4_1", "q8_0", "q4_k", "q6_k", "q5_1"])
@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=TOKENS,
    rows=st.integers(1, 70),
    columns=st.sampled_from([256, 1024, 1280, 2304]),
    threads=st.integers(1, 3),
)
def test_same_bits_in_any_batch(
    bench, crew_of, weight, exact, format_name, seed, tokens, rows, columns, threads
):
    rng = np.random.default_rng(seed)
    columns += 7 if format_name in PLAIN else 0
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    x[::3, 7] *= 40  # outliers in some tokens: their neighbours' blocks are multiplied twice
    matrix, shift = weight(rng, format_name, rows, columns), rng.standard_normal(rows)

    def multiply(by, x):
        given = {"x": x, "weight": matrix, "bias": shift.astype(np.float32)}
        return by.run(ops.linear, given, exact=exact)[0]

    whole = multiply(bench, x)
    for some in (np.arange(tokens - tokens // 2, tokens), rng.permutation(tokens), [tokens - 1]):
        np.testing.assert_array_equal(multiply(bench, x[some]), whole[some])
    if bench.device.variant == crew_of(1).device.variant:
        np.testing.assert_array_equal(multiply(crew_of(threads), x), whole)
