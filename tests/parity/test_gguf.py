"""The same small models from GGUF files: permuted rows, listed rope divisors, other names."""

import numpy as np
import pytest

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.graph.recipe import find_recipe

from .gguf_files import deinterleave, interleave, write
from .interpreter import evaluate
from .tiny import make, prompt

NAMES = [
    "llama",
    "llama-groups3-tied",
    "llama-groups4-llama3",
    "qwen2-groups3-tied",
    "qwen3",
    "qwen3-groups3-tied",
]


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_transformers(name, tmp_path):
    tiny = make(name, tmp_path / "folder")
    checkpoint = open_checkpoint(write(tiny, tmp_path / "model.gguf"))
    recipe = find_recipe([], checkpoint.gguf_architecture)
    assert find_recipe(checkpoint.architectures) is recipe
    ids = prompt(100)
    graph = recipe.graph(checkpoint.config, checkpoint.tensor)
    found = evaluate(graph, token_ids=ids, positions=np.arange(100))
    np.testing.assert_allclose(found, tiny.logits(ids), rtol=0, atol=1e-4)


def test_the_order_of_rows_matters(tmp_path):
    """Had the file's order been ignored, this is how wrong the logits would be."""
    tiny = make("llama", tmp_path / "folder")
    checkpoint = open_checkpoint(write(tiny, tmp_path / "model.gguf"))
    recipe = find_recipe(checkpoint.architectures)
    graph = recipe.graph({**checkpoint.config, "rope_interleaved": False}, checkpoint.tensor)
    ids = prompt(100)
    found = evaluate(graph, token_ids=ids, positions=np.arange(100))
    assert np.abs(found - tiny.logits(ids)).max() > 1


def test_interleaving_is_undone():
    rows = np.arange(48.0).reshape(24, 2)
    assert (interleave(rows, 3) != rows).any()
    np.testing.assert_array_equal(deinterleave(interleave(rows, 3), 3), rows)
