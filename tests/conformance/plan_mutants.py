"""Plans with one planted bug each: of the memory planner, of a program, of a kernel in a graph."""

import math
from dataclasses import replace
from typing import Annotated

import numpy as np

from perfxlm_core import ops
from perfxlm_core.graph import memory
from perfxlm_core.graph import plan as planning
from perfxlm_core.ops.spec import op
from perfxlm_core.ops.types import Array, T
from perfxlm_core.plugin import KernelSet, loop, operand_view

from .numpy_kernels import NumpyDevice, kernels

ROWS = Annotated[Array, "*batch hidden", T]


@op(composite=True)
def add_rms_norm(a: ROWS, b: ROWS, weight: Annotated[Array, "hidden", T]) -> ROWS:
    """`a + b + rms_norm(a + b)`, a fusion that devices may have."""
    total = ops.add(a, b)
    return ops.add(total, ops.rms_norm(total, weight))


@op(composite=True)
def gated(gate: ROWS, up: ROWS, weight: Annotated[Array, "hidden", T]) -> ROWS:
    """`rms_norm(silu(gate) * up)`, which no device here has whole."""
    return ops.rms_norm(ops.silu_and_mul(gate, up), weight)


# Memory


def early(plan):
    """Every value is given up one node before its last reader."""
    blocks, slots, scratch = lifetimes(plan)
    return [replace(b, last=max(b.first, b.last - 1)) for b in blocks], slots, scratch


def outputs_given_up(plan):
    """Outputs of the graph are kept only until their last reader."""
    end = len(plan.steps)
    inputs = {v.name for v in plan.graph.inputs.values()}
    blocks, slots, scratch = lifetimes(plan)
    kept = [
        replace(b, last=b.first) if b.last == end and b.name not in inputs else b for b in blocks
    ]
    return kept, slots, scratch


def views_forgotten(plan):
    """A value lives only until its view is made."""
    blocks, slots, scratch = lifetimes(plan)
    found = list(blocks)
    for value, slot in slots.items():
        readers = [i for i, s in enumerate(plan.steps) for _, v in s.node.arguments() if v is value]
        if readers and value not in plan.graph.inputs.values():
            found[slot] = replace(blocks[slot], last=max(readers))
    return found, slots, scratch


