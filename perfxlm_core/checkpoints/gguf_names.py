"""Tensor names of GGUF files, to and from the names that recipes use.

One small table serves all families: GGUF has one name for each role, and so has Hugging Face.
Names without an entry are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_sinks": "self_attn.sinks",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<role>\w+)(?P<kind>\.weight|\.bias)?")


def _huggingface_name(name: str, sandwich: bool) -> str:
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    layer, role, kind = match.group("layer", "role", "kind")
    if layer is None:
        return _TOP[role] + (kind or "") if role in _TOP else name
    if role not in _BLOCK:
        return name
    mapped = "pre_feedforward_layernorm" if sandwich and role == "ffn_norm" else _BLOCK[role]
    return f"model.layers.{int(layer)}.{mapped}{kind or ''}"


def huggingface_names(names: Iterable[str]) -> dict[str, str]:
    """GGUF names by Hugging Face name, for all tensors of one file.

    Where blocks have a norm *after* attention too, `ffn_norm` is the one before the feed-forward;
    elsewhere Hugging Face calls that one `post_attention_layernorm`.
    """
    listed = list(names)
    sandwich = any(".post_attention_norm." in name for name in listed)
    mapped = {_huggingface_name(name, sandwich): name for name in listed}
    return mapped if len(mapped) == len(listed) else {name: name for name in listed}
