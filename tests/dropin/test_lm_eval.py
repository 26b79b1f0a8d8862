"""lm-eval, unmodified: its own vLLM backend on perfxlm, beside its own transformers backend.

The truth is transformers on the weights decoded to float32; ours computes on the 4-bit file.
"""

import pytest

from perfxlm_core.checkpoints import open_checkpoint

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.timeout(1800)

METRICS = {"perfxlm_questions": "acc,none", "perfxlm_answers": "exact_match,line"}


@pytest.fixture(scope="module")
def truth(evaluate, folder):
    given = {"pretrained": folder, "dtype": "float32"}
    return evaluate("hf", given, through=())


def test_accuracy_is_that_of_transformers(evaluate, truth, folder, gguf):
    assert open_checkpoint(gguf).kind == "gguf"
    given = {"pretrained": folder, "model": gguf, "dtype": "float32", "max_model_len": 512}
    found = evaluate("vllm", given)
    for task, metric in METRICS.items():
        ours, theirs = (100 * results[task][metric] for results in (found, truth))
        print(f"{task}: perfxlm {ours:.1f}, transformers {theirs:.1f}")
        assert abs(ours - theirs) <= 1
        assert 20 < theirs < 100
