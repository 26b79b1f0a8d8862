"""Forms of whole layers over tensors: normalizations, convolutions, attention."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.shapes import (
    Shape,
    along,
    axis,
    between,
    narrowed,
    positive,
    shape,
)
from perfxlm_core.conformance.tensor import Facts, Form

EPSILONS = (1e-5, 1e-3)
MILD = ("normal", "tiny", "zeros", "spiky")
"""Kinds of numbers that layers of models see; a state or a softmax hides errors in others."""


# Normalization


def _normalized(at: Draws) -> Facts:
    made = shape(at, 1)
    where = axis(at, len(made))
    sizes = {"x": made, "scale": made[where:]}
    if at.op.name == "layer_normalization" and at.flag():
        sizes["bias"] = sizes["scale"]
    return dict(sizes), {"axis": where, "epsilon": at.one_of(EPSILONS)}


def _channels(at: Draws) -> Facts:
    made = shape(at, 3, 4)
    names = [p.name for p in at.op.params[1:]]
    return {"x": made, **dict.fromkeys(names, (made[1],))}, {"epsilon": at.one_of(EPSILONS)}


# Convolution


def _convolve(at: Draws) -> Facts:
    rank, group = at.number(1, 2), at.one_of([1, 1, 2, 3])
    inner, outer = at.number(1, 3), at.number(1, 3)
    kernel = [at.number(1, 3) for _ in range(rank)]
    gaps = [at.number(1, 2) for _ in range(rank)]
    space = [(k - 1) * d + at.number(1, 9) for k, d in zip(kernel, gaps, strict=True)]
    sizes: dict[str, Any] = {
        "x": (at.number(1, 2), inner * group, *space),
        "weight": (outer * group, inner, *kernel),
    }
    if at.flag():
        sizes["bias"] = (outer * group,)
    attrs: dict[str, Any] = {"group": group, "dilations": gaps}
    attrs["strides"] = [at.number(1, 3) for _ in range(rank)]
    attrs["auto_pad"] = at.one_of(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    if attrs["auto_pad"] == "NOTSET" and at.flag():
        attrs["pads"] = [at.number(0, 2) for _ in range(2 * rank)]
    return sizes, attrs


def _causal(at: Draws) -> Facts:
    batch, channels, length = at.number(1, 3), at.one_of([1, 3, 8, 17]), at.one_of([1, 2, 9, 33])
    taps = at.number(1, 5)
    sizes: dict[str, Any] = {"x": (batch, channels, length), "weight": (channels, 1, taps)}
    if at.flag():
        sizes["bias"] = (channels,)
    if at.flag():
        sizes["past"] = (batch, channels, taps - 1)
    return sizes, {"activation": at.one_of(["none", "silu", "swish"])}


# Attention


def _linear_attention(at: Draws) -> Facts:
    batch, length = at.number(1, 2), at.one_of([1, 2, 5, 17])
    heads, group = at.number(1, 3), at.number(1, 2)
    key, value = at.one_of([1, 4, 8]), at.one_of([1, 3, 16])
    rule = at.one_of(["linear", "gated", "delta", "gated_delta"])
    sizes: dict[str, Any] = {
        "q": (batch, length, heads * group * key),
        "k": (batch, length, heads * key),
        "v": (batch, length, heads * value),
    }
    if at.flag():
        sizes["past"] = (batch, heads, key, value)
    if "gated" in rule:
        sizes["decay"] = (batch, length, heads * (key if at.flag() else 1))
    if "delta" in rule:
        sizes["beta"] = (batch, length, heads)
    scale = at.one_of([0.0, 0.5])
    counts = {"q_num_heads": heads * group, "kv_num_heads": heads}
    return sizes, {**counts, "update_rule": rule, "scale": scale}


def _unit_keys(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    made = rng.standard_normal(shape).reshape(*shape[:2], case.attrs["kv_num_heads"], -1)
    norm = np.linalg.norm(made, axis=-1, keepdims=True)
    return np.asarray(made / np.maximum(norm, 1e-3)).reshape(shape)


def _dense(at: Draws) -> Facts:
    batch, groups, kv = at.number(1, 2), at.number(1, 3), at.number(1, 2)
    queries, keys = at.one_of([1, 2, 7, 17]), at.one_of([1, 3, 8, 33])
    size, value = at.one_of([1, 4, 16]), at.one_of([1, 3, 16])
    heads = groups * kv
    packed = at.flag()
    sizes: dict[str, Any] = {
        "q": (batch, queries, heads * size) if packed else (batch, heads, queries, size),
        "k": (batch, keys, kv * size) if packed else (batch, kv, keys, size),
        "v": (batch, keys, kv * value) if packed else (batch, kv, keys, value),
    }
    attrs: dict[str, Any] = {
        "is_causal": at.one_of([0, 1]),
        "scale": at.one_of([None, 0.3]),
        "softcap": at.one_of([0.0, 2.0]),
        "left_window_size": at.one_of([-1, -1, 0, 3]),
        "right_window_size": at.one_of([-1, -1, 0, 2]),
        "qk_matmul_output_mode": at.one_of([0, 1, 2, 3]),
    }
    if packed:
        attrs |= {"q_num_heads": heads, "kv_num_heads": kv}
    kind, total = at.one_of(["alone", "past", "lengths"]), keys
    if kind == "past":
        total += (before := at.one_of([1, 5]))
        sizes["past_key"] = (batch, kv, before, size)
        sizes["past_value"] = (batch, kv, before, value)
    elif kind == "lengths":
        sizes["key_lengths"] = (batch,)
    if at.flag():
        sizes["mask"] = (*narrowed(at, (batch, heads)), queries, total)
        sizes["dtypes"] = {"mask": at.one_of(["bool", at.variant.dtype])}
    return sizes, attrs


def _within_keys(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    keys = case.sizes["k"][1 if len(case.sizes["k"]) == 3 else 2]
    return rng.integers(1, keys + 1, shape)


def _mask(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    seen = rng.random(shape) < 0.7
    return seen if dtype == "bool" else np.where(seen, rng.standard_normal(shape), -np.inf)


def _grouped(at: Draws) -> Facts:
    batch, kv, group = at.number(1, 3), at.number(1, 2), at.number(1, 3)
    size, length, before = at.one_of([2, 4, 16]), at.one_of([1, 3, 8]), at.one_of([0, 1, 5])
    heads, total = kv * group, length + before
    whole = (heads + 2 * kv) * size
    packed, turned = at.flag(), at.flag()
    sizes: dict[str, Any] = {
        "q": (batch, length, whole if packed else heads * size),
        "last_positions": [total - 1] * batch,
        "total_length": [total],
    }
    if not packed:
        sizes["k"] = sizes["v"] = (batch, length, kv * size)
    if before:
        sizes["past_key"] = sizes["past_value"] = (batch, kv, before, size)
    if turned:
        sizes["cos"] = sizes["sin"] = (total + 3, size // 2)
    if at.flag():
        sizes["sinks"] = (heads,)
    attrs = {
        "num_heads": heads,
        "kv_num_heads": kv,
        "scale": at.one_of([None, 0.3]),
        "softcap": at.one_of([0.0, 2.0]),
        "local_window_size": at.one_of([-1, 1, 3]),
        "do_rotary": int(turned),
        "rotary_interleaved": at.one_of([0, 1]),
    }
    return sizes, attrs


def _rotary_positions(at: Draws) -> Facts:
    batch, heads, length = at.number(1, 2), at.number(1, 3), at.one_of([1, 2, 9])
    size = at.one_of([2, 4, 16, 64])
    half = size // 2 if at.flag() else max(1, size // 4)
    packed = at.flag()
    sizes: dict[str, Any] = {
        "x": (batch, length, heads * size) if packed else (batch, heads, length, size)
    }
    if at.flag():
        sizes["positions"] = (batch, length)
        sizes["cos"] = sizes["sin"] = (12, half)
    else:
        sizes["cos"] = sizes["sin"] = (batch, length, half)
    attrs: dict[str, Any] = {
        "interleaved": at.one_of([0, 1]),
        "rotary_embedding_dim": 0 if 2 * half == size else 2 * half,
    }
    return sizes, {**attrs, "num_heads": heads} if packed else attrs


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "layer_normalization": Form(_normalized),
        "rms_normalization": Form(_normalized),
        "lp_normalization": Form(along(p=[2, 1])),
        "batch_normalization": Form(_channels, numbers={"variance": positive}),
        "instance_normalization": Form(_channels),
        "convolve": Form(_convolve),
        "causal_conv_with_state": Form(_causal),
        "linear_attention": Form(
            _linear_attention, kinds=MILD,
            numbers={"k": _unit_keys, "decay": between(-2, 0), "beta": between(0, 1)},
        ),
        "dense_attention": Form(
            _dense, kinds=MILD, numbers={"mask": _mask, "key_lengths": _within_keys}
        ),
        "group_query_attention": Form(_grouped, kinds=MILD),
        "rotary_positions": Form(
            _rotary_positions,
            numbers={
                "cos": between(-1, 1), "sin": between(-1, 1),
                "positions": between(0, 11),
            },
        ),
    }
)  # fmt: skip
"""Operator -> its form."""
