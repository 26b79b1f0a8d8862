"""A token's row of a rounded linear layer has the same bits whatever tokens are beside it."""

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph
from perfxlm_core.graph.plan import decide
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.registry.plugins import load_plugins

COLUMNS, ROWS, MOST = 576, 40, 70


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q8_0"])
def test_same_bits_in_any_batch(name):
    plugins, rng = load_plugins(), np.random.default_rng(0)
    values = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weight = Tensor("w", (ROWS, COLUMNS), name, FORMATS[name].quantize(values).reshape(-1))
    x = rng.standard_normal((MOST, COLUMNS)).astype(np.float32)
    x[::3, 7] *= 40  # outliers in some tokens: their neighbours' blocks are multiplied twice

    def multiply(tokens):
        graph = Graph(lambda _: weight)
        given = graph.input("x", (tokens, COLUMNS), "float32")
        graph.outputs = [ops.linear(given, graph.weight("w", ROWS, COLUMNS), exact=False)]
        plan = decide(graph, plugins.device("cpu"), plugins.registry, {})
        plan.lay_out()
        bound = plan.bind()
        bound.view("x")[...] = x[:tokens]
        bound.program({})
        return np.array(bound.view(graph.outputs[0].name))

    whole = multiply(MOST)
    for tokens in (1, 2, 3, 5, 8, 13):
        np.testing.assert_array_equal(multiply(tokens), whole[:tokens])
