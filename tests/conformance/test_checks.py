"""The kit's own tools: where operands lie, rows in other batches, and what a device must do."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.conformance import Case, Failure, Target, Variant, check, run, slots
from perfxlm_core.conformance.bench import ALIGNMENT, Bench, Wanted
from perfxlm_core.conformance.case import LAYOUTS
from perfxlm_core.conformance.device import CHECKS, device_checks
from perfxlm_core.conformance.pages import PAGE
from perfxlm_core.conformance.structured import family_of
from perfxlm_core.errors import PluginError
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import op
from perfxlm_core.ops.types import I32, Array
from perfxlm_core.plugin import Buffer, KernelSet
from perfxlm_core.registry.device import operand_view

from . import numpy_kernels
from .mutants import mutate
from .zoo import target_of

SHAPES = st.lists(st.integers(0, 70), min_size=1, max_size=6)
DTYPES = ("float32", "float16", "int32", "uint8")
MUL = Case("mul", sizes={"batch": ()}, steps=({"tokens": 5},))


# Where operands lie


@given(SHAPES, st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_operands_are_aligned_and_apart(lengths, layout, seed):
    wanted = [Wanted(f"x{i}", (n,), DTYPES[i % 4]) for i, n in enumerate(lengths)]
    with Bench(numpy_kernels.NumpyDevice(), layout, seed) as bench:
        placed = bench.place(wanted, {})
    taken = Counter()
    for want, place in zip(wanted, placed, strict=True):
        size = want.nbytes({})
        assert place.operand.offset % ALIGNMENT == 0
        assert place.start <= place.operand.offset
        assert (
            place.operand.offset + size <= place.start + place.nbytes <= place.operand.buffer.nbytes
        )
        taken.update(
            (id(place.operand.buffer), b) for b in range(place.start, place.start + place.nbytes)
        )
    assert not taken or max(taken.values()) == 1
    if layout == "arena":
        assert len({id(p.operand.buffer) for p in placed}) == 1
        ends = sorted((p.operand.offset, w.nbytes({})) for p, w in zip(placed, wanted, strict=True))
        for (at, size), (then, _) in pairwise(ends):
            assert then - (at + size) < ALIGNMENT
        assert ends[0][0] % (2 * ALIGNMENT) == ALIGNMENT


@given(SHAPES, st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_what_is_written_is_read_again(lengths, layout, seed):
    rng = np.random.default_rng(seed)
    wanted = [Wanted(f"x{i}", (n,), "int32") for i, n in enumerate(lengths)]
    with Bench(numpy_kernels.NumpyDevice(), layout, seed) as bench:
        placed = bench.place(wanted, {})
        contents = [rng.integers(-9, 9, n).astype(np.int32) for n in lengths]
        for place, content in zip(placed, contents, strict=True):
            bench.write(place, content, 0x4B)
        for place, content in zip(placed, contents, strict=True):
            assert bench.read(place, {}, 0x4B).tolist() == content.tolist()


@pytest.mark.parametrize("beside", [-1, 0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_byte_beside_an_operand_is_noticed(layout, beside):
    device = numpy_kernels.NumpyDevice()
    bench = Bench(device, layout, 3)
    (place,) = bench.place([Wanted("x", (5,), "float32")], {})
    bench.fill(place, 0xFF)
    at = place.operand.offset + (20 if beside == 0 else -1)
    if place.start <= at < place.start + place.nbytes:
        place.operand.buffer.handle[at] ^= 1
        with pytest.raises(Failure, match="past its end" if beside == 0 else "before its start"):
            bench.read(place, {}, 0xFF)
    else:
        assert layout == "edge"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format_name", ["float32", "float16", "q8_0"])
def test_constants_lie_as_in_files(layout, format_name):
    data = np.arange(34 * 3, dtype=np.uint8)
    tensor = Tensor("w", (96,) if format_name == "q8_0" else (3,), format_name, data[:102])
    bench = Bench(numpy_kernels.NumpyDevice(), layout)
    found = bench.constant(tensor, 0x4B).data
    assert found.tobytes() == tensor.data.tobytes()
    assert not found.flags.writeable
    assert found.ctypes.data % (32 if format_name == "q8_0" else 2) == 0
    if layout == "edge":
        assert 0 <= -(found.ctypes.data + found.nbytes) % PAGE < 32


def test_a_case_is_placed_the_same_each_time():
    device = numpy_kernels.NumpyDevice()
    wanted = [Wanted(n, (17,), "float32") for n in "abcd"]
    bench = Bench(device, "arena", 5)
    one, two, other = (
        [p.operand.offset for p in b.place(wanted, {})]
        for b in (bench, bench.copy(), bench.copy(seed=6))
    )
    assert one == two
    assert one != other


# Forbidden pages

FAR = """
import numpy as np
from numpy.lib.stride_tricks import as_strided
from perfxlm_core import ops
from perfxlm_core.conformance import Case
from perfxlm_core.conformance.check import run_case
from perfxlm_core.plugin import KernelSet
from tests.conformance.numpy_kernels import NumpyDevice

