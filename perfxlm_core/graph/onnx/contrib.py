"""Operators outside of the standard that exporters write, and our own functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.errors import GraphError
from perfxlm_core.graph.onnx.block_functions import DOMAIN
from perfxlm_core.ops import quantization, tensor_normalization, tensor_shape
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


CONTRIB: Mapping[tuple[str, str], Callable[[Any], Any]] = MappingProxyType(
    {**_ours(), ("", "SimplifiedLayerNormalization"): _rms_norm}
)
"""(domain, operator) -> rule."""
