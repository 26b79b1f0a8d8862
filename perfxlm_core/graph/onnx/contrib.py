"""Operators outside of the standard that exporters write, and our own functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.errors import GraphError
from perfxlm_core.graph.onnx.block_functions import DOMAIN
from perfxlm_core.ops import (
    quantization,
    tensor_attention,
    tensor_cached_attention,
    tensor_linear,
    tensor_math,
    tensor_normalization,
    tensor_shape,
)
from perfxlm_core.ops.formats import FORMATS, Tensor

if TYPE_CHECKING:
    from perfxlm_core.graph.ir import Value
    from perfxlm_core.graph.onnx.importer import Call


def _blocks(call: Call, value: Value, form: str) -> Value | None:
    """A constant of bytes as the quantized weight that it is; None if it is none."""
    raw, known = value.constant, FORMATS[form]
    if raw is None or raw.format != "uint8" or len(raw.shape) != 2:
        return None
    rows, row_bytes = raw.shape
    if row_bytes % known.block_bytes:
        raise GraphError(f"{call.name}: rows of {row_bytes} bytes are not blocks of {form}")
    shape = (rows, row_bytes // known.block_bytes * known.block_size)
    tensor = Tensor(raw.name, shape, form, raw.data, raw.source, raw.mapping)
    return call.importer.shared(value, tensor)


def _dequantize(form: str) -> Callable[[Call], tuple[Value, ...] | None]:
    def rule(call: Call) -> tuple[Value, ...] | None:
        weight = _blocks(call, call.input(0), form)
        return None if weight is None else (call.emit(quantization.decode_blocks, weight),)

    return rule


def _linear(form: str) -> Callable[[Call], tuple[Value, ...] | None]:
    def rule(call: Call) -> tuple[Value, ...] | None:
        weight = _blocks(call, call.input(1), form)
        return None if weight is None else (call.emit(ops.linear, call.input(0), weight),)

    return rule


def _embedding(form: str) -> Callable[[Call], tuple[Value, ...] | None]:
    def rule(call: Call) -> tuple[Value, ...] | None:
        table = _blocks(call, call.input(1), form)
        if table is None:
            return None
        ids = call.input(0)
        flat = call.emit(tensor_shape.reshape_to, ids, call.constant(np.array([-1])))
        narrow = call.emit(quantization.cast, flat, to="int32")
        rows = call.emit(ops.embedding, narrow, table)
        lead = call.emit(tensor_shape.shape_of, ids)
        shape = call.emit(tensor_shape.concat, lead, call.constant(np.array([-1])), axis=0)
        return (call.emit(tensor_shape.reshape_to, rows, shape),)

    return rule


def _ours() -> Mapping[tuple[str, str], Callable[[Any], Any]]:
    kinds = {"Dequantize": _dequantize, "Linear": _linear, "Embedding": _embedding}
    return {(DOMAIN, f"{k}_{f}"): rule(f) for k, rule in kinds.items() for f in FORMATS}


def _rms_norm(call: Call) -> tuple[Value, ...]:
    attrs = {k: v for k, v in call.attrs.items() if k in ("axis", "epsilon")}
    return (call.emit(tensor_normalization.rms_normalization, *call.inputs[:2], **attrs),)


def _only(call: Call, *known: str, **neutral: Any) -> None:  # noqa: ANN401
    """Refuse attributes that are neither known nor at the value that changes nothing."""
    for name, value in call.attrs.items():
        if name not in known and neutral.get(name) != value:
            raise GraphError(f"{call.name} has {name}={value!r}, which we do not compute")


def _skip_rms_norm(call: Call) -> tuple[Value | None, ...]:
    _only(call, "epsilon")
    total = call.emit(tensor_math.broadcast_add, call.input(0), call.input(1))
    bias = call.optional(3)
    if bias is not None:
        total = call.emit(tensor_math.broadcast_add, total, bias)
    attrs = {"epsilon": call.attrs.get("epsilon", 1e-5)}
    y = call.emit(tensor_normalization.rms_normalization, total, call.input(2), **attrs)
    return y, None, None, total


def _skip_layer_norm(call: Call) -> tuple[Value | None, ...]:
    _only(call, "epsilon")
    total = call.emit(tensor_math.broadcast_add, call.input(0), call.input(1))
    bias = call.optional(4)
    if bias is not None:
        total = call.emit(tensor_math.broadcast_add, total, bias)
    attrs = {"epsilon": call.attrs.get("epsilon", 1e-5)}
    y, mean, inverse = call.emit(
        tensor_normalization.layer_normalization, total, call.input(2), call.optional(3), **attrs
    )
    return y, mean, inverse, total


def _rotary(call: Call) -> tuple[Value, ...]:
    _only(call, "interleaved", "num_heads", "rotary_embedding_dim", is_packed_batching=0, scale=1.0)
    positions = call.input(1)
    if positions.type.shape is not None and len(positions.type.shape) != 2:
        raise GraphError(f"{call.name}: position_ids must be [batch, sequence]")
    heads = call.attrs.get("num_heads", 0)
    width = call.attrs.get("rotary_embedding_dim", 0)
    size = call.input(2).type.shape
    if not heads and size is not None and not width:
        heads = _heads_of(call, 2 * size[1])
    return (
        call.emit(
            tensor_attention.rotary_positions, call.input(0), call.input(2), call.input(3),
            positions, interleaved=call.attrs.get("interleaved", 0), num_heads=heads or None,
            rotary_embedding_dim=width,
        ),
    )  # fmt: skip


def _heads_of(call: Call, size: Any) -> int | None:  # noqa: ANN401
    """Heads of a packed input whose heads turn as a whole."""
    shape = call.input(0).type.shape
    if shape is None or len(shape) != 3 or not isinstance(shape[2], int):
        return None
    return shape[2] // int(size)


def _matmul_nbits(call: Call) -> tuple[Value, ...]:
    _only(call, "K", "N", "bits", "block_size", accuracy_level=call.attrs.get("accuracy_level"))
    if call.optional(4) is not None:
        raise GraphError(f"{call.name}: an order of columns (g_idx) is not computed")
    weight = call.emit(
        quantization.dequantize_bits, call.input(1), call.input(2), call.optional(3),
        bits=call.attrs.get("bits", 4), block_size=call.attrs["block_size"],
        columns=call.attrs["K"],
    )  # fmt: skip
    turned = call.emit(tensor_shape.transpose, weight, perm=(1, 0))
    y = call.emit(tensor_linear.matmul, call.input(0), turned)
    bias = call.optional(5)
    return (y if bias is None else call.emit(tensor_math.broadcast_add, y, bias),)


def _group_query_attention(call: Call) -> tuple[Value, ...]:
    known = (
        "num_heads", "kv_num_heads", "scale", "softcap", "local_window_size", "do_rotary",
        "rotary_interleaved",
    )  # fmt: skip
    _only(
        call, *known, smooth_softmax=0, qk_output=0, k_quant_type="NONE", v_quant_type="NONE",
        kv_cache_bit_width=0,
    )  # fmt: skip
    attrs = {k: v for k, v in call.attrs.items() if k in known}
    outputs = call.emit(
        tensor_cached_attention.group_query_attention, call.input(0), call.input(5), call.input(6),
        *(call.optional(i) for i in (1, 2, 3, 4, 7, 8, 9, 10, 11)), **attrs,
    )  # fmt: skip
    return tuple(outputs)


def _gelu(approximate: str) -> Callable[[Call], tuple[Value, ...]]:
    def rule(call: Call) -> tuple[Value, ...]:
        _only(call)
        x, bias = call.input(0), call.optional(1)
        x = x if bias is None else call.emit(tensor_math.broadcast_add, x, bias)
        return (call.emit(ops.gelu, x, approximate=approximate),)

    return rule


def _quick_gelu(call: Call) -> tuple[Value, ...]:
    _only(call, "alpha")
    return (call.emit(tensor_math.swish, call.input(0), alpha=call.attrs.get("alpha", 1.702)),)


_MICROSOFT: Mapping[str, Callable[[Any], Any]] = {
    "BiasGelu": _gelu("none"),
    "FastGelu": _gelu("tanh"),
    "Gelu": _gelu("none"),
    "GroupQueryAttention": _group_query_attention,
    "MatMulNBits": _matmul_nbits,
    "QuickGelu": _quick_gelu,
    "RotaryEmbedding": _rotary,
    "SimplifiedLayerNormalization": _rms_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
}

CONTRIB: Mapping[tuple[str, str], Callable[[Any], Any]] = MappingProxyType(
    {
        **_ours(),
        **{("com.microsoft", name): rule for name, rule in _MICROSOFT.items()},
        ("", "SimplifiedLayerNormalization"): _rms_norm,
    }
)
"""(domain, operator) -> rule."""
