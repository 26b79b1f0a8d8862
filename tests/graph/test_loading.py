"""Loading: what does not fit is refused before anything is taken, with numbers."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from perfxlm_core.errors import (
    ArgumentError,
    ConfigError,
    GraphError,
    MemoryPlanError,
    ModelError,
    NoKernelError,
)
from perfxlm_core.graph.loading import LoadOptions, plan_model
from perfxlm_core.graph.recipe import Config, find_recipe, known_recipes, recipe
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.registry.kernels import Registry

from .conftest import simple_kernels

CONFIG = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


@dataclass
class Source:
    """A checkpoint of zeros with the shapes that are asked for."""

    config: dict[str, Any]
    architectures: list[str]
    gguf_architecture: str | None = None
    graph_path: None = None

    def tensor(self, name: str) -> Tensor:
        hidden, wide, vocab = (
            self.config[n] for n in ("hidden_size", "intermediate_size", "vocab_size")
        )
        shapes = {
            "embed_tokens": (vocab, hidden),
            "q_proj": (hidden, hidden),
            "o_proj": (hidden, hidden),
            "k_proj": (hidden // 2, hidden),
            "v_proj": (hidden // 2, hidden),
            "gate_proj": (wide, hidden),
            "up_proj": (wide, hidden),
            "down_proj": (hidden, wide),
        }
        shape = shapes.get(name.split(".")[-2], (hidden,))
        return Tensor.from_array(name, np.zeros(shape, np.float32))


@pytest.fixture
def source() -> Source:
    return Source(dict(CONFIG), ["LlamaForCausalLM"])


def plan(source: Source, host: Any, **options: Any):
    return plan_model(source, host, Registry(), LoadOptions(**options))


def test_the_cache_takes_one_gibibyte_or_what_is_asked(source: Source, host: Any) -> None:
    _, limits = plan(source, host, max_num_seqs=10**6)
    per_block = 16 * 2 * 2 * (8 + 8) * 4
    assert limits.num_blocks == (1 << 30) // per_block
    assert limits.max_model_len == 256
    _, limits = plan(source, host, max_num_seqs=3)
    assert limits.num_blocks == 3 * 256 // 16
    _, limits = plan(source, host, kv_cache_memory_bytes=10 * per_block + 1)
    assert limits.num_blocks == 10
    assert limits.max_model_len == 160
    _, limits = plan(source, host, num_gpu_blocks_override=3, block_size=8)
    assert (limits.num_blocks, limits.max_model_len) == (3, 24)


def test_what_does_not_fit_is_refused_with_numbers(source: Source, host: Any) -> None:
    with pytest.raises(MemoryPlanError, match=r"lower max_model_len to 160"):
        plan(source, host, num_gpu_blocks_override=10, max_model_len=200)
    with pytest.raises(MemoryPlanError, match=r"weights take .* MiB and activations .* MiB"):
        plan(source, host, gpu_memory_utilization=1e-6)
    with pytest.raises(MemoryPlanError, match=r"KV cache of .* was asked for; host has room for"):
        plan(source, host, kv_cache_memory_bytes=1 << 50)
    assert issubclass(MemoryPlanError, MemoryError)


def test_a_device_with_its_own_memory_uses_its_share(source: Source, remote: Any) -> None:
    registry = Registry()
    registry.extend(simple_kernels("remote"))
    found, limits = plan_model(source, remote, registry, LoadOptions(gpu_memory_utilization=0.5))
    taken = found.weight_bytes + found.arena.nbytes + found.cache_bytes
    assert limits.max_model_len == 256
    assert 0.49 * remote.total < taken <= 0.5 * remote.total


def test_caches_that_only_the_device_sees_need_a_kernel(source: Source, remote: Any) -> None:
    with pytest.raises(NoKernelError, match="store_kv"):
        plan(source, remote)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16' is not one that host computes in"),
        ({"kv_cache_dtype": "float16"}, "kv_cache_dtype='float16' is not one"),
        ({"kv_cache_dtype": "int8_per_token_head"}, "kv_cache_dtype='int8_per_token_head' is not"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype='fp8' is not one"),
        ({"max_model_len": 257}, "max_model_len=257 is more than the model was made for"),
    ],
)
def test_arguments_are_checked(
    source: Source, host: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        plan(source, host, **options)


def test_settings_that_change_the_maths_are_refused(source: Source, host: Any) -> None:
    source.config["attention_sparsity"] = 0.5
    with pytest.raises(ConfigError, match=r"attention_sparsity=0\.5, which LlamaConfig does not"):
        plan(source, host)
    plan(source, host, hf_overrides={"attention_sparsity": None})
    source.config["hidden_act"] = "relu"
    with pytest.raises(ConfigError, match="hidden_act='relu', but LlamaConfig computes only"):
        plan(source, host, hf_overrides={"attention_sparsity": None})


def test_missing_settings_are_named(source: Source, host: Any) -> None:
    del source.config["intermediate_size"]
    with pytest.raises(ConfigError, match="lacks intermediate_size"):
        plan(source, host)


def test_unknown_architectures_list_the_known() -> None:
    with pytest.raises(ModelError, match=r"no installed model package builds Foo, bar; known"):
        find_recipe(["Foo"], "bar")
    assert {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"} <= set(known_recipes())


def test_reports_survive_json(source: Source, host: Any) -> None:
    found, _ = plan(source, host)
    assert json.loads(json.dumps(found.report()))["memory"]["weights"] == found.weight_bytes


def test_a_recipe_must_give_logits() -> None:
    @dataclass(frozen=True)
    class Empty(Config):
        """Nothing."""

    @recipe("Empty", config=Empty)
    def empty(g: Any, c: Empty) -> None:
        return None

    with pytest.raises(GraphError, match="recipe Empty returned None, not logits"):
        empty.graph({})
