"""Which operators there are, which family of cases each has, and which types it is tried with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from perfxlm_core import ops
from perfxlm_core.conformance import (
    arithmetic_forms,
    layer_forms,
    position_forms,
    quantized_forms,
    shape_forms,
)
from perfxlm_core.conformance.dimensions import words_of
from perfxlm_core.conformance.family import Family
from perfxlm_core.conformance.fused import GatedLinear, LinearAdd, QkvRotaryStore
from perfxlm_core.conformance.indexed import (
    DecodeBlocks,
    Embedding,
    Linear,
    Rotary,
    RotaryTable,
    TakeRows,
)
from perfxlm_core.conformance.logits import Greedy, LogProbabilities, Sampling, Softmax
from perfxlm_core.conformance.paged import PagedAttention, PagedAttentionInt8, StoreKv, StoreKvInt8
from perfxlm_core.conformance.tensor import TensorFamily
from perfxlm_core.ops import tensor, tensor_cached_attention
from perfxlm_core.ops.spec import Op

FORMS = (arithmetic_forms, position_forms, shape_forms, layer_forms, quantized_forms)
"""Modules with the forms of operators over tensors."""
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        **{name: TensorFamily(form) for module in FORMS for name, form in module.FORMS.items()},
        "linear": Linear(),
        "linear_add": LinearAdd(),
        "gated_linear": GatedLinear(),
        "qkv_rotary_store": QkvRotaryStore(),
        "embedding": Embedding(),
        "decode_blocks": DecodeBlocks(),
        "take_rows": TakeRows(),
        "rotary_table": RotaryTable(),
        "rotary_embedding": Rotary(),
        "store_kv": StoreKv(),
        "store_kv_int8": StoreKvInt8(),
        "paged_attention": PagedAttention(),
        "paged_attention_int8": PagedAttentionInt8(),
        "greedy": Greedy(),
        "sample_top_k_top_p": Sampling(),
        "log_probabilities": LogProbabilities(),
        "softmax": Softmax(),
        "log_softmax": Softmax(),
    }
)
"""Operator -> its own family."""

TRIED = ("int64", "int32", "int8", "uint8", "bool")
"""Types beside a device's own that operators over tensors of any kind are tried with."""


def family_of(op: Op[..., Any]) -> Family | None:
    """The family of an operator; None if its definition alone does not say what inputs are legal.

    That is so for indices and open shapes, which need a family of their own.
    """
    if op.name in FAMILIES:
        return FAMILIES[op.name]
    plain = all(
        not p.any_shape and not p.variadic and p.dtype.name in ("T", "F32") for p in op.params
    )
    return Family() if plain and op.params and words_of(op) else None


@cache
def known_operators() -> Mapping[str, Op[..., Any]]:
    """Every operator of the core, by name; those of language models first."""
    found = {name: getattr(ops, name) for name in ops.__all__}
    for module in (*tensor.MODULES, tensor_cached_attention):
        for name, value in vars(module).items():
            if isinstance(value, Op) and (value.__module__, value.name) == (module.__name__, name):
                found.setdefault(name, value)
    return MappingProxyType({n: o for n, o in found.items() if isinstance(o, Op)})


def dtypes_of(op: Op[..., Any], named: Sequence[str] | None, offered: Sequence[str]) -> list[str]:
    """The types of activations that a kernel is tried with.

    Args:
        op: what it implements.
        named: those that the kernel names; None if it takes all.
        offered: those of the device.
    """
    family, own = FAMILIES.get(op.name), list(named or offered)
    if isinstance(family, TensorFamily):
        fitting = family.form.dtypes or (op.activation.allowed if op.activation else ("float32",))
        wanted = own if named else [*own, *TRIED]
        return [d for d in dict.fromkeys(wanted) if d in fitting] or [fitting[0]]
    names = {p.dtype.name for p in op.params}
    if "ANY" in names:
        return list(dict.fromkeys([*own, "float16", "int32"]))
    return own if names & {"T", "F"} or "dtype" in op.attributes else ["float32"]