def smallest_step(plan):
    """Room for one token, but for the inputs."""
    blocks, slots, scratch = lifetimes(plan)
    tokens, inputs = plan.sizes["tokens"], len(plan.graph.inputs)
    few = [replace(b, nbytes=b.nbytes // tokens) for b in blocks[inputs:]]
    return [*blocks[:inputs], *few], slots, scratch


def scratch_shared(plan):
    """Scratch memory lies where the first value does."""
    blocks, slots, scratch = lifetimes(plan)
    for slot in scratch.values():
        blocks[slot] = replace(blocks[slot], first=len(plan.steps) + 1, last=len(plan.steps) + 1)
    return blocks, slots, scratch


def one_overlap(blocks, in_front=0):
    """The smallest block lies where the largest does."""
    placed = place(blocks, in_front)
    order = sorted(range(len(blocks)), key=lambda i: blocks[i].nbytes)
    offsets = list(placed.offsets)
    offsets[order[0]] = offsets[order[-1]]
    return memory.Placement(tuple(offsets), placed.nbytes)


def rounded_down(blocks, in_front=0):
    """Blocks are cut to whole lines."""
    return place([replace(b, nbytes=b.nbytes // 64 * 64) for b in blocks], in_front)


def too_small(blocks, in_front=0):
    """The arena ends where its last block begins."""
    placed = place(blocks, in_front)
    return memory.Placement(placed.offsets, max(placed.offsets))


def inputs_given_up(blocks, in_front=0):
    """Inputs have no memory of their own, and are given up after the first node."""
    return place([replace(b, last=0) if i < in_front else b for i, b in enumerate(blocks)])


lifetimes, place = planning._lifetimes, planning.place
MEMORY = {
    **{f.__name__: ("_lifetimes", f) for f in (
        early, outputs_given_up, views_forgotten, smallest_step, scratch_shared,
    )},
    **{f.__name__: ("place", f) for f in (inputs_given_up, one_overlap, rounded_down, too_small)},
}  # fmt: skip


# Programs


class Device(NumpyDevice):
    """A device with a program of its own."""

    def __init__(self, make):
        self.make = make

    def program(self, launches, symbols):
        return self.make(launches)


def last_dropped(launches):
    return loop(launches[:-1] if len(launches) > 1 else launches)


def two_swapped(launches):
    """The second launch overtakes the first."""
    return loop([launches[1], launches[0], *launches[2:]] if len(launches) > 1 else launches)


def two_swapped_at_the_end(launches):
    return loop([*launches[:-2], *launches[-2:][::-1]])


def first_sizes(launches):
    """The sizes of the first step, for ever."""
    kept = {}

    def run(sizes):
        kept.update(sizes if not kept else {})
        loop(launches)(kept)

    return run


def sizes_mixed_up(launches):
    return lambda sizes: loop(launches)(dict(zip(sizes, sorted(sizes.values()), strict=True)))


def once(launches):
    """What was run with the same sizes is not run again."""
    seen = set()

    def run(sizes):
        if tuple(sizes.values()) not in seen:
            loop(launches)(sizes)
        seen.add(tuple(sizes.values()))

    return run


def empty_steps_skipped_too_often(launches):
    """A step of a single token is taken for an empty one."""
    return lambda sizes: loop(launches if sizes["tokens"] != 1 else [])(sizes)


PROGRAMS = (
    last_dropped, two_swapped, two_swapped_at_the_end, first_sizes, sizes_mixed_up, once,
    empty_steps_skipped_too_often,
)  # fmt: skip


# Order


def stored_too_late(*given, **more):
    """Attention runs before the keys of its step are stored: nothing it reads says otherwise."""
    plan = decide(*given, **more)
    for at, step in enumerate(plan.steps[:-1]):
        if step.node.op is ops.store_kv:
            plan.steps[at : at + 2] = [plan.steps[at + 1], step]
    return plan


decide = planning.decide


# Kernels


def scratch_bytes(dims, attrs):
    return 4 * dims.batch[-1] * math.prod(dims.batch[:-1])


def with_kernel(op, **declared):
    """The right kernels, with another for one operator, two-phase: `(site, sizes, views)`."""

    def decorate(body):
        made = KernelSet(vendor="acme", device="numpy")

        @made.binds(op, priority=9, **declared)
        def bound(site):
            state = {}

            def launch(sizes):
                views = {
                    n: operand_view(site.device, o, sizes)
                    if hasattr(o, "buffer")
                    else (None if o is None else o.array())
                    for n, o in site.operands.items()
                }
                if site.scratch is not None:
                    views["scratch"] = operand_view(site.device, site.scratch, sizes)
                body(site, state, **views)

            return launch

        bound.__name__ = body.__name__
        return [*(k for k in kernels if k.op is not op), *made]

    return decorate


@with_kernel(add_rms_norm)
def right_fusion(site, state, out, a, b, weight):
    total = a.astype(np.float32) + b
    mean = np.mean(total * total, axis=-1, keepdims=True)
    out[...] = total + total / np.sqrt(mean + 1e-6) * weight


@with_kernel(add_rms_norm)
def residual_dropped(site, state, out, a, b, weight):
    total = a.astype(np.float32) + b
    mean = np.mean(total * total, axis=-1, keepdims=True)
    out[...] = total / np.sqrt(mean + 1e-6) * weight


@with_kernel(ops.add, scratch=scratch_bytes)
def through_scratch(site, state, out, a, b, scratch):
    """Right, where scratch memory is the node's own."""
    total = scratch.view(np.float32)[: out.size].reshape(out.shape)
    total[...] = a
    total += b
    out[...] = total


@with_kernel(ops.add)
def operand_of_the_first_step(site, state, out, a, b):
    """What was the second operand once is the second operand for ever."""
    kept = state.setdefault("b", b.copy())
    out[...] = a + (kept if kept.shape == b.shape else b)


@with_kernel(ops.add)
def scratches_its_operand(site, state, out, a, b):
    a += b
    out[...] = a


@with_kernel(ops.rms_norm)
def row_of_the_step_before(site, state, out, x, weight, eps=1e-6):
    """The mean is computed from what the output held."""
    mean = np.mean(x.astype(np.float32) ** 2, axis=-1, keepdims=True) + 0 * out[..., :1]
    out[...] = x / np.sqrt(mean + site.attrs.eps) * weight


@with_kernel(ops.store_kv)
def stores_one_slot_too_many(site, state, k, v, k_cache, v_cache, slot_mapping):
    size = k_cache.shape[1]
    for t, slot in enumerate(slot_mapping):
        for at in (slot, (slot + 1) % (size * len(k_cache))):
            if at == slot or at not in slot_mapping:
                k_cache[at // size, at % size] = k[t]
                v_cache[at // size, at % size] = v[t]


@with_kernel(ops.store_kv)
def stores_keys_only_of_prompts(site, state, k, v, k_cache, v_cache, slot_mapping):
    ops.store_kv(k, v, k_cache, v_cache, slot_mapping if len(k) > 1 else slot_mapping * 0 - 1)


@with_kernel(ops.take_rows)
def first_rows(site, state, out, x, rows):
    out[...] = x[: len(rows)]


KERNELS = {
    "residual_dropped": residual_dropped,
    "operand_of_the_first_step": operand_of_the_first_step,
    "scratches_its_operand": scratches_its_operand,
    "row_of_the_step_before": row_of_the_step_before,
    "stores_one_slot_too_many": stores_one_slot_too_many,
    "stores_keys_only_of_prompts": stores_keys_only_of_prompts,
    "first_rows": first_rows,
}