kernels = KernelSet(vendor="zoo", device="numpy")

@kernels.implements(ops.mul)
def mul(out, a, b):
    far = as_strided(a.reshape(-1), (a.size + {far},), (4,))
    out[...] = a * b + 0 * np.nan_to_num(far[{at}])

(kernel,) = kernels
for seed in range(8):
    case = Case("mul", sizes={{"batch": ()}}, steps=({{"tokens": 5}},), layout="edge", seed=seed)
    run_case(NumpyDevice(), kernel, case, guard={guard})
print("survived")
"""


def process(far, guard):
    root = Path(__file__).parents[2]
    code = FAR.format(far=abs(far), at=far or -1, guard=guard)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_read_far_past_an_end_kills_the_process():
    done = process(64, guard=True)
    assert (done.returncode, done.stdout) == (-11, ""), done.stderr


def test_the_same_read_is_survived_without_guard():
    done = process(64, guard=False)
    assert done.stdout == "survived\n", done.stderr


def test_a_right_kernel_survives_guarded_pages():
    done = process(0, guard=True)
    assert done.stdout == "survived\n", done.stderr


# Rows in other batches

ROWS = sorted(
    name
    for name in ops.__all__
    if getattr(ops, name).batch_invariant or name in ("linear", "paged_attention")
)


def cases_of(name):
    return family_of(getattr(ops, name)).cases(
        getattr(ops, name), Variant("float32", "float32", "float32")
    )


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_rows_in_other_batches_are_the_same_rows(name, data):
    """The definition itself gives a row the same numbers in each batch that the kit makes."""
    operator, family = getattr(ops, name), family_of(getattr(ops, name))
    case = replace(data.draw(cases_of(name)), values="normal")
    arrays = family.arrays(operator, case, 0)
    rng = np.random.default_rng(case.seed)
    most = {n: v + 9 for n, v in family.largest(operator, case).items()} if case.symbolic else {}
    want = family.reference(operator, case, arrays)
    for batch in family.batches(operator, case, arrays, most, rng):
        got = family.reference(operator, case, batch.arrays)
        assert all(most[n] >= size for n, size in batch.sizes.items())
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(
                g, w[batch.source], rtol=1e-9, atol=1e-12, err_msg=batch.label
            )


def test_a_promise_of_the_operator_needs_none_of_the_kernel():
    (kernel,) = mutate("rms_norm", "eps", "eps")
    assert kernel.promises_rows
    assert not kernel.batch_invariant
    (linear,) = mutate("linear", "TILE", "TILE")
    assert not linear.promises_rows


def test_attention_in_parts_of_chunks():
    """Batches hold sequences cut short, and rows of chunks without those before them."""
    step = {"sequences": ((9, 5), (4, 4)), "share": False}
    sizes = {
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 4,
        "v_head_dim": 4,
        "block_size": 4,
        "max_blocks": 3,
    }
    case = Case("paged_attention", cache_dtype="float32", sizes=sizes, steps=(step,))
    family = family_of(ops.paged_attention)
    arrays = family.arrays(ops.paged_attention, case, 0)
    labels, cut = set(), set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        most = {"tokens": 20, "seqs": 5}
        for batch in family.batches(ops.paged_attention, case, arrays, most, rng):
            labels.add(batch.label)
            cut |= set(batch.arrays["seq_lens"].tolist())
    assert len(labels) == 5
    assert {5, 6, 7, 8, 9} <= cut


# Neighbours and twins


def test_two_inputs_may_be_the_same_memory():
    changed = "saved = a.copy(); a[...] = 1; out[...] = f32(saved) * f32(b); a[...] = saved"
    bad = target_of(mutate("mul", "out[...] = f32(a) * f32(b)", changed))
    with pytest.raises(Failure, match="aliasing: a and b are the same memory: values"):
        check(bad, MUL)


def test_a_neighbour_with_other_lengths_is_bound():
    seen = set()
    made = KernelSet(vendor="zoo", device="numpy")

    @made.binds(ops.mul)
    def mul(site):
        seen.add((site.operand("a").shape, site.operand("a").buffer.nbytes))

        def launch(sizes):
            a, b, out = (
                operand_view(site.device, site.operand(n), sizes) for n in ("a", "b", "out")
            )
            out[...] = a * b

        return launch

    check(target_of(made), replace(MUL, sizes={"batch": (3,)}))
    assert len(seen) > 1


# Operators of a plugin's own


def test_an_operator_without_strategy_cannot_be_tried():
    made = KernelSet(vendor="zoo", device="numpy")

    @op()
    def doubled(ids: Annotated[Array, "tokens", I32]) -> Annotated[Array, "tokens", I32]:
        """Indices of the plugin's own."""
        return ids * 2

    @made.implements(doubled)
    def kernel(out, ids):
        out[...] = ids * 2

    (row,) = run(target_of(made), "doubled")
    assert row.status == "not covered"
    with pytest.raises(PluginError, match="no strategy"):
        check(target_of(made), Case("doubled"), kernel="zoo.kernel")


