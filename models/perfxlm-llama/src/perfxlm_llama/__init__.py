"""Llama 1 to 3 and Mistral as a graph recipe.

Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; Grattafiori et al. 2024,
arXiv:2407.21783; Jiang et al. 2023, arXiv:2310.06825. Scopes spell Hugging Face's weight names.
"""

from dataclasses import dataclass
from typing import ClassVar

from perfxlm_core import ops
from perfxlm_core.recipes import (
    Array,
    DecoderConfig,
    Graph,
    embed,
    gated_mlp,
    linear,
    logits,
    recipe,
    rms_norm,
    rotary,
)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """The settings that shape the graph."""

    expects: ClassVar = {"hidden_act": "silu", "pretraining_tp": 1}

    attention_bias: bool = False
    mlp_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """Llama with wider default context and, in its first version, a window of attention."""

    max_position_embeddings: int = 131072
    num_key_value_heads: int | None = 8
    sliding_window: int | None = None


def decoder(g: Graph, c: LlamaConfig) -> Array:
    """Token ids to logits."""
    with g.scope("model"):
        x = embed(g, "embed_tokens", c.vocab_size, c.hidden_size)
        cos, sin = rotary(g, c)
        for i in range(c.num_hidden_layers):
            with g.scope("layers", i):
                y = rms_norm(g, "input_layernorm", x, c.rms_norm_eps)
                x = x + attention(g, c, i, y, cos, sin)
                y = rms_norm(g, "post_attention_layernorm", x, c.rms_norm_eps)
                x = x + gated_mlp(g, "mlp", y, c.intermediate_size, bias=c.mlp_bias)
        x = rms_norm(g, "norm", x, c.rms_norm_eps)
    return logits(g, c, x)


def attention(g: Graph, c: LlamaConfig, layer: int, x: Array, cos: Array, sin: Array) -> Array:
    """Grouped-query attention with rotary positions."""

    def heads(name: str, count: int) -> Array:
        y = linear(g, name, x, count * c.head_size, bias=c.attention_bias)
        split: Array = y.reshape(-1, count, c.head_size)
        return split

    with g.scope("self_attn"):
        q = heads("q_proj", c.num_attention_heads)
        k = heads("k_proj", c.kv_heads)
        v = heads("v_proj", c.kv_heads)
        q = ops.rotary_embedding(q, cos, sin, interleaved=c.rope_interleaved)
        k = ops.rotary_embedding(k, cos, sin, interleaved=c.rope_interleaved)
        window = c.sliding_window if isinstance(c, MistralConfig) else None
        y = ops.attention(q, k, v, layer=layer, window=window)
        y = y.reshape(-1, c.num_attention_heads * c.head_size)
        return linear(g, "o_proj", y, c.hidden_size, bias=c.attention_bias)


llama = recipe("LlamaForCausalLM", config=LlamaConfig)(decoder)
mistral = recipe("MistralForCausalLM", config=MistralConfig)(decoder)
