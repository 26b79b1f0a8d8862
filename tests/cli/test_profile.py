"""`perfxlm profile`: a table that adds up and a trace of our own nodes."""

import itertools
import json

import pytest
from click.testing import CliRunner

from perfxlm_core.cli.app import application
from perfxlm_core.graph.costs import Ragged
from perfxlm_core.registry.device import loop
from perfxlm_cpu.device import CpuDevice

SMALL = ["profile", "--prompt", "20", "--tokens", "4", "--batch", "2"]


def run(*arguments):
    result = CliRunner().invoke(application, [*SMALL, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def adds_up(phase):
    operators = sum(one["seconds"] for one in phase["operators"].values())
    assert operators + phase["waiting_seconds"] == pytest.approx(phase["program_seconds"])
    assert phase["program_seconds"] + phase["python_seconds"] == pytest.approx(phase["seconds"])
    assert min(phase["waiting_seconds"], phase["python_seconds"]) >= 0
    assert operators > 0


def test_table_and_trace(tmp_path):
    path = tmp_path / "trace.json"
    report = json.loads(run("--json", "-o", str(path)).stdout)
    assert set(report["limits"]) == {"read", "float32", "int8"}
    assert set(report["phases"]) == {"prefill", "decode"}
    for phase in report["phases"].values():
        adds_up(phase)
    decode = report["phases"]["decode"]
    linear = decode["operators"]["linear"]
    assert decode["steps"] == 3
    assert linear["calls"] == 3 * 211
    assert 80e6 < linear["bytes"] / 3 < 120e6  # SmolLM2-135M in 4 bits
    assert linear["operations"] / 3 == pytest.approx(2 * 2 * 134.5e6, rel=0.01)
    assert linear["roofline"] > 0

    trace = json.loads(path.read_text())
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    nodes = [e for e in events if e["cat"] == "node" and e["tid"] == 1]
    steps = sum(phase["steps"] for phase in report["phases"].values())
    assert sum(e["name"] == "linear" for e in nodes) == 211 * steps
    assert all(e["args"]["kernel"].startswith("cpu.") for e in nodes)
    assert {"model.layers.0.self_attn", "model.layers.29.mlp"} <= {
        e["args"]["scope"] for e in nodes
    }
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in events)
    for lane in {e["tid"] for e in events} - {0}:  # nothing overlaps within a lane
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["tid"] == lane)
        assert all(b[0] >= a[1] - 0.002 for a, b in itertools.pairwise(spans))


def test_devices_that_time_nothing_themselves(monkeypatch):
    """Launches one by one; without limits there is no roofline."""
    monkeypatch.setattr(CpuDevice, "program", lambda self, launches, symbols: loop(launches))
    monkeypatch.delattr(CpuDevice, "limits")
    report = json.loads(run("--json").stdout)
    assert report["limits"] == {}
    for phase in report["phases"].values():
        adds_up(phase)
        assert phase["operators"]["linear"]["roofline"] is None


def test_text():
    lines = run().stdout.splitlines()
    assert any(line.startswith("limits measured: read ") for line in lines)
    assert sum(line.startswith("linear ") for line in lines) == 2


@pytest.mark.parametrize("window", [None, 1, 5, 100])
def test_visible_keys(window):
    batch = Ragged([1, 7, 0, 12], [40, 9, 3, 12])
    seen, pairs = set(), 0
    for s, (count, length) in enumerate(zip(batch.counts, batch.lengths, strict=True)):
        for position in range(length - count, length):
            oldest = 0 if window is None else max(0, position - window + 1)
            keys = range(oldest, position + 1)
            pairs += len(keys)
            seen |= {(s, key) for key in keys}
    assert batch.visible(window) == (len(seen), pairs)
