"""The public names, and what importing them costs."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import perfxlm

HEAVY = {"torch", "onnx", "tokenizers", "jinja2", "huggingface_hub", "transformers", "pluggy"}


def test_every_public_name_exists_and_only_those_are_listed():
    assert perfxlm.__all__ == sorted(perfxlm.__all__)
    for name in perfxlm.__all__:
        assert getattr(perfxlm, name) is not None
    assert dir(perfxlm) == perfxlm.__all__
    with pytest.raises(AttributeError, match="AsyncNothing"):
        _ = perfxlm.AsyncNothing


MODULES = sorted(m.name for m in pkgutil.walk_packages(perfxlm.__path__, "perfxlm."))


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_what_they_list(module):
    found = importlib.import_module(module)
    names = getattr(found, "__all__", [])
    assert sorted(names) == sorted(set(names))
    for name in names:
        assert hasattr(found, name)


def test_no_module_was_lost():
    assert len(MODULES) > 40
    assert {"perfxlm.v1.engine.async_llm", "perfxlm.lora.request"} <= set(MODULES)


@pytest.mark.parametrize("statement", ["import perfxlm", "from perfxlm import LLM, SamplingParams"])
def test_imports_load_nothing_heavy(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_check_on_imports_can_fail():
    code = "import tokenizers; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split())
