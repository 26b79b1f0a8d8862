"""Let devices round activations beside quantized weights."""

from __future__ import annotations

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph


def allow_rounding(graph: Graph) -> None:
    """Set `exact=False` on every linear layer whose weight is quantized.

    The weights themselves are already coarser than 8-bit activations; asking for a float dtype
    by name (`dtype="float32"`) keeps the exact form instead.
    """
    for node in graph.nodes:
        if node.op is ops.linear:
            weight = node.inputs["weight"].constant
            if weight is not None and weight.is_quantized:
                node.attrs["exact"] = False
