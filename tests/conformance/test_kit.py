"""What the kit promises beside finding bugs: refusals, reports, and Python that shows a failure."""

from dataclasses import replace

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.conformance import Case, Failure, Target, check, run, run_slot, slots, snippet
from perfxlm_core.conformance.values import KINDS, SCALE_OFFSETS, generator, weight
from perfxlm_core.errors import ArgumentError
from perfxlm_core.ops.formats import FORMATS
from perfxlm_core.plugin import KernelSet

from . import numpy_kernels
from .mutants import mutate


def target(kernels):
    return Target.of("zoo", numpy_kernels.NumpyDevice(), kernels)


def kernel_set(**declared):
    made = KernelSet(vendor="zoo", device="numpy")

    @made.implements(ops.mul, **declared)
    def mul(out, a, b):
        np.multiply(a, b, out=out)

    return made


def rows_of(kernels, op, examples=30):
    return list(run(target(kernels), op, examples))


def test_a_kernel_that_declines_everything_did_not_pass():
    (row, *_) = rows_of(kernel_set(dtypes=["float32"], when=lambda d, a: False), "mul")
    assert (row.status, row.passed, row.declined) == ("declined", 0, 30)


def test_a_condition_that_raises_is_a_failure():
    (row, *_) = rows_of(kernel_set(dtypes=["float32"], when=lambda d, a: d.hidden > 3), "mul")
    assert row.failure.startswith("refusals: `when` raises AttributeError")


def test_a_kernel_declines_some_and_runs_the_rest():
    few = kernel_set(dtypes=["float32"], when=lambda d, a: len(d.batch) == 2)
    (row, *_) = rows_of(few, "mul", 60)
    assert row.status == "passed"
    assert row.passed > 5
    assert 60 <= row.passed + row.declined <= 180
    assert not row.scarce


def test_a_kernel_of_few_attributes_is_tried_with_those():
    narrow = KernelSet(vendor="zoo", device="numpy")

    @narrow.implements(ops.scale, when=lambda d, a: (a.factor, a.offset) == (-1.75, 0.25))
    def scale(out, x, *, factor, offset):
        out[...] = x * np.float32(factor) + np.float32(offset)

    for row in rows_of(narrow, "scale", 100):
        assert row.status == "passed"
        assert row.passed >= 50
        assert row.reason.startswith("declines")


def test_a_kernel_that_plain_calls_suit_is_tried_with_those():
    attention = next(k for k in numpy_kernels.kernels if k.op is ops.paged_attention)
    plain = replace(
        attention,
        when=lambda d, a: a.scale is None and a.window is None and a.soft_cap is None,
    )
    for row in rows_of([plain], "paged_attention", 20):
        assert row.status == "passed"
        assert row.passed >= 10


def test_a_kernel_that_takes_next_to_nothing_is_named():
    rare = kernel_set(dtypes=["float32"], when=lambda d, a: d.batch[1:] == (127,))
    (row,) = rows_of(rare, "mul", 60)
    assert 0 < row.passed < 18
    assert row.declined == 180 - row.passed
    assert row.scarce


def test_what_a_plugin_lacks_is_said():
    rows = [s for s in slots(target(kernel_set())) if s.note == "reference"]
    lacking = {r.op for r in rows}
    assert {"linear", "paged_attention", "rms_norm"} <= lacking
    assert "mul" not in lacking
    assert "attention" not in lacking


def test_the_printed_python_shows_the_failure():
    bad = target(mutate("rms_norm", "mean + np.float32(eps)", "mean"))
    row = next(r for r in run(bad, "rms_norm") if r.failure)
    lines = snippet("zoo", row).replace("'zoo'", "bad")
    with pytest.raises(Failure, match=r"values: out\[0, 0\]"):
        exec(lines, {"bad": bad})


def test_shrinking_leaves_a_small_case():
    bad = target(mutate("linear", "range(0, columns, TILE)", "range(0, columns - 1, TILE)"))
    row = next(r for r in run(bad, "linear") if r.failure)
    assert row.case.sizes["in_features"] <= 17
    assert row.case.sizes["out_features"] == 1
    assert len(row.case.steps) == 1


def test_the_same_seed_draws_the_same_cases():
    slot = slots(target(numpy_kernels.kernels), "rms_norm")[0]
    one, two = (run_slot(target(numpy_kernels.kernels), slot, 20, 3) for _ in range(2))
    assert one == two
    assert one.worst > 0


def test_an_unknown_operator_is_an_error():
    with pytest.raises(ArgumentError, match="no operator is called 'nonsense'"):
        slots(target(kernel_set()), "nonsense")


def test_a_case_that_nothing_runs_is_an_error():
    case = Case("mul", sizes={"batch": ()}, steps=({"tokens": 1},))
    assert check(target(kernel_set()), case)[0] < 0.1
    with pytest.raises(ArgumentError, match=r"zoo.mul: dtype float32 not in"):
        check(target(kernel_set(dtypes=["float16"])), case)


@pytest.mark.parametrize("format_name", sorted(FORMATS))
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_format_are_finite(format_name, kind):
    shape = (3, 2 * FORMATS[format_name].block_size)
    values = weight(generator(0, "w", 0), "w", shape, format_name, kind).float32()
    assert np.isfinite(values).all()
    assert values.any() == (kind != "zeros")


def test_scales_are_known_for_every_format():
    assert set(SCALE_OFFSETS) == set(FORMATS)
