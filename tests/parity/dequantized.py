"""A quantized checkpoint's weights, decoded once, in a model of transformers."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .gguf_files import deinterleave


def in_transformers(checkpoint):
    """The checkpoint's weights, decoded to float32, in a Llama of transformers."""
    given = checkpoint.config
    config = LlamaConfig(
        **{k: v for k, v in given.items() if k in LlamaConfig().to_dict() and "rope" not in k},
        rope_parameters={"rope_type": "default", "rope_theta": given["rope_theta"]},
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = {}
    for name in checkpoint.names():
        array = checkpoint.tensor(name).float32()
        for role, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            array = deinterleave(array, given[heads]) if role in name else array
        weights[name] = torch.from_numpy(array.copy())
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(
        config
    )  # its table was on the meta device
    return model.eval()
