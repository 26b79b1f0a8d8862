"""How nodes become operators of ours: which forms we know, and those that need a hand.

A node is taken by the operator of its name if the form is one that we know: the version of the
definition in force is not newer than ours and means the same, and every attribute on the node is
one of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core.errors import GraphError
from perfxlm_core.graph.onnx.contrib import CONTRIB
from perfxlm_core.graph.onnx.functions import schema_of
from perfxlm_core.ops import quantization, tensor_make, tensor_reduce, tensor_shape
from perfxlm_core.ops.spec import Op
from perfxlm_core.ops.tensor import OPERATORS
from perfxlm_core.ops.types import dtype_name

if TYPE_CHECKING:
    from perfxlm_core.graph.ir import Value
    from perfxlm_core.graph.onnx.importer import Call

Rule = Callable[["Call"], "tuple[Value | None, ...] | None"]
"""Gives a node's outputs, or None to leave it to the operator of its name."""
MEANING_SINCE: Mapping[str, int] = MappingProxyType(
    {
        "BatchNormalization": 14,
        "Dropout": 7,
        "Hardmax": 13,
        "LogSoftmax": 13,
        "Softmax": 13,
        "Split": 13,
        "TopK": 10,
    }
)
"""Operators whose older definitions mean something else under the same inputs and attributes."""


def operator_for(call: Call) -> Op[..., Any] | None:
    """Our operator of a standard node, None if we do not know this form of it."""
    op = OPERATORS.get(call.proto.op_type)
    if op is None or op.onnx is None:
        return None
    schema = schema_of(call)
    if schema is None or schema.deprecated or schema.since_version > op.onnx.since:
        return None
    if schema.since_version < MEANING_SINCE.get(call.proto.op_type, 0):
        return None
    ours = {op.onnx.attributes.get(n, n) for n in op.attributes}
    return op if set(call.attrs) <= ours else None


def operator_version(call: Call) -> int:
    """Version of the definition in force; 0 if the operator set has no such operator."""
    schema = schema_of(call)
    return 0 if schema is None else int(schema.since_version)


def _constant(call: Call) -> tuple[Value | None, ...]:
    kinds = {
        "value": None, "value_float": np.float32, "value_floats": np.float32,
        "value_int": np.int64, "value_ints": np.int64,
    }  # fmt: skip
    for name, kind in kinds.items():
        if name in call.attrs:
            return (call.constant(np.asarray(call.attrs[name], kind)),)
    raise GraphError(f"{call.name} is a constant of {', '.join(call.attrs)}, want numbers")


def _constant_of_shape(call: Call) -> tuple[Value | None, ...]:
    value = np.asarray(call.attrs.get("value", np.zeros(1, np.float32))).reshape(())
    plain = value.astype(np.float32) if value.dtype.kind == "V" else value
    return (
        call.emit(
            tensor_make.full, call.input(0), value=plain.item(), dtype=dtype_name(value.dtype)
        ),
    )


def _cast_like(call: Call) -> tuple[Value | None, ...]:
    attrs = {k: v for k, v in call.attrs.items() if k in ("saturate", "round_mode")}
    return (call.emit(quantization.cast, call.input(0), to=call.input(1).dtype, **attrs),)


def _identity(call: Call) -> tuple[Value | None, ...]:
    return (call.input(0),)


def _dropout(call: Call) -> tuple[Value | None, ...] | None:
    if operator_version(call) < MEANING_SINCE["Dropout"]:
        return None
    training = call.optional(2)
    if training is not None and (
        training.constant is None or bool(training.constant.array().reshape(()))
    ):
        raise GraphError(f"{call.name}: training_mode is not false; we run models, not train them")
    x = call.input(0)
    if not call.wants(1):
        return (x,)
    shape = call.emit(tensor_shape.shape_of, x)
    return x, call.emit(tensor_make.full, shape, value=True, dtype="bool")


def _split(call: Call) -> tuple[Value | None, ...] | None:
    if operator_version(call) < MEANING_SINCE["Split"]:
        return None
    count = len(call.proto.output)
    pieces = call.emit(
        tensor_shape.split, call.input(0), call.optional(1), axis=call.attrs.get("axis", 0),
        num_outputs=count,
    )  # fmt: skip
    return tuple(pieces)


def _reduce(op: Op[..., Any]) -> Rule:
    """Reductions named their axes in an attribute before they took them as an input."""

    def rule(call: Call) -> tuple[Value | None, ...] | None:
        if "axes" not in call.attrs or len(call.inputs) > 1:
            return None
        axes = call.constant(np.asarray(call.attrs["axes"], np.int64))
        return (call.emit(op, call.input(0), axes, keepdims=call.attrs.get("keepdims", 1)),)

    return rule


def _if(call: Call) -> tuple[Value | None, ...]:
    condition = call.input(0).constant
    if condition is None:
        raise GraphError(
            f"{call.name}: which branch runs is decided only when the model runs; graphs are "
            "straight lines here. Export the model for one case"
        )
    taken = "then_branch" if bool(condition.array().reshape(-1)[0]) else "else_branch"
    return call.importer.branch(call.attrs[taken], call)


def _loop(call: Call) -> tuple[Value | None, ...]:
    raise GraphError(
        f"{call.name}: loops are not computed; export the model without {call.proto.op_type}"
    )


RULES: Mapping[tuple[str, str], Rule] = MappingProxyType(
    {
        ("", "Constant"): _constant,
        ("", "ConstantOfShape"): _constant_of_shape,
        ("", "CastLike"): _cast_like,
        ("", "Identity"): _identity,
        ("", "Dropout"): _dropout,
        ("", "Split"): _split,
        ("", "If"): _if,
        ("", "Loop"): _loop,
        ("", "Scan"): _loop,
        ("", "ReduceSum"): _reduce(tensor_reduce.reduce_sum),
        ("", "ReduceMean"): _reduce(tensor_reduce.reduce_mean),
        ("", "ReduceMax"): _reduce(tensor_reduce.reduce_max),
        ("", "ReduceMin"): _reduce(tensor_reduce.reduce_min),
        ("", "ReduceProd"): _reduce(tensor_reduce.reduce_prod),
        ("", "ReduceL2"): _reduce(tensor_reduce.reduce_l2),
        ("", "ReduceLogSumExp"): _reduce(tensor_reduce.reduce_log_sum_exp),
        **CONTRIB,
    }
)
"""(domain, operator) -> rule."""
