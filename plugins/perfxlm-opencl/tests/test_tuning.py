"""`perfxlm tune opencl`: what it measures is kept, found again, and never trusted blindly."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.cli.tune import measure
from perfxlm_core.errors import ArgumentError
from perfxlm_core.graph.loading import LoadOptions, load_runner
from perfxlm_core.registry.plugins import load_plugins
from perfxlm_opencl.binaries import CACHE
from perfxlm_opencl.discovery import PLATFORM
from perfxlm_opencl.kernels import tuned as search
from perfxlm_opencl.kernels.parameters import Shape
from perfxlm_opencl.profiles import PROFILE
from perfxlm_opencl.tuning import Tuned


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.setenv(PLATFORM, "intel")
    monkeypatch.setenv(PROFILE, "cpu")
    return tmp_path


def test_winners_are_kept_and_bound(folder, random_model, monkeypatch):
    model = random_model("Qwen2ForCausalLM")
    wanted = Shape(rows=1, tokens=1, items=1, split=1)  # in no table
    monkeypatch.setattr(
        search, "_seconds", lambda device, tokens, make, shape: 2.0 - (shape == wanted)
    )
    lines = measure("opencl", str(model), "float32")
    assert any("96x96, up to 1 tokens: 2000000 us" in line for line in lines)
    (kept,) = folder.glob("tuned-*.json")
    winners = json.loads(kept.read_text())
    assert len(winners) == len(lines) >= 6

    seen = []
    known = search._known

    def look(*given):
        seen.append(known(*given))
        return seen[-1]

    monkeypatch.setattr(search, "_known", look)
    monkeypatch.setattr(search, "_search", lambda *_: pytest.fail("measured again"))
    plugins = load_plugins()
    options = LoadOptions(dtype="float32", max_model_len=64, max_num_seqs=2)
    load_runner(open_checkpoint(model), plugins.device("opencl"), plugins.registry, options)
    assert None not in seen
    assert {tuple(asdict(s).items()) for s in seen} <= {tuple(w.items()) for w in winners.values()}


@pytest.mark.slow
def test_measuring_is_real(folder, random_model):
    model = random_model("LlamaForCausalLM")
    lines = measure("opencl", str(model), "float32")
    assert all(" us with Shape(" in line for line in lines)
    assert list(folder.glob("tuned-*.json"))


def test_measuring_again_keeps_what_other_models_need(device, tmp_path):
    tuned = Tuned(tmp_path, device.facts, device.profile)
    shapes = {"rows": 1, "tokens": 1, "items": 4, "split": 1}
    with tuned.measuring() as lines:
        tuned.keep("one", shapes, "first")
    with tuned.measuring() as again:
        assert tuned.find("one") is None
        tuned.keep("two", shapes, "second")
    assert (lines, again) == (["first"], ["second"])
    later = Tuned(tmp_path, device.facts, device.profile)
    assert later.find("one") == later.find("two") == shapes


def test_another_driver_or_profile_begins_anew(device, tmp_path):
    tuned = Tuned(tmp_path, device.facts, device.profile)
    tuned.keep("one", {"rows": 2}, "")
    for facts, profile in (
        (replace(device.facts, driver="next"), device.profile),
        (device.facts, replace(device.profile, name="mali")),
    ):
        assert Tuned(tmp_path, facts, profile).find("one") is None
    assert Tuned(None, device.facts, device.profile).find("one") is None


@given(content=st.one_of(st.binary(max_size=60), st.sampled_from([
    b"[]", b"null", b'{"one": 3}', b'{"one": {"rows": -1}}', b'{"one": {"rows": true}}',
])))  # fmt: skip
def test_whatever_lies_in_the_file_is_no_winner(device, tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("tuned")
    tuned = Tuned(folder, device.facts, device.profile)
    tuned.path.write_bytes(content)
    assert Tuned(folder, device.facts, device.profile).find("one") is None


@pytest.mark.parametrize(
    "shape",
    [
        {"rows": 4},
        {"rows": 1, "tokens": 1, "items": 1 << 20, "split": 1},
        {"rows": 64, "tokens": 64, "items": 4, "split": 1},
        {"rows": 1, "tokens": 1, "items": 4, "split": 1, "more": 1},
    ],
)
def test_a_shape_that_cannot_run_is_not_bound(device, tmp_path, monkeypatch, shape):
    tuned = Tuned(tmp_path, device.facts, device.profile)
    tuned.keep("name", shape, "")
    monkeypatch.setitem(device.__dict__, "tuned", tuned)
    assert search._known(device, "name") is None


def test_a_device_without_choices_says_so(random_model):
    with pytest.raises(ArgumentError, match="cpu has nothing to tune"):
        measure("cpu", str(random_model("LlamaForCausalLM")))
