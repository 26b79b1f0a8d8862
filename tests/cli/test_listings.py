"""Commands that only look: help, plugins, devices, models, pull, inspect."""

import json
import os
import re
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from perfxlm_core.cli.app import COMMANDS
from perfxlm_core.cli.report_page import edges

from .command import perfxlm

VOID = {"meta"}


def test_help_is_quick_and_names_every_command():
    start = time.perf_counter()
    done = perfxlm("--help")
    took = min(time.perf_counter() - start, *(_timed() for _ in range(3)))
    assert took < 0.4
    assert all(name in done.stdout for name in COMMANDS)


def _timed():
    start = time.perf_counter()
    perfxlm("--help")
    return time.perf_counter() - start


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    done = perfxlm(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: perfxlm {name}" in done.stdout.lower()


def test_version():
    from perfxlm_core import __version__

    assert __version__ in perfxlm("--version").stdout


def test_an_unknown_command_is_an_error():
    done = perfxlm("genrate")
    assert done.returncode == 2
    assert "No such command 'genrate'" in done.stderr


def test_devices_shows_what_was_chosen():
    done = perfxlm("devices", PERFXLM_PLUGINS="cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cpu  ")
    assert re.search(r"threads: \d+ of \d+", done.stdout)
    assert re.search(r"memory: [\d.]+ [MG]B, [\d.]+ [MG]B free", done.stdout)


def test_models_lists_architectures_and_what_was_fetched(tmp_path):
    wheel = tmp_path / "cache/pypi/some-model/latest"
    wheel.mkdir(parents=True)
    (wheel / "model.gguf").write_bytes(b"x" * 2_000_000)
    blobs = tmp_path / "hub/models--org--name/blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc").write_bytes(b"x" * 1_000_000)
    snapshot = tmp_path / "hub/models--org--name/snapshots/1"
    snapshot.mkdir(parents=True)
    os.symlink(blobs / "abc", snapshot / "model.safetensors")
    done = perfxlm(
        "models", PERFXLM_CACHE=str(tmp_path / "cache"), HF_HUB_CACHE=str(tmp_path / "hub")
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"LlamaForCausalLM +perfxlm-llama 0\.1\.0", done.stdout)
    assert re.search(r"pypi:some-model +2\.0 MB", done.stdout)
    assert re.search(r"org/name +1\.0 MB", done.stdout)


def test_pull_prints_where_the_model_is(tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    assert perfxlm("pull", str(model)).stdout == f"{model}\n"
    missing = perfxlm("pull", str(tmp_path / "no.gguf"))
    assert missing.returncode == 2
    assert missing.stdout == ""


@pytest.fixture(scope="module")
def report():
    done = perfxlm("inspect", "--json", "--max-model-len", "256", PERFXLM_PLUGINS="cpu")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_json_report_adds_up(report):
    memory = report["memory"]
    assert memory["total"] == memory["weights"] + memory["arena"] + memory["kv_cache"]
    assert memory["weights"] <= sum(w["bytes"] for w in report["weights"])
    for block in report["placements"]:
        assert 0 <= block["offset"] <= memory["arena"] - block["bytes"]
    assert [n["index"] for n in report["nodes"]] == list(range(len(report["nodes"])))
    assert all(n["kernel"] or n["how"] != "kernel" for n in report["nodes"])
    assert report["limits"]["max_model_len"] == 256


def test_the_text_report_accounts_for_every_node_and_byte(report):
    done = perfxlm("inspect", "--max-model-len", "256", PERFXLM_PLUGINS="cpu")
    assert done.returncode == 0, done.stderr
    groups = done.stdout.split("\n\n")[2].splitlines()[1:]
    assert sum(int(line.split()[0]) for line in groups) == len(report["nodes"])
    for name in ("weights", "arena", "kv_cache", "total"):
        assert str(report["memory"][name]) in done.stdout
    each = perfxlm("inspect", "--max-model-len", "256", "--all", PERFXLM_PLUGINS="cpu")
    assert len(each.stdout.split("\n\n")[2].splitlines()) == len(report["nodes"]) + 1


class Balanced(HTMLParser):
    """Notes tags that are closed in the wrong order, and what would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_whole_and_needs_no_network(report, tmp_path):
    file = tmp_path / "page.html"
    done = perfxlm("inspect", "--html", str(file), "--max-model-len", "256", PERFXLM_PLUGINS="cpu")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    content = file.read_text()
    parser = Balanced()
    parser.feed(content)
    assert parser.wrong == parser.open == parser.fetched == []
    assert "<script" not in content
    assert "http" not in content
    pictures = [ElementTree.fromstring(s) for s in re.findall(r"<svg.*?</svg>", content, re.S)]
    regions, arena, graph = pictures
    assert len(regions.findall("rect")) == 3
    assert len(arena.findall("rect")) == len(report["placements"])
    assert len(graph.findall("g")) == len(report["nodes"])
    assert len(graph.findall("path")) == len(edges(report["nodes"])) > len(report["nodes"]) / 2


def test_a_page_that_cannot_be_written_is_an_error(tmp_path):
    done = perfxlm("inspect", "--html", str(tmp_path / "no" / "page.html"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
