"""The unified operator API: one annotated function for each operator.

Call an operator on arrays and it computes (this is the reference); call it on a graph's values
inside a recipe and it adds a node.
"""

from perfxlm_core.ops.attention import attention, paged_attention, store_kv
from perfxlm_core.ops.elementwise import (
    add,
    gelu,
    gelu_and_mul,
    mul,
    scale,
    silu,
    silu_and_mul,
    soft_cap,
)
from perfxlm_core.ops.fused import gated_linear, linear_add, qkv_rotary_store
from perfxlm_core.ops.linear import embedding, linear, take_rows
from perfxlm_core.ops.normalization import layer_norm, rms_norm
from perfxlm_core.ops.quantized_cache import paged_attention_int8, store_kv_int8
from perfxlm_core.ops.rotary import rotary_embedding, rotary_table
from perfxlm_core.ops.sampling import (
    greedy,
    log_probabilities,
    log_softmax,
    sample_top_k_top_p,
    softmax,
    top_k,
)
from perfxlm_core.ops.shaping import reshape

__all__ = [
    "add",
    "attention",
    "embedding",
    "gated_linear",
    "gelu",
    "gelu_and_mul",
    "greedy",
    "layer_norm",
    "linear",
    "linear_add",
    "log_probabilities",
    "log_softmax",
    "mul",
    "paged_attention",
    "paged_attention_int8",
    "qkv_rotary_store",
    "reshape",
    "rms_norm",
    "rotary_embedding",
    "rotary_table",
    "sample_top_k_top_p",
    "scale",
    "silu",
    "silu_and_mul",
    "soft_cap",
    "softmax",
    "store_kv",
    "store_kv_int8",
    "take_rows",
    "top_k",
]
