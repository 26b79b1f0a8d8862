"""Operators over tensors of any shape, and sampling: definitions pass, planted bugs are found."""

import os

import numpy as np
import pytest

from perfxlm_core.conformance import Failure, check, run, run_slot
from perfxlm_core.conformance.structured import family_of, known_operators
from perfxlm_core.plugin import KernelSet

from . import numpy_kernels_tensor
from .mutants_tensor import LEGAL, MUTANTS, mutate
from .zoo import slots_of, target_of

SEEDS = range(int(os.environ.get("PERFXLM_CONFORMANCE_SEEDS", "1")))
UNCOVERED = {"split"}
"""It has any number of outputs, which a kernel cannot declare."""
PLANNED = {"attention"}
"""A plan has others in its place."""


def names(zoo):
    return [f"{kernel}: {name}" for name, kernel, *_ in zoo]


def definition(op):
    """The operator's own body as a kernel."""
    made = KernelSet(vendor="definition", device="numpy")
    count = len(op.outputs)
    arguments = ", ".join(op.kernel_parameters[: count + len(op.params)])
    attributes = "".join(f", {name}" for name in op.attributes)

    def body(*given, **attrs):
        inputs = [list(g) if isinstance(g, tuple) else g for g in given[count:]]
        with np.errstate(all="ignore"):
            results = op.fn(*inputs, **attrs)
        results = results if isinstance(results, tuple) else (results,)
        for out, value in zip(given, results, strict=False):
            out[...] = value

    star = ", *" if op.attributes else ""
    passed = "".join(f", {name}={name}" for name in op.attributes)
    space = {"body": body}
    exec(f"def {op.name}({arguments}{star}{attributes}): body({arguments}{passed})", space)
    made.implements(op)(space[op.name])
    return made


def test_every_operator_that_a_kernel_can_run_is_covered():
    lacking = {name for name, op in known_operators().items() if family_of(op) is None}
    assert lacking == UNCOVERED


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(set(known_operators()) - UNCOVERED - PLANNED))
def test_a_definition_passes(name, seed):
    op = known_operators()[name]
    if op.updates:
        # A definition that updates its arguments is no kernel: numpy_kernels has their kernels.
        pytest.skip("its body writes into its arguments")
    target = target_of(definition(op))
    for slot in slots_of(target)[:2]:
        row = run_slot(target, slot, 3, seed)
        assert row.status == "passed", (row.failure, row.case)
        assert row.passed >= 3


@pytest.mark.parametrize("mutant", MUTANTS, ids=names(MUTANTS))
def test_a_planted_bug_is_found(mutant):
    name, kernel, *changes = mutant
    target = target_of(mutate(kernel, *changes))
    (op,) = {k.op.name for k in target.kernels}
    found = next((r for r in run(target, op) if r.failure is not None), None)
    assert found is not None, name
    with pytest.raises(Failure):
        check(target, found.case, kernel=found.kernel)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("legal", LEGAL, ids=names(LEGAL))
def test_a_legal_difference_is_no_bug(legal, seed):
    _, kernel, *changes = legal
    target = target_of(mutate(kernel, *changes))
    (op,) = {k.op.name for k in target.kernels}
    rows = list(run(target, op, 10, seed))
    assert [(r.failure, r.case) for r in rows if r.failure] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "slot", slots_of(target_of(numpy_kernels_tensor.kernels)), ids=lambda s: s.name
)
def test_a_right_kernel_passes(slot, seed):
    row = run_slot(target_of(numpy_kernels_tensor.kernels), slot, 4, seed)
    assert row.status == "passed", (row.failure, row.case)
