"""The kit finds every planted bug, and blames no right kernel."""

import contextlib
import os

import pytest

from perfxlm_core.conformance import Failure, check, run, run_slot
from perfxlm_core.errors import ArgumentError

from .zoo import LEGAL, MUTANTS, RIGHT, slots_of, target_of

SEEDS = range(int(os.environ.get("PERFXLM_CONFORMANCE_SEEDS", "1")))
FEW = 5


def names(zoo):
    return [f"{kernel}: {name}" for _, name, kernel, *_ in zoo]


def slot_name(slot):
    return slot.name


def check_often(target, row):
    for _ in range(20):  # a race, or a condition that changes its mind, does not show each time
        with contextlib.suppress(ArgumentError):
            check(target, row.case, kernel=row.kernel)


@pytest.mark.parametrize("mutant", MUTANTS, ids=names(MUTANTS))
def test_a_planted_bug_is_found(mutant):
    mutate, name, kernel, *changes = mutant
    target = target_of(mutate(kernel, *changes))
    (op,) = {k.op.name for k in target.kernels}
    found = next((r for r in run(target, op) if r.failure is not None), None)
    assert found is not None, name
    with pytest.raises(Failure) as again:
        check_often(target, found)
    checks = {again.value.check, found.failure.split(":")[0]}
    assert len(checks) == 1 or checks == {"determinism", "reads"}  # noise may look like either


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("legal", LEGAL, ids=names(LEGAL))
def test_a_legal_difference_is_no_bug(legal, seed):
    mutate, _, kernel, *changes = legal
    target = target_of(mutate(kernel, *changes))
    (op,) = {k.op.name for k in target.kernels}
    rows = list(run(target, op, FEW, seed))
    assert [(r.failure, r.case) for r in rows if r.failure] == []
    assert sum(r.passed for r in rows) >= FEW


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slot", slots_of(target_of(RIGHT)), ids=slot_name)
def test_a_right_kernel_passes(slot, seed):
    row = run_slot(target_of(RIGHT), slot, FEW, seed)
    assert row.status == "passed", (row.failure, row.case)
    assert row.worst <= 1
