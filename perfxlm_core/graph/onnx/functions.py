"""Bodies of standard operators that ONNX itself defines by simpler ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core.errors import GraphError
from perfxlm_core.graph.onnx.initializers import CODES

if TYPE_CHECKING:
    from onnx import FunctionProto, NodeProto

    from perfxlm_core.graph.ir import Value
    from perfxlm_core.graph.onnx.importer import Call


def body_of(call: Call) -> FunctionProto:
    """The body that the standard gives for a node.

    Raises:
        GraphError: there is none; the operator is not one that we have.
    """
    import onnx

    schema = schema_of(call)
    if schema is None:
        raise GraphError(
            f"{call.name} is not in the operator set {call.proto.domain or 'ai.onnx'} "
            f"{call.version} and has no function in the model; we cannot compute it"
        )
    strange = set(call.attrs) - set(schema.attributes)
    if strange:
        raise GraphError(
            f"{call.name} has {', '.join(sorted(strange))}, which its definition, version "
            f"{schema.since_version}, does not know"
        )
    body: Any = None
    if schema.has_function:
        version = _best(schema.function_opset_versions, call.version)
        body = schema.get_function_with_opset_version(version)
    elif schema.has_context_dependent_function:
        version = _best(schema.context_dependent_function_opset_versions, call.version)
        body = schema.get_context_dependent_function_with_opset_version(
            version, _resolved(call).SerializeToString(), [_type(v) for v in call.inputs]
        )
    if not body:
        raise GraphError(
            f"{call.name}, version {schema.since_version}, is not an operator that we have; "
            f"its attributes here are {sorted(call.attrs) or 'none'}"
        )
    if isinstance(body, bytes):
        body = onnx.FunctionProto.FromString(body)
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name and name not in {a.name for a in body.attribute_proto}:
            body.attribute_proto.append(attribute.default_value)
    result: FunctionProto = body
    return result


def schema_of(call: Call) -> Any:  # noqa: ANN401
    """The standard's definition of a node's operator, None if it has none."""
    from onnx import defs

    domain = "" if call.proto.domain == "ai.onnx" else call.proto.domain
    try:
        return defs.get_schema(call.proto.op_type, call.version, domain)
    except defs.SchemaError:
        return None


def _resolved(call: Call) -> NodeProto:
    """The node with its attributes' values in place of references to the caller's."""
    import onnx

    node = onnx.NodeProto()
    node.CopyFrom(call.proto)
    del node.attribute[:]
    for attribute in call.proto.attribute:
        if not attribute.ref_attr_name:
            node.attribute.append(attribute)
        elif attribute.name in call.attrs:
            value = call.attrs[attribute.name]
            if isinstance(value, np.ndarray):
                value = onnx.numpy_helper.from_array(value)
            node.attribute.append(onnx.helper.make_attribute(attribute.name, value))
    return node


def _best(versions: list[int], wanted: int) -> int:
    return max((v for v in versions if v <= wanted), default=min(versions))


def _type(value: Value | None) -> bytes:
    import onnx

    kind = onnx.TypeProto()
    if value is not None:
        kind.tensor_type.elem_type = CODES[value.dtype]
        if value.type.shape is not None:
            for length in value.type.shape:
                dim = kind.tensor_type.shape.dim.add()
                if isinstance(length, int):
                    dim.dim_value = length
                else:
                    dim.dim_param = str(length)
    return bytes(kind.SerializeToString())
