"""A graph from a list of instructions, each on values that earlier ones gave.

An instruction is a tuple: a word, then numbers. Operands are counted back from the newest among
the values that fit, wrapping around, so that any sublist of instructions makes a legal graph too.
What no value fits gives nothing.

    ("input", w)                 activations [tokens, w] from outside
    ("embed", w, t)              rows of table t, [tokens, w]
    ("head", a, t)               linear with table t
    ("add" | "mul" | "silu_and_mul" | "gelu_and_mul", a, b)
    ("silu" | "gelu" | "soft_cap", a)
    ("scale", a, k)              with factor and offset k
    ("rms_norm" | "layer_norm", a, i)      with weight i
    ("linear", a, w, i)          to w features with weight i; odd ones have a bias
    ("reshape", a, k)            to form k
    ("concat", a, b)             rows one after the other, if they are not too long
    ("rows", a)                  rows `logit_rows` of [tokens, w]
    ("attention", a, b, c, k)    queries, keys, values; k: 1 rotates, 2 has a window, 3 both
    ("call", op, a, b, c, ...)   a composite, by "module:name"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.conformance.plans.case import GraphCase, Instruction
from perfxlm_core.conformance.plans.weights import random_weight
from perfxlm_core.errors import GraphError, OperatorError
from perfxlm_core.graph.ir import Graph, Value
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Op, Param
from perfxlm_core.ops.tensor_shape import concat
from perfxlm_core.ops.types import Dim

VOCAB = 19
"""Rows of every table."""
HEAD_DIM = 8
"""Elements of an attention head."""
WIDEST = 4096
"""Elements of rows put together, at most."""
WINDOW = 3
"""Tokens that windowed attention sees."""
MAX_LAYERS = 2
"""Attentions of a graph; what is more is left out."""
_SCALES = ((0.5, 0.0), (-1.25, 0.25), (1.0, -0.5))
_PAIRS: Mapping[str, Op[..., Any]] = MappingProxyType({
    "add": ops.add, "mul": ops.mul, "silu_and_mul": ops.silu_and_mul,
    "gelu_and_mul": ops.gelu_and_mul,
})  # fmt: skip
_NORMS: Mapping[str, Op[..., Any]] = MappingProxyType(
    {"rms_norm": ops.rms_norm, "layer_norm": ops.layer_norm}
)
_UNARY: Mapping[str, Callable[[Any], Any]] = MappingProxyType({
    "silu": ops.silu,
    "gelu": lambda x: ops.gelu(x, approximate="tanh"),
    "soft_cap": lambda x: ops.soft_cap(x, cap=5.0),
})  # fmt: skip


def build_random(case: GraphCase, dtype: str) -> Graph:
    """The graph of a case, with activations of a dtype; attention is not yet over pages."""
    builder = _Builder(case, dtype)
    for instruction in case.nodes:
        builder.add(instruction)
    pool = builder.pool
    graph = builder.graph
    picked = [pool[-1], *(pool[-1 - i % len(pool)] for i in case.outputs)]
    graph.outputs = list(dict.fromkeys(picked))
    if case.drop:
        graph.drop_unused()
    return graph


class _Builder:
    """A graph growing; `pool` holds the activations that instructions may use."""

    def __init__(self, case: GraphCase, dtype: str) -> None:
        self.case = case
        self.graph = Graph(self._tensor, dtype=dtype)
        self.tokens = Dim.symbol("tokens")
        self.layers = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.pool: list[Value] = []

    def add(self, instruction: Instruction) -> None:
        """Carry out one instruction."""
        word, *rest = instruction
        if word not in ("input", "embed") and not self.pool:
            self.pool.append(self._input(32))
        made = self._make(word, rest)
        if made is not None:
            self.pool.append(made)

    def _make(self, word: str, n: list[Any]) -> Value | None:
        if word in _PAIRS:
            a = self._pick(n[0])
            b = self._pick(n[1], lambda v: v.shape == a.shape)
            return _value(_PAIRS[word](a, b))
        if word in _UNARY:
            return _value(_UNARY[word](self._pick(n[0])))
        if word in _NORMS:
            return self._norm(word, self._pick(n[0]), n[1])
        made: Value | None = getattr(self, f"_{word}")(*n)
        return made

    def _tensor(self, name: str) -> Tensor:
        return random_weight(self.case, name, self._shapes[name])

    def _weight(self, name: str, *shape: int) -> Value:
        self._shapes[name] = shape
        return self.graph.weight(name, *shape)

    def _pick(self, index: int, fits: Callable[[Value], bool] = lambda v: True) -> Value:
        found = [v for v in self.pool if fits(v)]
        return found[-1 - index % len(found)]

    def _input(self, width: int) -> Value:
        return self.graph.input(f"x.{width}", (self.tokens, width), self.graph.dtype)

    def _table(self, width: int, index: int) -> Value:
        return self._weight(f"table.{width}.{index}", VOCAB, width)

    def _embed(self, width: int, index: int) -> Value:
        table = self._table(width, index)
        return _value(ops.embedding(self.graph.token_ids, table, dtype=self.graph.dtype))

    def _head(self, a: int, index: int) -> Value:
        x = self._pick(a)
        return _value(ops.linear(x, self._table(x.shape[-1], index)))

    def _scale(self, a: int, form: int) -> Value:
        factor, offset = _SCALES[form % len(_SCALES)]
        return _value(ops.scale(self._pick(a), factor=factor, offset=offset))

    def _norm(self, word: str, x: Value, index: int) -> Value:
        return _value(_NORMS[word](x, self._weight(f"norm.{x.shape[-1]}.{index}", x.shape[-1])))

    def _linear(self, a: int, width: int, index: int) -> Value:
        x = self._pick(a)
        weight = self._weight(f"w.{index}.{width}.{x.shape[-1]}", width, x.shape[-1])
        bias = self._weight(f"bias.{width}.{index}", width) if index % 2 else None
        return _value(ops.linear(x, weight, bias))

    def _reshape(self, a: int, form: int) -> Value | None:
        x = self._pick(a)
        last = x.shape[-1]
        forms = [(-1, last // 2), (-1, 2, last // 2), (-1, last * 2)]
        if len(x.shape) == 3:
            forms.insert(0, (-1, x.shape[1] * last))
        try:
            return x.reshape(*forms[form % len(forms)])
        except (GraphError, OperatorError, ValueError):
            return None

    def _concat(self, a: int, b: int) -> Value | None:
        x = self._pick(a)
        y = self._pick(b, lambda v: v.shape[:-1] == x.shape[:-1])
        if x.shape[-1] + y.shape[-1] > WIDEST:
            return None
        return _value(concat([x, y], axis=-1))

    def _rows(self, a: int) -> Value | None:
        found = [v for v in self.pool if self._is_flat(v)]
        if not found:
            return None
        rows = self.graph.input("logit_rows", (Dim.symbol("rows"),), "int32")
        return _value(ops.take_rows(found[-1 - a % len(found)], rows))

    def _is_flat(self, v: Value) -> bool:
        return len(v.shape) == 2 and v.shape[0] == self.tokens

    def _attention(self, a: int, b: int, c: int, form: int) -> Value | None:
        def heads(v: Value, of: Value | None = None) -> bool:
            whole = self._is_flat(v) and v.shape[1] % HEAD_DIM == 0
            return whole and (of is None or of.shape[1] % v.shape[1] == 0)

        if self.layers == MAX_LAYERS or not any(heads(v) for v in self.pool):
            return None
        self.layers += 1
        q = self._pick(a, heads)
        k = self._pick(b, lambda v: heads(v, q))
        v = self._pick(c, lambda v: v.shape == k.shape)
        found = ops.attention(
            self._keyed(q, "q", form), self._keyed(k, "k", form), _split(v),
            layer=self.layers - 1, window=WINDOW if form & 2 else None,
        )  # fmt: skip
        return _value(found).reshape(-1, q.shape[1])

    def _keyed(self, x: Value, name: str, form: int) -> Value:
        """Heads, normalized so that scores stay small, and rotated."""
        made = ops.rms_norm(_split(x), self._weight(f"norm.{name}", HEAD_DIM))
        if form & 1:
            inverse = np.array([1.0, 0.3, 0.1, 0.01], np.float32)
            table = self.graph.constant("inverse_frequencies", inverse)
            made = ops.rotary_embedding(made, *ops.rotary_table(self.graph.positions, table))
        return _value(made)

    def _call(self, name: str, *operands: int) -> Value:
        op = find_composite(name)
        first = self._pick(operands[0])
        given: list[Value] = []
        for i, param in enumerate(op.params):
            if param.dims[0].startswith("*"):
                index = operands[i % len(operands)]
                given.append(self._pick(index, lambda v: v.shape == first.shape))
            else:
                width = first.shape[-1]
                given.append(self._weight(f"{op.name}.{param.name}.{width}", width))
        made = op(*given)
        return made[0] if isinstance(made, tuple) else _value(made)


def find_composite(name: str) -> Op[..., Any]:
    """The operator called "module:name"."""
    module, _, attribute = name.partition(":")
    found: Op[..., Any] = getattr(import_module(module), attribute)
    return found


def callable_composite(op: Op[..., Any]) -> bool:
    """Whether ("call", ...) can make a node of an operator: rows of activations, and vectors."""
    needed = [n for n, default in op.attributes.items() if default is op.signature.empty]
    return op.composite and not needed and bool(op.params) and all(map(_supported, op.params))


def _supported(param: Param) -> bool:
    rows = param.dims[0].startswith("*") and len(param.dims) <= 2
    return param.dtype.name == "T" and not param.variadic and (rows or len(param.dims) == 1)


def _split(x: Value) -> Value:
    return x.reshape(-1, x.shape[1] // HEAD_DIM, HEAD_DIM)


def _value(made: Any) -> Value:  # noqa: ANN401
    """What an operator gives in a graph."""
    assert isinstance(made, Value)
    return made
