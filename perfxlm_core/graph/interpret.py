"""A graph run node by node with the operators' reference bodies: slow, exact, on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfxlm_core.errors import ArgumentError, GraphError
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import Dim, dtype_name


def interpret(graph: Graph, feeds: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
    """Run every node on arrays and return the graph's outputs, in order.

    Args:
        feeds: an array for each input and state of the graph, by name. States are updated in
            place, as a cache is.

    Raises:
        ArgumentError: an input is missing, unknown, or has another shape or dtype than declared.
        GraphError: a node refuses its inputs.
    """
    values = _bind(graph, feeds)
    last = _last_uses(graph)
    with np.errstate(all="ignore"):
        for index, node in enumerate(graph.nodes):
            _run(node, values)
            for value in last.get(index, ()):
                values.pop(value, None)
    return [np.asarray(_array(v, values)) for v in graph.outputs]


def _bind(graph: Graph, feeds: Mapping[str, Any]) -> dict[Value, Any]:
    wanted = {**graph.inputs, **graph.states}
    missing, strange = set(wanted) - set(feeds), set(feeds) - set(wanted)
    if missing or strange:
        raise ArgumentError(
            f"the graph takes {', '.join(wanted) or 'no inputs'}; "
            f"missing: {', '.join(sorted(missing)) or 'none'}, "
            f"unknown: {', '.join(sorted(strange)) or 'none'}"
        )
    sizes: dict[str, int] = {}
    return {value: _checked(value, feeds[name], sizes) for name, value in wanted.items()}


def _checked(value: Value, given: Any, sizes: dict[str, int]) -> Any:  # noqa: ANN401
    array = given if isinstance(given, np.ndarray) else np.asarray(given)
    if dtype_name(array.dtype) != value.dtype:
        raise ArgumentError(f"{value.name} is {dtype_name(array.dtype)}, want {value.dtype}")
    shape = value.type.shape
    if shape is None:
        return array
    fits = len(shape) == array.ndim
    for want, have in zip(shape, array.shape, strict=False):
        if isinstance(want, Dim) and len(want.terms) == 1 and want.terms[0][1] == 1:
            symbol = want.terms[0][0]
            fits = fits and sizes.setdefault(symbol, have - want.offset) == have - want.offset
        elif isinstance(want, int):
            fits = fits and want == have
    if not fits:
        raise ArgumentError(f"{value.name} has shape {array.shape}, want {shape} with {sizes}")
    return array


def _last_uses(graph: Graph) -> dict[int, list[Value]]:
    """Index of a node -> values that nothing reads after it."""
    last: dict[Value, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in node.outputs:
            last[value] = index
        for _, value in node.arguments():
            last[value] = index
    kept = {*graph.outputs, *graph.states.values()}
    dying: dict[int, list[Value]] = {}
    for value, index in last.items():
        if value not in kept:
            dying.setdefault(index, []).append(value)
    return dying


def _array(value: Value, values: Mapping[Value, Any], *, encoded: bool = False) -> Any:  # noqa: ANN401
    """What a value holds: an array, or a quantized constant as it is if `encoded`."""
    if value in values:
        return values[value]
    constant = value.constant
    if not isinstance(constant, Tensor):
        raise GraphError(f"{value.name} is read before anything gives it")
    if constant.is_quantized:
        return constant if encoded else constant.float32()
    return constant.array()


def _run(node: Node, values: dict[Value, Any]) -> None:
    inputs: dict[str, Any] = {}
    for param in node.op.params:
        given = node.inputs.get(param.name)
        encoded = param.dtype.any_format
        if isinstance(given, tuple):
            inputs[param.name] = [_array(v, values, encoded=encoded) for v in given]
        else:
            inputs[param.name] = None if given is None else _array(given, values, encoded=encoded)
    try:
        result = node.op(**inputs, **node.attrs)
        results = result if isinstance(result, tuple | list) else (result,)
        if node.outputs:
            values.update(zip(node.outputs, results, strict=True))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        where = node.scope or ", ".join(v.name for v in node.outputs)
        raise GraphError(f"{node.op.name} ({where}): {error}") from error
