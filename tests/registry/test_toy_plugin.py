"""A third party's plugin, in NumPy, runs a real model without a change in the core."""

from pathlib import Path

import pytest

from .distributions import from_project, perfxlm

PROJECT = Path(__file__).parents[1] / "toy_plugin"
MODULE = PROJECT / "src/perfxlm_toy/__init__.py"
ASK = ("generate", "-q", "-p", "What is the capital of France?", "--temperature", "0",
       "--max-tokens", "8", "--max-model-len", "256", "--dtype", "float32")  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    from_project(PROJECT, folder)
    return folder


def test_it_is_small_and_sees_only_the_front_door():
    source = MODULE.read_text()
    assert len(source.splitlines()) < 150
    inside = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert {line.split()[1] for line in inside} <= {
        "os", "collections.abc", "numpy", "perfxlm_core", "perfxlm_core.plugin",
    }  # fmt: skip


def test_it_is_found_beside_the_others(installed):
    said = [line.split() for line in perfxlm("plugins", folder=installed).stdout.splitlines()]
    assert "toy perfxlm-toy 0.1.0 works toy; 10 kernels".split() in said
    assert ["cpu", "perfxlm-cpu"] in [words[:2] for words in said]


def test_it_runs_smollm2_and_says_what_the_cpu_plugin_says(installed):
    mine = perfxlm(*ASK, folder=installed, PERFXLM_PLUGINS="toy")
    theirs = perfxlm(*ASK, PERFXLM_PLUGINS="cpu")
    assert mine.returncode == 0, mine.stderr
    assert theirs.returncode == 0, theirs.stderr
    assert mine.stdout == theirs.stdout
    assert len(mine.stdout.split()) >= 4
    assert "decoded on load" in mine.stderr


def test_every_node_is_run_by_its_own_kernels(installed):
    said = perfxlm("inspect", "--max-model-len", "256", folder=installed, PERFXLM_PLUGINS="toy")
    assert said.returncode == 0, said.stderr
    assert "toy.linear" in said.stdout
    assert "NumPy reference" not in said.stdout
