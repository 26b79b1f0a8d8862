"""The kit's cases of composite operators: right kernels pass, each planted bug is found."""

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.conformance import Target, run
from perfxlm_core.plugin import KernelSet

from .numpy_kernels import NumpyDevice

FEW, MANY = 8, 40
DTYPES = ("float32", "float16")


def f32(x):
    if x is None:
        return None
    return x.float32() if hasattr(x, "float32") else np.asarray(x, np.float32)


def norm(x, weight, eps):
    return f32(x) if weight is None else ops.rms_norm.fn(f32(x), f32(weight), eps=eps)


def product(x, weight, bias):
    return ops.linear.fn(x, f32(weight), f32(bias))


def kernels(bug=None):
    """Kernels that round once, at the end; `bug` leaves one thing out."""
    made = KernelSet(vendor="numpy", device="numpy")
    rules = {"dtypes": DTYPES, "formats": ("float32", "float16", "q8_0")}

    @made.implements(ops.linear_add, **rules)
    def linear_add(out, x, weight, residual, bias, *, exact):
        y = product(f32(x), weight, None if bug == "bias" else bias)
        out[...] = y if bug == "residual" else y + f32(residual)

    @made.implements(ops.gated_linear, **rules)
    def gated_linear(
        out, x, gate_weight, up_weight, norm_weight, gate_bias, up_bias, *, eps, activation, exact
    ):
        y = norm(x, norm_weight, 0.0 if bug == "eps" else eps)
        gate, up = product(y, gate_weight, gate_bias), product(y, up_weight, up_bias)
        if bug == "swapped":
            gate, up = up, gate
        if activation == "silu":
            out[...] = ops.silu_and_mul.fn(gate, up)
        else:
            tanh = activation == "gelu_tanh" or bug == "approximate"
            out[...] = ops.gelu_and_mul.fn(gate, up, approximate="tanh" if tanh else "none")

    @made.implements(ops.qkv_rotary_store, cache_dtypes=DTYPES, **rules)
    def qkv_rotary_store(
        q, x, q_weight, k_weight, v_weight, cos, sin, k_cache, v_cache, slot_mapping,
        norm_weight, q_bias, k_bias, v_bias, q_norm_weight, k_norm_weight,
        *, eps, head_eps, interleaved, exact,
    ):  # fmt: skip
        y, size = norm(x, norm_weight, eps), k_cache.shape[3]

        def turned(weight, bias, by):
            heads = product(y, weight, bias).reshape(-1, weight.shape[0] // size, size)
            heads = norm(heads, by, eps if bug == "head_eps" else head_eps)
            return ops.rotary_embedding.fn(heads, cos, sin, interleaved=interleaved)

        q[...] = turned(q_weight, q_bias, None if bug == "q_norm" else q_norm_weight)
        if bug == "stale keys":
            return
        k = turned(k_weight, k_bias, k_norm_weight)
        v = product(y, v_weight, v_bias).reshape(len(y), *v_cache.shape[2:])
        slots = np.abs(slot_mapping) if bug == "skipped tokens" else slot_mapping
        if bug == "values by keys' slots":
            v = v[::-1]
        ops.store_kv.fn(k, v, k_cache, v_cache, slots)

    return made


def rows(op, bug=None, examples=FEW):
    return run(Target.of("numpy", NumpyDevice(), kernels(bug)), op, examples)


@pytest.mark.parametrize("op", ["linear_add", "gated_linear", "qkv_rotary_store"])
def test_right_kernels_pass(op):
    found = list(rows(op))
    assert [(r.failure, r.case) for r in found if r.failure] == []
    assert len(found) >= 6
    assert all(r.passed for r in found)


@pytest.mark.parametrize(
    ("op", "bug"),
    [
        ("linear_add", "bias"),
        ("linear_add", "residual"),
        ("gated_linear", "eps"),
        ("gated_linear", "swapped"),
        ("gated_linear", "approximate"),
        ("qkv_rotary_store", "q_norm"),
        ("qkv_rotary_store", "head_eps"),
        ("qkv_rotary_store", "stale keys"),
        ("qkv_rotary_store", "skipped tokens"),
        ("qkv_rotary_store", "values by keys' slots"),
    ],
)
def test_a_planted_bug_is_found(op, bug):
    assert any(r.failure is not None for r in rows(op, bug, MANY)), bug


def test_formats_of_weights_are_tried():
    assert {r.format for r in rows("linear_add")} >= {"float32", "q8_0"}
