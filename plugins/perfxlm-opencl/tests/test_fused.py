"""A decode step is at most six launches a layer, whatever the profile and the family."""

from collections import Counter

import numpy as np
import pytest

from perfxlm_core.graph.loading import LoadOptions, plan_model
from perfxlm_core.graph.recipe import find_recipe
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.plugin import Registry
from perfxlm_opencl.kernels import kernels
from perfxlm_opencl.profiles import NAMES

MOST = 6
LAYERS = 3
CONFIG = {
    "hidden_act": "silu",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
}
FAMILIES = {"LlamaForCausalLM": {}, "Qwen2ForCausalLM": {}, "Qwen3ForCausalLM": {"head_dim": 16}}
ALL, ONE = {"tokens": 1, "seqs": 1, "rows": 1}, "layers.1."


class Source:
    """A checkpoint of zeros."""

    gguf_architecture = graph_path = None

    def __init__(self, architecture):
        self.architectures = [architecture]
        self.config = {**CONFIG, **FAMILIES[architecture]}
        constants = find_recipe(self.architectures).graph(self.config).constants
        self.shapes = {n: v.shape for n, v in constants.items()}

    def tensor(self, name):
        return Tensor.from_array(name, np.zeros(self.shapes[name], np.float32))


def launches(device, architecture):
    """Scope of a node -> the kernels that a decode step of one token launches for it."""
    registry = Registry()
    registry.extend(kernels)
    options = LoadOptions(max_num_seqs=2, num_gpu_blocks_override=80, max_num_batched_tokens=8)
    plan, _ = plan_model(Source(architecture), device, registry, options)
    bound = plan.bind()
    nodes = [s.node for s in plan.steps if s.how != "view"]
    assert len(nodes) == len(bound.launches)
    found = []
    for node, launch in zip(nodes, bound.launches, strict=True):
        parts = getattr(launch, "parts", (launch,))
        found += [(node.scope, p.kernel) for p in parts if p.global_size(ALL) is not None]
    return found


@pytest.mark.parametrize(
    ("profile", "architecture"),
    [*((p, "LlamaForCausalLM") for p in NAMES), *(("generic", f) for f in [*FAMILIES][1:])],
)
def test_a_layer_is_few_launches(open_device, profile, architecture):
    found = launches(open_device("intel", profile), architecture)
    layer = [kernel for scope, kernel in found if ONE in f"{scope}."]
    assert 5 <= len(layer) <= MOST, layer
    assert Counter(layer)["merge_pieces"] == 1  # the heads alone do not fill the device
    assert len(found) <= MOST * LAYERS + 6
