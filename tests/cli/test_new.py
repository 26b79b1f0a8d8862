"""`perfxlm new` writes distributions that install and pass their tests."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import __version__
from perfxlm_core.authoring import checked_name, new_model, new_plugin
from perfxlm_core.errors import ArgumentError

from .command import perfxlm

BUILD = """
from perfxlm_tiny_one import tiny_one
sizes = {"vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
         "num_attention_heads": 4}
print(*tiny_one.graph(sizes).outputs[0].shape)
"""


def run(*command, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False,
        timeout=200, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(project, folder):
    """The distribution's wheel, put into a folder for PYTHONPATH."""
    run(
        "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "--target", str(folder), str(project), folder=project,
    )  # fmt: skip
    return {"PYTHONPATH": str(folder)}


def test_a_plugin_installs_loads_and_passes_its_tests(tmp_path):
    said = perfxlm("new", "plugin", "Ac_me", "--directory", str(tmp_path))
    assert said.returncode == 0, said.stderr
    project = tmp_path / "perfxlm-ac-me"
    assert f"wrote {project}; begin with src/perfxlm_ac_me/kernels.py" in said.stdout
    seen = installed(project, tmp_path / "site")
    listed = perfxlm("plugins", **seen).stdout
    assert re.search(r"ac-me +perfxlm-ac-me 0\.1\.0 +works +ac-me; 1 kernels", listed)
    tested = run("pytest", "-q", str(project), folder=project, PERFXLM_PLUGINS="ac-me", **seen)
    assert " passed" in tested
    assert "failed" not in tested


def test_a_model_installs_and_builds_a_graph(tmp_path):
    """That its own tests pass is in tests/docs, where the tutorial runs them."""
    said = perfxlm("new", "model", "tiny-one", "--architecture", "TinyLM",
                   "--directory", str(tmp_path))  # fmt: skip
    assert said.returncode == 0, said.stderr
    project = tmp_path / "perfxlm-tiny-one"
    seen = installed(project, tmp_path / "site")
    listed = perfxlm("models", **seen).stdout
    assert re.search(r"^TinyLM +perfxlm-tiny-one 0\.1\.0", listed, re.M)
    done = subprocess.run(
        [sys.executable, "-c", BUILD], capture_output=True, text=True, check=False,
        env={**os.environ, **seen},
    )  # fmt: skip
    assert done.stdout == "tokens 96\n", done.stderr


@pytest.mark.parametrize("write", [new_plugin, new_model])
def test_what_is_written_is_clean_and_names_nothing_else(write, tmp_path):
    folder = write("acme-npu", tmp_path)
    assert folder == tmp_path / "perfxlm-acme-npu"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files >= {
        ".gitignore", ".github/workflows/ci.yml", "LICENSE", "README.md", "pyproject.toml",
        "src/perfxlm_acme_npu/__init__.py", "src/perfxlm_acme_npu/py.typed",
    }  # fmt: skip
    assert any(name.startswith("tests/test_") for name in files)
    for name in files:
        content = (folder / name).read_text()
        assert "$package" not in content
        assert "__package__" not in content
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    series = ".".join(__version__.split(".")[:2])
    assert f"perfxlm~={series}.0" in project["dependencies"]
    assert "${{ matrix.python }}" in (folder / ".github/workflows/ci.yml").read_text()


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is not installed")
@pytest.mark.parametrize("write", [new_plugin, new_model])
def test_what_is_written_has_no_lint(write, tmp_path):
    folder = write("acme-npu", tmp_path)
    rules = ("--isolated", "--line-length=100", "--target-version=py311")
    run("ruff", "check", "--select=E,F,I,UP,B", *rules, ".", folder=folder)
    run("ruff", "format", "--check", *rules, ".", folder=folder)


def test_nothing_is_left_behind_when_it_cannot_be_written(tmp_path):
    (tmp_path / "perfxlm-acme").mkdir()
    with pytest.raises(ArgumentError, match="perfxlm-acme exists; move it away"):
        new_plugin("acme", tmp_path)
    with pytest.raises(ArgumentError, match="is no folder; make it first"):
        new_plugin("acme", tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["perfxlm-acme"]
    assert not any((tmp_path / "perfxlm-acme").iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpu", "perfxlm-cpu .* is installed"),
        ("core", "means something else"),
        ("perfxlm-acme", "leave out 'perfxlm-'"),
        ("a b", "a letter and then letters, digits and single hyphens"),
        ("../up", "cannot be a distribution's"),
        ("-x", "cannot be a distribution's"),
        ("3d", "cannot be a distribution's"),
        ("", "cannot be a distribution's"),
        ("é", "cannot be a distribution's"),
        ("x" * 41, "40 at most"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name, message):
    with pytest.raises(ArgumentError, match=message):
        checked_name(name)


@given(st.text(st.sampled_from("aZ09-_. /\\\n"), max_size=12))
def test_a_name_that_is_taken_is_a_plain_file_name(name):
    try:
        plain = checked_name(name)
    except ArgumentError:
        return
    assert plain == plain.lower()
    assert plain.replace("-", "").isalnum()
    assert Path(plain).name == plain
    assert f"perfxlm_{plain.replace('-', '_')}".isidentifier()
    assert checked_name(plain) == plain


def test_an_architecture_that_is_built_already_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="perfxlm-llama has the entry point 'LlamaForCausalLM'"):
        new_model("my-llama", tmp_path, "LlamaForCausalLM")
    with pytest.raises(ArgumentError, match=r"'qwen2' of perfxlm\.gguf"):
        new_model("qwen2", tmp_path, "MyQwen")
    with pytest.raises(ArgumentError, match="'a-b' is no class name"):
        new_model("mine", tmp_path, "a-b")
    assert not any(tmp_path.iterdir())


def test_errors_come_without_a_traceback(tmp_path):
    done = perfxlm("new", "plugin", "no good", "--directory", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("perfxlm: error: name 'no good' cannot be")
    assert done.stdout == ""
