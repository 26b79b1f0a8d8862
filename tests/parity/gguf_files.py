"""Small models as GGUF files, laid out as llama.cpp's converter lays them out."""

import gguf
import numpy as np

from perfxlm_core.graph.rope import inverse_frequencies, rope_parameters

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
ROLES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{ROLES[stem]}.{kind}"
    _, _, layer, role = stem.split(".", 3)
    return f"blk.{layer}.{ROLES[role]}.{kind}"


def interleave(rows, heads):
    """Rows of a projection in the order in which neighbours are turned together."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def deinterleave(rows, heads):
    """Undo `interleave`."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def write(tiny, path):
    """Write `tiny` to a GGUF file."""
    config = tiny.model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(config, head_dim))
    for name, parameter in tiny.model.named_parameters():
        array = parameter.detach().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            count = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = interleave(array, count)
        writer.add_tensor(gguf_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def divisors(config, head_dim):
    """The list of divisors that stands for llama3's rule."""
    parameters = rope_parameters({"rope_parameters": dict(config.rope_parameters)})
    plain = {"rope_type": "default", "rope_theta": parameters["rope_theta"]}
    longest = config.max_position_embeddings
    base, _ = inverse_frequencies(plain, head_dim, longest)
    return base / inverse_frequencies(parameters, head_dim, longest)[0]
