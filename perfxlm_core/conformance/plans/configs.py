"""Small configurations of any recipe, from the names of its configuration's fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from perfxlm_core.errors import PerfxlmError
from perfxlm_core.graph.recipe import Recipe, find_recipe, known_recipes

V = TypeVar("V")
Choose = Callable[[Sequence[Any]], Any]
"""Picks one of several; the first is the simplest."""

POSITIONS = 256
"""Longest sequence of a small model."""
LARGE_POSITIONS = 4096
"""Longest sequence of a large one."""

_ROPE: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "linear", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
)
_SWITCHES = (
    "attention_bias",
    "mlp_bias",
    "qkv_bias",
    "use_qkv_bias",
    "use_qk_norm",
    "qk_norm",
    "tie_word_embeddings",
    "rope_interleaved",
)
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")


def architectures() -> tuple[str, ...]:
    """Installed recipes that can be tried: those whose graph a small configuration builds."""
    return tuple(name for name in known_recipes() if _reason(name) is None)


def untried() -> dict[str, str]:
    """Installed recipes that cannot be tried, with the reason.

    Usually the configuration has a field that only the recipe's author can fill in:
    `Config.examples` is the place for that.
    """
    return {name: reason for name in known_recipes() if (reason := _reason(name)) is not None}


def _reason(architecture: str) -> str | None:
    try:
        recipe = find_recipe([architecture])
        recipe.graph(make_config(recipe, lambda options: options[0]))
    except PerfxlmError as error:
        return str(error)
    except Exception as error:
        return f"the recipe raises {type(error).__name__}: {error}"
    return None


def make_config(recipe: Recipe, choose: Choose, large: bool = False) -> dict[str, Any]:
    """A configuration of a recipe, as `config.json` would have it.

    Fields with names that many families share get small values that fit together; an example of
    the recipe's own wins over them.

    Args:
        recipe: the recipe.
        choose: makes each decision.
        large: sizes of real models.
    """
    names = {f.name for f in dataclasses.fields(recipe.config)}
    made = {
        **_sizes(names, choose, large),
        **_rotary(names, choose),
        **_windows(names, choose),
        **{name: choose((False, True)) for name in _SWITCHES},
        **{name: choose((1e-5, 1e-6)) for name in _EPSILONS},
    }
    kept = {name: value for name, value in made.items() if name in names and value is not None}
    examples = tuple(recipe.config.examples)
    if examples:
        kept.update(choose(examples))
    if "layer_types" in kept:
        kept["layer_types"] = list(kept["layer_types"])[: kept.get("num_hidden_layers")]
    return kept


def _sizes(names: set[str], choose: Choose, large: bool) -> dict[str, Any]:
    pick = partial(_pick, choose, large)
    head_dim = pick((8, 16, 20, 32, 64), (64, 128))
    kv_heads, group = pick((1, 2, 3), (2, 4)), pick((1, 2, 3, 4), (2, 4))
    grouped = "num_key_value_heads" in names
    heads = kv_heads * group if grouped else kv_heads
    hidden = pick((16, 32, 48, 64, 96, 256), (576, 1024, 2048))
    return {
        "vocab_size": pick((17, 3, 33, 64, 97, 256), (1000, 4099)),
        "hidden_size": hidden if "head_dim" in names else heads * head_dim,
        "intermediate_size": pick((24, 32, 80, 64, 256), (1536, 2560)),
        "num_hidden_layers": pick((1, 2, 3), (1, 2)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": LARGE_POSITIONS if large else POSITIONS,
    }


def _pick(choose: Choose, large: bool, small: Sequence[V], real: Sequence[V]) -> V:
    found: V = choose(real if large else small)
    return found


def _rotary(names: set[str], choose: Choose) -> dict[str, Any]:
    parameters = choose(_ROPE)
    made = {
        "rope_theta": choose((10_000.0, 1_000_000.0)),
        "partial_rotary_factor": choose((None, None, 0.5)),
    }
    where = "rope_parameters" if "rope_parameters" in names else "rope_scaling"
    return {**made, where: parameters}


def _windows(names: set[str], choose: Choose) -> dict[str, Any]:
    if "sliding_window" not in names or not choose((False, True)):
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": choose((1, 3, 5, 8)),
        "max_window_layers": choose((0, 1)),
        "layer_types": choose((None, ["sliding_attention", "full_attention"] * 2)),
    }
