"""ONNX's own backend tests of single operators, through our importer and interpreter.

`included.txt` lists the cases that must pass; it only ever grows. `excluded.txt` gives a reason for
each of the others. PERFXLM_ONNX_BACKEND=all runs the whole list, otherwise only the operators of
language models.
"""

import os
import re
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402
from onnx.backend.test.runner import Runner  # noqa: E402

from perfxlm_core.errors import PerfxlmError  # noqa: E402
from perfxlm_core.graph.interpret import interpret  # noqa: E402
from perfxlm_core.graph.onnx import load_onnx  # noqa: E402

HERE = Path(__file__).parent
LANGUAGE_MODELS = re.compile(
    r"test_(attention|causal_conv_with_state|dequantizelinear|gather|gelu|layer_normalization"
    r"|linear_attention|matmul|quantizelinear|rms_normalization|rotary_embedding|softmax|swiglu"
    r"|swish|tensorscatter|top_k)"
)
FEWEST = 1500
"""Cases that must be listed; raise it as the list grows."""


def included() -> list[str]:
    return (HERE / "included.txt").read_text().split()


def excluded() -> list[tuple[str, str]]:
    lines = (HERE / "excluded.txt").read_text().splitlines()
    pairs = [line.partition("  ") for line in lines if line and not line.startswith("#")]
    return [(pattern, reason.strip()) for pattern, _, reason in pairs]


EVERYTHING = os.environ.get("PERFXLM_ONNX_BACKEND") == "all"
CASES = [name for name in included() if EVERYTHING or LANGUAGE_MODELS.match(name)]


@pytest.fixture(scope="module")
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the expected values divides by zero here and there
        return {case.name: case for case in load_model_tests(kind="node")}


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def check(case):
    graph = load_onnx(case.model)
    names = [i.name for i in case.model.graph.input]
    for given, expected in case.data_sets:
        feeds = {n: array(v) for n, v in zip(names, given, strict=True)}
        want = [array(v) for v in expected]
        half = any(isinstance(w, np.ndarray) and w.dtype == ml_dtypes.bfloat16 for w in want)
        have = interpret(graph, feeds)
        Runner.assert_similar_outputs(want, have, rtol=2**-6 if half else case.rtol, atol=case.atol)


@pytest.mark.parametrize("name", CASES)
def test_case(name, cases):
    assert name in cases, f"{name} is listed, but onnx {onnx.__version__} has no such case"
    check(cases[name])


def test_list_is_sorted_and_does_not_shrink():
    names = included()
    assert names == sorted(set(names))
    assert len(names) >= FEWEST


def test_every_other_case_is_excluded_for_a_reason(cases):
    patterns = [re.compile(pattern) for pattern, reason in excluded() if reason]
    assert len(patterns) == len(excluded())
    others = set(cases) - set(included())
    silent = sorted(n for n in others if not any(p.fullmatch(n) for p in patterns))
    assert not silent, "list these in included.txt, or say in excluded.txt why they do not run"
    unused = [p.pattern for p in patterns if not any(p.fullmatch(n) for n in others)]
    assert not unused, "these patterns exclude nothing"


def test_excluded_cases_are_refused_or_differ(cases):
    """An excluded case that passes belongs into the list."""
    passing = []
    for name in sorted(set(cases) - set(included())):
        try:
            check(cases[name])
        except (PerfxlmError, AssertionError):
            continue
        passing.append(name)
    assert not passing, "these pass now: move them to included.txt"
