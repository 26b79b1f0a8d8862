"""All that a model package imports from the core, besides `perfxlm_core.ops`."""

from perfxlm_core.errors import ConfigError
from perfxlm_core.graph.blocks import (
    DecoderConfig,
    embed,
    gated_mlp,
    layer_windows,
    linear,
    logits,
    rms_norm,
    rotary,
)
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.ir import Graph, Value
from perfxlm_core.graph.recipe import Config, Recipe, recipe
from perfxlm_core.graph.rope import ROPE_TYPES, inverse_frequencies, rope_parameters
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import Array

__all__ = [
    "ROPE_TYPES",
    "Array",
    "Config",
    "ConfigError",
    "DecoderConfig",
    "Graph",
    "Recipe",
    "Tensor",
    "Value",
    "embed",
    "gated_mlp",
    "interpret",
    "inverse_frequencies",
    "layer_windows",
    "linear",
    "logits",
    "recipe",
    "rms_norm",
    "rope_parameters",
    "rotary",
]
