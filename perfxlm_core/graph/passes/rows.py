"""Logits only for the rows that are sampled."""

from __future__ import annotations

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.ops.types import Dim


def select_rows(graph: Graph) -> None:
    """Compute the graph's output only for the tokens listed in the input `logit_rows`, [rows].

    The selection moves up past every operator that treats rows one by one (the final norm, the
    head), so that a prompt of 500 tokens costs one row of the vocabulary, not 500.
    """
    (output,) = graph.outputs
    producers, users = graph.producers(), graph.users()
    chain: list[Node] = []
    value = output
    while (node := producers.get(value)) is not None and _row_by_row(node):
        if chain and len(users.get(value, ())) > 1:
            break
        chain.append(node)
        value = _varying(node)[0]
    rows = graph.input("logit_rows", (Dim.symbol("rows"),), "int32")
    pick = graph.make(ops.take_rows, {"x": value, "rows": rows}, {})
    at = graph.nodes.index(chain[-1]) if chain else len(graph.nodes)
    graph.nodes.insert(at, pick)
    new = pick.outputs[0]
    for node in reversed(chain):
        (old,) = _varying(node)
        node.replace_input(old, new)
        kind = node.op.infer(node.types(), node.attrs)[0]
        node.outputs[0].type = kind
        value, new = node.outputs[0], node.outputs[0]
    graph.outputs = [new]


def _varying(node: Node) -> list[Value]:
    return [v for _, v in node.arguments() if v.constant is None]


def _row_by_row(node: Node) -> bool:
    """Whether row `i` of the only output depends on row `i` of the only varying input."""
    if len(node.outputs) != 1 or len(_varying(node)) != 1:
        return False
    out = node.op.outputs[0].dims
    (param,) = [p for p, v in node.arguments() if v.constant is None]
    per_row = param.dims[:1] == out[:1] == ("*batch",)
    return per_row and (len(out) == 2 or param.dims == out == ("*batch",))
