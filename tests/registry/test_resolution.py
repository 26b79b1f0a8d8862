"""Which kernel runs a node, and what is said about the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.errors import AmbiguousKernelError, PluginError
from perfxlm_core.ops.spec import TensorType
from perfxlm_core.plugin import KernelSet, Registry
from perfxlm_core.registry.kernels import Query


def query(hidden=64, dtype="float32", device="npu", eps=1e-6):
    types = {"x": TensorType((4, hidden), dtype), "weight": TensorType((hidden,), dtype)}
    return Query.of(ops.rms_norm, types, {"eps": eps}, ["weight"], device)


def linear_query(weight_format, constants=("weight",)):
    types = {
        "x": TensorType((4, 64), "float32"),
        "weight": TensorType((32, 64), weight_format),
        "bias": None,
    }
    return Query.of(ops.linear, types, {"exact": True}, constants, "npu")


def kernel(vendor="acme", device="npu", op=ops.rms_norm, **accepts):
    kernels = KernelSet(vendor=vendor, device=device)

    @kernels.binds(op, **accepts)
    def run(site):
        return lambda sizes: None

    return kernels


def registry(*sets):
    found = Registry()
    for kernels in sets:
        found.extend(kernels)
    return found


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6, unique=True), st.randoms())
def test_the_highest_priority_wins_whatever_the_order_of_loading(priorities, random):
    sets = [kernel(vendor=f"v{p}", priority=p) for p in priorities]
    random.shuffle(sets)
    chosen = registry(*sets).resolve(query())
    assert chosen.kernel.vendor == f"v{max(priorities)}"
    assert {reason for _, reason in chosen.refusals} == {
        f"priority {p}" for p in priorities if p != max(priorities)
    }


def test_a_tie_between_vendors_is_the_users_to_settle():
    tied = registry(kernel(vendor="acme", priority=3), kernel(vendor="zeta", priority=3))
    with pytest.raises(AmbiguousKernelError) as caught:
        tied.resolve(query())
    said = str(caught.value)
    assert "rms_norm: acme and zeta both offer a kernel of priority 3" in said
    assert "kernels={'rms_norm': 'acme'}" in said
    assert tied.resolve(query(), {"rms_norm": "zeta"}).kernel.vendor == "zeta"


def test_two_kernels_of_one_vendor_do_not_tie():
    chosen = registry(kernel(priority=1), kernel(priority=1)).resolve(query())
    assert chosen.kernel.vendor == "acme"


def test_a_preferred_vendor_that_cannot_is_passed_over():
    found = registry(kernel(vendor="acme"), kernel(vendor="zeta", dtypes=("float16",)))
    assert found.resolve(query(), {"rms_norm": "zeta"}).kernel.vendor == "acme"


@pytest.mark.parametrize(
    ("accepts", "asked", "reason"),
    [
        ({"dtypes": ("float16",)}, query(), "dtype float32 not in ('float16',)"),
        ({"when": lambda d, a: d.hidden <= 32}, query(hidden=64), "hidden=64"),
        ({"when": lambda d, a: a.eps > 1}, query(eps=0.5), "eps=0.5"),
        ({}, query(device="gpu"), "runs on npu"),
        ({"op": ops.linear}, linear_query("q4_1"), "format q4_1 not in plain dtypes"),
        ({"op": ops.linear, "formats": ("q4_0",)}, linear_query("q4_1"), "format q4_1 not in"),
        (
            {"op": ops.linear, "constants": ("weight",)},
            linear_query("float32", constants=()),
            "weight must be constant",
        ),
    ],
)
def test_every_refusal_says_what_was_asked_and_what_is_accepted(accepts, asked, reason):
    answer = registry(kernel(**accepts)).resolve(asked)
    assert answer.kernel is None
    ((name, said),) = answer.refusals
    assert name == "acme.run"
    assert reason in said


def test_a_kernel_that_accepts_everything_it_states_is_chosen():
    accepts = {"dtypes": ("float32",), "formats": ("q4_1",), "constants": ("weight",)}
    found = registry(kernel(op=ops.linear, when=lambda d, a: d.in_features == 64, **accepts))
    assert found.resolve(linear_query("q4_1")).kernel is not None


def test_nothing_registered_is_no_kernel_and_no_refusals():
    answer = Registry().resolve(query())
    assert answer.kernel is None
    assert answer.refusals == ()


def test_decorating_changes_nothing_but_its_own_set():
    first, second = kernel(), kernel()
    assert len(list(first)) == len(list(second)) == 1
    assert Registry().kernels == {}


@pytest.mark.parametrize(
    "function",
    [
        lambda out, x, weight: None,
        lambda out, x, weight, epsilon: None,
        lambda x, weight, eps: None,
        lambda out, weight, x, eps: None,
    ],
)
def test_a_simple_kernel_must_have_its_operators_parameters(function):
    kernels = KernelSet(vendor="acme", device="npu")
    with pytest.raises(PluginError, match=r"takes \['out', 'x', 'weight', 'eps'\]"):
        kernels.implements(ops.rms_norm)(function)
    assert len(kernels) == 0


def test_a_two_phase_kernel_takes_the_site_alone():
    kernels = KernelSet(vendor="acme", device="npu")
    with pytest.raises(PluginError, match="takes the site alone"):
        kernels.binds(ops.rms_norm)(lambda site, extra: None)


def test_what_is_no_operator_cannot_be_implemented():
    with pytest.raises((PluginError, AttributeError)):
        KernelSet(vendor="acme", device="npu").binds(np.add)(lambda site: None)


def test_only_kernels_can_be_delivered():
    with pytest.raises(PluginError, match="deliver a KernelSet"):
        Registry().extend([lambda out: None])
