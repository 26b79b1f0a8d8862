"""A Hugging Face style configuration, rebuilt from a GGUF file's metadata.

Keys of the file that have no Hugging Face name appear under their own (without the architecture's
prefix), so that a recipe can refuse what it does not know instead of missing it.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from perfxlm_core.checkpoints.gguf import GGUFFile, StringArray
from perfxlm_core.checkpoints.gguf_facts import end_of_turn_texts, is_rope_interleaved
from perfxlm_core.errors import CheckpointError

_ROPE_FACTORS = "rope_freqs.weight"
_LONG_ROPE = {
    "long_factor": "rope_factors_long.weight",
    "short_factor": "rope_factors_short.weight",
}
_CONTROL = 3

_KEYS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_WHOLE_MODEL = ("hidden_size", "num_hidden_layers")
_SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "attn_factor": "attention_factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_ext_factor": "extrapolation_factor",
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_IGNORED = {"rope.scaling.finetuned", "rope.dimension_count", "tensor_data_layout"}
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def _plain(value: Any) -> Any:  # noqa: ANN401 - a metadata value of any type
    """The value as JSON would hold it; equal entries of a list of layers become one number."""
    if isinstance(value, float):
        return float(str(np.float32(value)))  # 1e-05, not 9.999999747378752e-06
    if isinstance(value, StringArray):
        return value[:]
    if isinstance(value, np.ndarray):
        items = [_plain(item) for item in value.tolist()]
        return items[0] if items and all(item == items[0] for item in items) else items
    return value


def huggingface_config(file: GGUFFile) -> dict[str, Any]:
    """The file's model configuration.

    Beside Hugging Face's keys: `rope_interleaved` (which elements a rotation pairs, see
    `gguf_facts`) and, if the file holds such a tensor, `rope_freq_factors` (a list of divisors of
    the rotary frequencies).

    Raises:
        CheckpointError: a size that every model has is missing or of the wrong type.
    """
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise CheckpointError(f"{file.path}: the metadata lack the string general.architecture")
    prefix = architecture + "."
    given = {k[len(prefix) :]: v for k, v in file.metadata.items() if k.startswith(prefix)}
    config = {
        _KEYS.get(key, key): _plain(value)
        for key, value in given.items()
        if not key.startswith("rope.scal") and key not in _IGNORED
    }
    _require_sizes(file, architecture, config)
    config |= _defaults(file, config) | _rope(file, given, config)
    config["rope_interleaved"] = is_rope_interleaved(architecture)
    config["architectures"] = [f"{architecture.capitalize()}ForCausalLM"]
    config["model_type"] = architecture
    return config | _token_ids(file)


def _require_sizes(file: GGUFFile, architecture: str, config: dict[str, Any]) -> None:
    """Known settings are numbers, or one number for each layer; the basic sizes are whole."""
    for key, name in _KEYS.items():
        value = config.get(name)
        if value is None and name not in _REQUIRED:
            continue
        items = value if isinstance(value, list) and name not in _WHOLE_MODEL else [value]
        good = bool(items) and all(type(item) in (int, float) for item in items)
        if name in _REQUIRED:
            good = good and all(type(item) is int and item > 0 for item in items)
        if not good:
            raise CheckpointError(
                f"{file.path}: {architecture}.{key} is {value!r:.80} in the metadata; "
                f"a {'positive whole ' if name in _REQUIRED else ''}number is expected"
            )


def _defaults(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any]:
    """What the format leaves out because the tensors say it."""
    embedding = file.tensors.get("token_embd.weight")
    found: dict[str, Any] = {
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in file.tensors,
        "num_key_value_heads": config.get("num_key_value_heads", config["num_attention_heads"]),
        "rope_theta": config.get("rope_theta", 10_000.0),
    }
    if embedding is not None:
        found["vocab_size"] = embedding.shape[0] if embedding.shape else 1
    if config.get("v_head_dim") == config.get("head_dim"):
        config.pop("v_head_dim", None)
    return found


def _rope(file: GGUFFile, given: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {}
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or (hidden // heads if isinstance(heads, int) else None)
    rotated = given.get("rope.dimension_count", head_dim)
    if isinstance(head_dim, int) and head_dim and rotated != head_dim:
        if type(rotated) is not int:
            raise CheckpointError(f"{file.path}: rope.dimension_count is {rotated!r}, no number")
        rope["partial_rotary_factor"] = rotated / head_dim
    scaling = _rope_scaling(file, given)
    if scaling.get("rope_type", "none") != "none" and scaling.get("factor") not in (0.0, 1.0):
        rope["rope_scaling"] = scaling
    if _ROPE_FACTORS in file.tensors:
        rope["rope_freq_factors"] = file.tensor(_ROPE_FACTORS).float32().tolist()
    return rope


def _rope_scaling(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
    prefix = "rope.scaling."
    scaling = {
        _SCALING.get(key.removeprefix(prefix), key.removeprefix(prefix)): _plain(value)
        for key, value in given.items()
        if key.startswith(prefix) and key not in _IGNORED
    }
    if "rope.scale_linear" in given:
        scaling.setdefault("factor", _plain(given["rope.scale_linear"]))
    for name in ("factor", "attention_factor"):
        if not isinstance(scaling.get(name, 1.0), float | int):
            raise CheckpointError(f"{file.path}: rope scaling's {name} is {scaling[name]!r:.80}")
    if all(name in file.tensors for name in _LONG_ROPE.values()):
        factors = {k: file.tensor(name).float32().tolist() for k, name in _LONG_ROPE.items()}
        return {"rope_type": "longrope"} | scaling | factors
    if "factor" in scaling:
        scaling.setdefault("rope_type", "linear")  # what the format means by a bare factor
    if scaling.get("rope_type") == "yarn" and "attention_factor" in scaling:
        scaling["attention_factor"] *= 1 + 0.1 * log(max(scaling.get("factor", 1.0), 1.0))
    return scaling


def _token_ids(file: GGUFFile) -> dict[str, Any]:
    ids = {
        f"{name}_token_id": file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {key: value for key, value in ids.items() if type(value) is int}


def generation_config(file: GGUFFile) -> dict[str, Any]:
    """Hugging Face style generation defaults: the ids that end an answer, and sampling settings."""
    generation = _token_ids(file)
    ends = _end_ids(file)
    if ends:
        generation["eos_token_id"] = ends
    for key, name in _SAMPLING.items():
        value = file.metadata.get(f"general.sampling.{key}")
        if isinstance(value, int | float):
            generation[name] = _plain(value)
    return generation


def _end_ids(file: GGUFFile) -> list[int]:
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    ends = [i for i in (file.metadata.get(key) for key in keys) if type(i) is int]
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    texts = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(kinds, np.ndarray) and isinstance(texts, StringArray):
        control = np.flatnonzero(kinds[: len(texts)] == _CONTROL).tolist()
        ends += [i for i in control if texts[i] in end_of_turn_texts()]
    return list(dict.fromkeys(ends))
