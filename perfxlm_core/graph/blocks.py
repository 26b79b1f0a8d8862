"""Blocks that several model families share: what a recipe's page need not say again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfxlm_core import ops
from perfxlm_core.errors import ConfigError
from perfxlm_core.graph.ir import Graph
from perfxlm_core.graph.recipe import Config
from perfxlm_core.graph.rope import inverse_frequencies, rope_parameters
from perfxlm_core.ops.types import Array

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "max_model_len",
    "sliding_window",
)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Settings of a decoder with grouped attention heads and rotary positions.

    Attributes:
        num_key_value_heads: as many as attention heads when None.
        head_dim: `hidden_size // num_attention_heads` when None.
        rope_interleaved: rotations pair neighbours; files whose query and key rows were reordered
            for that say so.
        rope_freq_factors: divisors of the rotary frequencies, one for each.
        max_model_len: longest sequence that will be run, where the loader knows it; two rope types
            depend on it (see `inverse_frequencies`).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 2048
    max_model_len: int | None = None
    rope_theta: float | None = None
    rope_scaling: Mapping[str, Any] | None = None
    rope_parameters: Mapping[str, Any] | None = None
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: int | None = None
    rope_freq_factors: Sequence[float] | None = None
    rope_interleaved: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that no graph has.

        Raises:
            ConfigError: a size is not a positive integer, or heads do not fit together.
        """
        for name in _SIZES:
            value = getattr(self, name, None)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name}={value!r} in the configuration, want a positive integer")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads="
                f"{self.num_attention_heads}, and the configuration gives no head_dim"
            )
        if self.num_attention_heads % self.kv_heads:
            raise ConfigError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.kv_heads}"
            )

    @property
    def head_size(self) -> int:
        """Elements of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads


def layer_windows(
    layers: int, window: int | None, layer_types: Sequence[str] | None = None
) -> list[int | None]:
    """Attention window of each layer, None where it sees everything.

    Args:
        layers: number of layers.
        window: tokens that a layer of sliding attention sees, the newest included.
        layer_types: "full_attention" or "sliding_attention" for each layer; all slide when None.

    Raises:
        ConfigError: another kind of layer, another number of them, or a window is missing.
    """
    if layer_types is None:
        return [window] * layers
    kinds = {"full_attention": None, "sliding_attention": window}
    if isinstance(layer_types, str) or len(layer_types) != layers:
        raise ConfigError(f"layer_types={layer_types!r} in the configuration of {layers} layers")
    for kind in layer_types:
        if kind not in kinds:
            raise ConfigError(f"layer_types has {kind!r}; known are {', '.join(kinds)}")
    if window is None and "sliding_attention" in layer_types:
        raise ConfigError("layer_types has sliding_attention, but sliding_window is not given")
    return [kinds[kind] for kind in layer_types]


def rotary(g: Graph, c: DecoderConfig) -> tuple[Array, Array]:
    """Cosines and sines of the step's positions, [tokens, half] each; one table for all layers."""
    inverse, attention_factor = inverse_frequencies(
        rope_parameters(vars(c)),
        c.head_size,
        c.max_position_embeddings,
        length=c.max_model_len,
        freq_factors=c.rope_freq_factors,
    )
    table = g.constant("rope.inverse_frequencies", inverse)
    return ops.rotary_table(g.positions, table, attention_factor=attention_factor)


def embed(g: Graph, name: str, vocab: int, hidden: int) -> Array:
    """Rows of the named table for the step's tokens, [tokens, hidden]."""
    table = g.weight(f"{name}.weight", vocab, hidden)
    return ops.embedding(g.token_ids, table, dtype=g.dtype)


def linear(g: Graph, name: str, x: Array, width: int, *, bias: bool = False) -> Array:
    """Linear layer of the named weight, [..., width]."""
    weight = g.weight(f"{name}.weight", width, x.shape[-1])
    return ops.linear(x, weight, g.weight(f"{name}.bias", width) if bias else None)


def rms_norm(g: Graph, name: str, x: Array, eps: float) -> Array:
    """RMS norm of the last dimension, with the named weight."""
    return ops.rms_norm(x, g.weight(f"{name}.weight", x.shape[-1]), eps=eps)


def gated_mlp(g: Graph, name: str, x: Array, width: int, *, bias: bool = False) -> Array:
    """SwiGLU feed-forward of `width` hidden units in the named scope."""
    with g.scope(name):
        gate = linear(g, "gate_proj", x, width, bias=bias)
        up = linear(g, "up_proj", x, width, bias=bias)
        return linear(g, "down_proj", ops.silu_and_mul(gate, up), x.shape[-1], bias=bias)


def logits(g: Graph, c: DecoderConfig, x: Array) -> Array:
    """Scores of the vocabulary, [tokens, vocab]: by `lm_head`, or by the tied embedding table."""
    name = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
    return linear(g, name, x, c.vocab_size)
