"""Random small models, made and judged by transformers."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 97
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA = (LlamaConfig, LlamaForCausalLM)
MISTRAL = (MistralConfig, MistralForCausalLM)
QWEN2 = (Qwen2Config, Qwen2ForCausalLM)
QWEN3 = (Qwen3Config, Qwen3ForCausalLM)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
GROUPS_3 = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}
GROUPS_4 = {"num_attention_heads": 4, "num_key_value_heads": 1}

MODELS = {
    "llama": (LLAMA, {}),
    "llama-groups3-tied": (LLAMA, {**GROUPS_3, "tie_word_embeddings": True}),
    "llama-groups4-llama3": (LLAMA, {**GROUPS_4, "rope_parameters": LLAMA3_ROPE}),
    "llama-biases": (LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "llama-head24-yarn": (LLAMA, {"head_dim": 24, "rope_parameters": YARN_ROPE}),
    "mistral-window": (MISTRAL, {**GROUPS_4, "sliding_window": 7}),
    "qwen2": (QWEN2, {}),
    "qwen2-groups3-tied": (QWEN2, {**GROUPS_3, "tie_word_embeddings": True}),
    "qwen2-window": (
        QWEN2,
        {**GROUPS_4, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": (QWEN3, {"head_dim": 20}),
    "qwen3-groups3-tied": (QWEN3, {**GROUPS_3, "head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-groups4-biases": (
        QWEN3,
        {**GROUPS_4, "head_dim": 16, "attention_bias": True, "rope_parameters": LLAMA3_ROPE},
    ),
}


@dataclass(frozen=True)
class Tiny:
    """A model on disk and in transformers."""

    name: str
    path: Path
    model: torch.nn.Module
    known: dict = field(default_factory=dict, repr=False)

    def logits(self, token_ids):
        """What transformers computes for one sequence, [tokens, vocab] float32; only once."""
        key = tuple(token_ids)
        if key not in self.known:
            with torch.no_grad():
                self.known[key] = self.model(torch.tensor([key])).logits[0].numpy()
        return self.known[key]

    def logprobs(self, token_ids):
        """The same as log-probabilities, in float64."""
        return log_softmax(self.logits(token_ids))


def log_softmax(logits):
    """Log-probabilities of the last axis, in float64."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def make(name, folder):
    """Make the model called `name`, with weights that give logits of order 10, in `folder`."""
    (config_class, model_class), changes = MODELS[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    model = model_class(config_class(**{**SIZES, **changes})).float().eval()
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if "norm" in parameter_name:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.5 * noise)
            elif "embed" in parameter_name:
                parameter.copy_(noise)
            else:
                scale = 4.0 if "lm_head" in parameter_name else 1.3
                parameter.copy_(noise * scale / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    return Tiny(name, Path(folder), model)


def prompt(length, seed=0):
    """Random token ids that are no special tokens."""
    return np.random.default_rng(seed).integers(2, VOCAB, length).tolist()
