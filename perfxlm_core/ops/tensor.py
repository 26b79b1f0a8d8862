"""The operators of imported graphs: ONNX's own, over tensors of any rank.

The engine's operators (`perfxlm_core.ops`) know tokens, heads and blocks; these know shapes only.
Every one of them says which ONNX operator it is (`Op.onnx`); `OPERATORS` is that list turned round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from perfxlm_core.ops import (
    elementwise,
    quantization,
    sampling,
    tensor_attention,
    tensor_convolution,
    tensor_index,
    tensor_linear,
    tensor_logic,
    tensor_make,
    tensor_math,
    tensor_normalization,
    tensor_recurrent,
    tensor_reduce,
    tensor_shape,
)
from perfxlm_core.ops.spec import Op

MODULES: tuple[ModuleType, ...] = (
    tensor_math, tensor_logic, tensor_reduce, tensor_shape, tensor_index, tensor_make,
    tensor_linear, tensor_normalization, tensor_convolution, tensor_attention, tensor_recurrent,
    quantization, sampling,
)  # fmt: skip


def _operators() -> Iterator[tuple[str, Op[..., Any]]]:
    yield "Gelu", elementwise.gelu
    for module in MODULES:
        for found in vars(module).values():
            if (
                isinstance(found, Op)
                and found.onnx is not None
                and found.__module__ == module.__name__
            ):
                yield found.onnx.name, found


OPERATORS: Mapping[str, Op[..., Any]] = MappingProxyType(dict(_operators()))
"""ONNX operator of the default domain -> our operator that computes it."""
