"""Qwen 2, 2.5 and 3 as graph recipes.

Source: Yang et al. 2024, arXiv:2407.10671 and arXiv:2412.15115; Yang et al. 2025,
arXiv:2505.09388. Scopes spell Hugging Face's weight names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from perfxlm_core import ops
from perfxlm_core.recipes import (
    Array,
    DecoderConfig,
    Graph,
    embed,
    gated_mlp,
    layer_windows,
    linear,
    logits,
    recipe,
    rms_norm,
    rotary,
)


@dataclass(frozen=True, kw_only=True)
class QwenConfig(DecoderConfig):
    """What the generations share, and the two things in which their attention differs."""

    expects: ClassVar = {"hidden_act": "silu", "mlp_bias": False}
    qk_norm: ClassVar[bool]
    """Whether queries and keys are normalized, head by head."""
    output_bias: ClassVar[bool]
    """Whether `attention_bias` counts for the projection out of attention too."""

    attention_bias: bool
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: Sequence[str] | None = None

    @property
    def windows(self) -> list[int | None]:
        """Attention window of each layer; the first `max_window_layers` see everything."""
        window = self.sliding_window if self.use_sliding_window else None
        if self.layer_types is not None:
            return layer_windows(self.num_hidden_layers, window, self.layer_types)
        full = min(self.max_window_layers, self.num_hidden_layers)
        return [None] * full + [window] * (self.num_hidden_layers - full)


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(QwenConfig):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    qk_norm: ClassVar = False
    output_bias: ClassVar = False

    attention_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(QwenConfig):
    """Qwen 3: normalized queries and keys instead."""

    qk_norm: ClassVar = True
    output_bias: ClassVar = True

    attention_bias: bool = False
    head_dim: int | None = 128


def decoder(g: Graph, c: QwenConfig) -> Array:
    """Token ids to logits."""
    with g.scope("model"):
        x = embed(g, "embed_tokens", c.vocab_size, c.hidden_size)
        cos, sin = rotary(g, c)
        for i, window in enumerate(c.windows):
            with g.scope("layers", i):
                y = rms_norm(g, "input_layernorm", x, c.rms_norm_eps)
                x = x + attention(g, c, i, y, cos, sin, window)
                y = rms_norm(g, "post_attention_layernorm", x, c.rms_norm_eps)
                x = x + gated_mlp(g, "mlp", y, c.intermediate_size)
        x = rms_norm(g, "norm", x, c.rms_norm_eps)
    return logits(g, c, x)


def attention(
    g: Graph, c: QwenConfig, layer: int, x: Array, cos: Array, sin: Array, window: int | None
) -> Array:
    """Grouped-query attention with rotary positions."""

    def heads(name: str, count: int) -> Array:
        y = linear(g, f"{name}_proj", x, count * c.head_size, bias=c.attention_bias)
        split: Array = y.reshape(-1, count, c.head_size)
        return split

    def turned(name: str, count: int) -> Array:
        y = heads(name, count)
        if c.qk_norm:
            y = rms_norm(g, f"{name}_norm", y, c.rms_norm_eps)
        return ops.rotary_embedding(y, cos, sin, interleaved=c.rope_interleaved)

    with g.scope("self_attn"):
        q = turned("q", c.num_attention_heads)
        k = turned("k", c.kv_heads)
        y = ops.attention(q, k, heads("v", c.kv_heads), layer=layer, window=window)
        y = y.reshape(-1, c.num_attention_heads * c.head_size)
        return linear(g, "o_proj", y, c.hidden_size, bias=c.attention_bias and c.output_bias)


qwen2 = recipe("Qwen2ForCausalLM", config=Qwen2Config)(decoder)
qwen3 = recipe("Qwen3ForCausalLM", config=Qwen3Config)(decoder)