# Devices


class Wrong(numpy_kernels.NumpyDevice):
    """A device with one thing wrong; `fault` names it."""

    def __init__(self, fault):
        self.fault = fault

    def describe(self):
        info = super().describe()
        return replace(info, name="other") if self.fault == "name" else info

    def dtypes(self):
        return [] if self.fault == "dtypes" else super().dtypes()

    def allocate(self, nbytes):
        if self.fault == "never full" and nbytes > 1 << 40:
            return Buffer(None, nbytes)
        if self.fault == "empty" and nbytes == 0:
            raise ValueError("nothing to allocate")
        if self.fault == "other error" and nbytes > 1 << 40:
            raise RuntimeError("out of memory")
        made = super().allocate(nbytes)
        if self.fault == "garbage":
            made.handle[-1:] = 1
        return made

    def view(self, buffer, offset, shape, dtype):
        if self.fault == "offset dropped":
            offset = 0
        found = super().view(buffer, offset, shape, dtype)
        if self.fault == "column major" and len(shape) == 2:
            return found.reshape(shape[::-1]).T
        return found.copy() if self.fault == "copies" else found

    def copy_in(self, target, source):
        if self.fault == "whole words" and source.nbytes % 4:
            target, source = target[:-1], source[:-1]
        super().copy_in(target, source)

    def program(self, launches, symbols):
        if self.fault == "empty program":
            launches[0]
        return super().program(launches, symbols)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("name", "description"),
        ("dtypes", "description"),
        ("never full", "too much memory"),
        ("other error", "too much memory"),
        ("empty", "empty buffers"),
        ("garbage", "zeroed memory"),
        ("offset dropped", "copies of every dtype"),
        ("whole words", "copies of every dtype"),
        ("column major", "shapes of views"),
        ("copies", "host visible"),
        ("empty program", "empty programs, synchronized twice"),
    ],
)
def test_a_wrong_device_is_found(fault, found):
    wrong = {name for name, failure in device_checks(Wrong(fault)) if failure is not None}
    assert found in wrong
    target = Target.of("zoo", Wrong(fault), numpy_kernels.kernels)
    (row,) = run(target, "device")
    assert row.failure.startswith("device: ")
    with pytest.raises(Failure, match="device: "):
        check(target, row.case)


def test_a_right_device_passes():
    assert device_checks(numpy_kernels.NumpyDevice()) == [(name, None) for name in CHECKS]
    target = target_of(numpy_kernels.kernels)
    (row,) = run(target, "device")
    assert (row.status, row.passed) == ("passed", len(CHECKS))
    assert slots(target)[0].name == "device-numpy"
