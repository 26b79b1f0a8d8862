"""The kit finds every planted bug, and blames no right kernel."""

import os

import pytest

from perfxlm_core.conformance import Failure, Target, check, run, run_slot, slots

from . import numpy_kernels
from .mutants import LEGAL, MUTANTS, mutate

SEEDS = range(int(os.environ.get("PERFXLM_CONFORMANCE_SEEDS", "1")))
FEW = 10


def target_of(kernels):
    return Target.of("zoo", numpy_kernels.NumpyDevice(), kernels)


def names(zoo):
    return [f"{kernel}: {name}" for name, kernel, _, _ in zoo]


def slot_name(slot):
    return f"{slot.kernel.name}-{slot.variant.dtype}-{slot.variant.label}"


def check_often(target, row):
    for _ in range(20):  # a race does not show each time
        check(target, row.case, kernel=row.kernel)


@pytest.mark.parametrize(("name", "kernel", "old", "new"), MUTANTS, ids=names(MUTANTS))
def test_a_planted_bug_is_found(name, kernel, old, new):
    target = target_of(mutate(kernel, old, new))
    (op,) = {k.op.name for k in target.kernels}
    found = next((r for r in run(target, op) if r.failure is not None), None)
    assert found is not None, name
    with pytest.raises(Failure) as again:
        check_often(target, found)
    assert again.value.check == found.failure.split(":")[0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "kernel", "old", "new"), LEGAL, ids=names(LEGAL))
def test_a_legal_difference_is_no_bug(name, kernel, old, new, seed):
    target = target_of(mutate(kernel, old, new))
    (op,) = {k.op.name for k in target.kernels}
    rows = list(run(target, op, FEW, seed))
    assert [(r.failure, r.case) for r in rows if r.failure] == []
    assert sum(r.passed for r in rows) >= FEW


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slot", slots(target_of(numpy_kernels.kernels)), ids=slot_name)
def test_a_right_kernel_passes(slot, seed):
    row = run_slot(target_of(numpy_kernels.kernels), slot, FEW, seed)
    assert row.status == "passed", (row.failure, row.case)
    assert row.worst <= 1
