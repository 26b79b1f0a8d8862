"""The public names, and what importing them costs."""

import importlib
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


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("perfxlm.sampling_params", ["SamplingParams", "RequestOutputKind", "SamplingType"]),
        ("perfxlm.outputs", ["RequestOutput", "CompletionOutput", "RequestStateStats"]),
        ("perfxlm.logprobs", ["Logprob"]),
        ("perfxlm.inputs", ["TextPrompt", "TokensPrompt", "PromptType"]),
        ("perfxlm.entrypoints.llm", ["LLM"]),
    ],
)
def test_modules_where_they_are_looked_for(module, names):
    found = importlib.import_module(module)
    assert sorted(names) == found.__all__
    for name in names:
        assert hasattr(found, name)


@pytest.mark.parametrize("statement", ["import perfxlm", "from perfxlm import LLM, SamplingParams"])
def test_imports_load_nothing_heavy(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_check_on_imports_can_fail():
    code = "import tokenizers; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split())
