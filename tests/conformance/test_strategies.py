"""What strategies promise: sizes of real models, kinds of numbers, cases that print as Python."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from perfxlm_core import ops
from perfxlm_core.conformance import Case, Variant
from perfxlm_core.conformance.arrays import flat, precise
from perfxlm_core.conformance.draws import MOST_WEIGHTS
from perfxlm_core.conformance.structured import FAMILIES, dtypes_of, family_of, known_operators
from perfxlm_core.conformance.values import FINITE, floats, generator, integers

QUICK = settings(
    max_examples=10,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def drawn(op, variant, large=False):
    """A few cases of an operator."""
    found = []

    @QUICK
    @given(family_of(op).cases(op, variant, large))
    def collect(case):
        found.append(case)

    collect()
    return found


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_printed_case_is_the_case(name):
    op = known_operators()[name]
    variant = Variant(dtypes_of(op, None, ["float32"])[0], "float32", "float32")
    for case in drawn(op, variant):
        again = eval(repr(case), {"Case": Case})
        assert again == case
        one, two = (family_of(op).arrays(op, c, 0) for c in (case, again))
        for a, b in zip(flat(one).values(), flat(two).values(), strict=True):
            assert np.array_equal(precise(a), precise(b), equal_nan=a is not None and
                                  precise(a).dtype.kind == "f")  # fmt: skip


def test_large_matrices_have_the_sizes_of_models():
    for format_name in ("float32", "q4_k"):
        cases = drawn(ops.linear, Variant("float32", format_name), large=True)
        assert max(c.sizes["in_features"] for c in cases) >= 1024
        assert all(c.sizes["in_features"] * c.sizes["out_features"] <= MOST_WEIGHTS for c in cases)


def test_large_contexts_are_long():
    cases = drawn(ops.paged_attention, Variant("float32", None, "float16"), large=True)
    assert max(n for c in cases for s in c.steps for n, _ in s["sequences"]) > 1000
    assert {c.sizes["head_dim"] for c in cases} <= {64, 128}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_kinds_of_numbers(dtype):
    def made(kind):
        return floats(generator(1, "x", 0), (64, 64), dtype, kind)

    for kind in (*FINITE, "denormal"):
        assert np.isfinite(precise(made(kind))).all()
    smallest = {"float64": 2.3e-308, "float16": 6.2e-5}.get(dtype, 1.2e-38)
    assert 0 < np.abs(precise(made("denormal"))).max() < smallest
    assert np.isinf(precise(made("infinite"))).any()
    assert not np.isnan(precise(made("infinite"))).any()
    assert np.isnan(precise(made("nan"))).any()
    whole = np.isfinite(precise(made("nan"))).all(axis=1)
    assert 0.3 < whole.mean() < 0.9


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_wide_integers_reach_both_ends(dtype):
    info = np.iinfo(dtype)
    v = integers(generator(1, "x", 0), (1000,), dtype, wide=True)
    assert (v.min(), v.max()) == (info.min, info.max)
    few = integers(generator(1, "x", 0), (1000,), dtype, wide=False)
    assert few.max() == 9
