"""Cases of whole plans: the few facts from which a model or a graph and its steps are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

Instruction = tuple[Any, ...]
"""One line of a random graph: a word, then numbers; see `random_graph`."""


@dataclass(frozen=True, repr=False, kw_only=True)
class PlanCase:
    """What models and graphs have in common.

    Attributes:
        steps: for each step, how many new tokens each sequence has: `((5, 0), (1, 3))` is a prompt
            of 5 tokens, then its decoding beside a prompt of 3.
        formats: of two-dimensional weights, taken in turn; where the rows are not whole blocks of
            a format, float16 stands in.
        dtype: of activations; None is the device's first.
        cache_dtype: of the KV cache; None is that of activations.
        rounding: whether activations beside quantized weights may be rounded to 8 bits.
        every_row: whether all tokens are in `logit_rows`, or the last of each sequence.
        block_size: tokens of a KV block.
        share: whether sequences begin with the blocks that the first had filled before.
        seed: of weights, inputs, and the order of blocks.
    """

    steps: tuple[tuple[int, ...], ...] = ((1,),)
    formats: tuple[str, ...] = ("float32",)
    dtype: str | None = None
    cache_dtype: str | None = None
    rounding: bool = False
    every_row: bool = True
    block_size: int = 4
    share: bool = False
    seed: int = 0

    def __repr__(self) -> str:
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.default is MISSING or getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


@dataclass(frozen=True, repr=False, kw_only=True)
class ModelCase(PlanCase):
    """A small model of an installed recipe, with random weights, and steps that it runs.

    Attributes:
        architecture: the recipe's name among entry points.
        config: its configuration, as `config.json` would have it.
    """

    architecture: str
    config: Mapping[str, Any]


@dataclass(frozen=True, repr=False, kw_only=True)
class GraphCase(PlanCase):
    """A graph of operators made by a list of instructions, and steps that it runs.

    Attributes:
        nodes: the instructions; any sublist of them makes a legal graph too.
        outputs: which values the graph gives beside the newest, counted back from it.
        drop: whether nodes that nothing depends on are removed before planning.
    """

    nodes: tuple[Instruction, ...]
    outputs: tuple[int, ...] = ()
    drop: bool = False
