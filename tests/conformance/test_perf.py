"""Timing: what is counted, and that the timed launches are those of a plan. Never how fast."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.conformance.case import Variant
from perfxlm_core.conformance.perf import UNCACHED, Limits, measure, measure_limits
from perfxlm_core.conformance.timed_node import TimedNode
from perfxlm_core.conformance.workloads import (
    ATTENTION,
    BLOCK,
    Batch,
    Workload,
    operations,
    rows,
    traffic,
    workloads,
)
from perfxlm_core.ops.formats import FORMATS

from ..cli.command import perfxlm
from .numpy_kernels import NumpyDevice, kernels

UNTIMED = {"softmax", "log_softmax"}
LIMITS = Limits(read=1e10, float32=1e11, source="a test")


def first(name):
    return next(k for k in kernels if k.op.name == name)


@given(st.integers(1, 600), st.integers(1, 9), st.integers(1, 9), st.sampled_from(sorted(FORMATS)))
@settings(max_examples=50, deadline=None)
def test_a_linear_layer_reads_its_stored_weight_once(tokens, out_features, blocks, name):
    form = FORMATS[name]
    wide = blocks * form.block_size
    work = Workload("", {"in_features": wide, "out_features": out_features}, (rows(tokens),))
    moved = traffic(ops.linear, work, Variant("float32", name), rows(tokens))
    stored = out_features * blocks * form.block_bytes
    assert moved == stored + 4 * tokens * (wide + out_features)
    assert operations(ops.linear, work, rows(tokens)) == 2 * tokens * wide * out_features


@given(st.lists(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))))
@settings(max_examples=50, deadline=None)
def test_attention_counts_the_keys_that_each_query_sees(sequences):
    batch = Batch("", tuple(sequences))
    heads, kv_heads, dim = 6, 2, 8
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "v_head_dim": dim,
             "block_size": BLOCK, "blocks": 64, "max_blocks": 8}  # fmt: skip
    work = Workload("", sizes, (batch,))
    pairs = sum(p + 1 for n, m in sequences for p in range(n - m, n))
    assert operations(ops.paged_attention, work, batch) == 4 * pairs * heads * dim
    seen = sum(n for n, _ in sequences) * kv_heads * 2 * dim * 2
    tables = 4 * sum(-(-n // BLOCK) for n, _ in sequences)
    other = 4 * (len(sequences) + len(sequences) + 1) + 2 * 4 * batch.tokens * heads * dim
    moved = traffic(ops.paged_attention, work, Variant("float32", None, "float16"), batch)
    assert moved == seen + tables + other


def test_tables_count_only_the_rows_looked_up():
    work = Workload("", {"vocab": 1000, "hidden": 64}, (rows(3),))
    moved = traffic(ops.embedding, work, Variant("float32", "q8_0"), rows(3))
    assert moved == 3 * (4 + 2 * 34 + 4 * 64)


def test_rows_that_are_no_whole_blocks_are_not_timed():
    labels = [w.label for w in workloads(ops.linear, Variant("float32", "q4_k"))]
    assert labels == ["576x1536", "8192x2048", "128256x2048"]
    assert "128256x2048" not in [
        w.label for w in workloads(ops.linear, Variant("float32", "float32"))
    ]


@pytest.mark.parametrize("kernel", list(kernels), ids=lambda k: k.name)
def test_workloads_are_legal_and_the_definition_takes_them(kernel):
    """The operator's own shape inference is the judge: `TimedNode` calls it."""
    weights = any(p.dtype.any_format for p in kernel.op.params)
    form = (kernel.formats or ("float32",))[0] if weights else None
    variant = Variant("float32", form, "float16")
    taken = []
    for work in workloads(kernel.op, variant):
        small = Workload(work.label, _shrunk(work.sizes), work.batches[:1], work.attrs)
        node = TimedNode(NumpyDevice(), kernel, variant, small, 1)
        taken.append(node.declined is None)
        if node.declined is None:
            assert set(node.times(0)) == set(small.batches)
    assert any(taken) or kernel.op.name in UNTIMED


def _shrunk(sizes):
    limits = {"vocab": 64, "in_features": 64, "out_features": 32, "blocks": 2048}
    return {n: min(v, limits.get(n, v)) if isinstance(v, int) else v for n, v in sizes.items()}


def test_attention_nodes_go_through_different_parts_of_the_cache():
    work = next(iter(workloads(ops.paged_attention, Variant("float32", None, "float32"))))
    work = Workload(work.label, work.sizes, ATTENTION[:1], work.attrs)
    node = TimedNode(
        NumpyDevice(), first("paged_attention"), Variant("float32", None, "float32"), work, 1
    )
    node._write(ATTENTION[0])
    used = [tuple(t.buffer.handle.view(np.int32)[:8]) for t in node.tables]
    assert len({b for table in used for b in table}) == 8 * len(used) == 64


def test_the_timed_program_computes_what_the_kernel_computes():
    variant = Variant("float32", "float32")
    work = Workload("", {"in_features": 32, "out_features": 8}, (rows(2),), {"exact": True})
    node = TimedNode(NumpyDevice(), first("linear"), variant, work, 3 * 8 * 32 * 4)
    assert node.count == 3
    node.times(0)
    x = node.placed["x"].buffer.handle.view(np.float32).reshape(2, 32)
    out = node.placed["out"].buffer.handle.view(np.float32).reshape(2, 8)
    want = ops.linear(x, node.fixed["weight"].array())
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
    assert np.abs(want).max() > 0.1


def test_timings_have_all_that_the_table_shows():
    timings = list(measure(NumpyDevice(), first("rms_norm"), Variant("float32"), LIMITS, 0, 1))
    assert [(t.shape, t.batch) for t in timings][:3] == [
        ("576", "1 row"), ("576", "8 rows"), ("576", "512 rows"),
    ]  # fmt: skip
    for t in timings:
        assert t.seconds > 0
        assert t.nbytes > 0
        assert t.fraction is None  # a few megabytes: caches serve them
        assert t.footprint < UNCACHED


def test_a_device_says_its_own_limits():
    class Measured(NumpyDevice):
        def limits(self):
            return {"read": 2e12, "int8": 4e14}

    assert measure_limits(Measured()) == Limits(2e12, None, 4e14, "the device")


def test_a_device_with_memory_of_its_own_that_says_nothing_is_compared_with_nothing():
    class Elsewhere(NumpyDevice):
        host_visible = False

    assert measure_limits(Elsewhere()) == Limits()


def test_numpy_measures_the_host():
    limits = measure_limits(NumpyDevice())
    assert limits.source == "NumPy"
    assert limits.read > 1e8
    assert limits.float32 > 1e8
    assert limits.int8 is None


def test_the_command_times_kernels_in_the_worker(tmp_path):
    file, page = tmp_path / "report.json", tmp_path / "report.html"
    said = perfxlm(
        "conformance", "cpu", "--op", "rms_norm", "--examples", "1", "--perf",
        "--json", str(file), "--html", str(page),
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert re.search(r"At most .* GB/s are read from memory, .* measured by", said.stdout)
    assert re.search(r"cpu.rms_norm +float32 +- +2048 +8 rows +[\d.]+ us", said.stdout)
    perf = json.loads(file.read_text())["perf"]
    assert perf["limits"]["read"] > 0
    assert {t["shape"] for t in perf["timings"]} == {"576", "2048"}
    assert perf["untimed"] == []
    assert page.read_text().count("<td>8 rows</td>") == 2
