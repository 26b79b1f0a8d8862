"""Inputs of steps: tokens, positions, and where in a paged cache each of them lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxlm_core.conformance.plans.case import PlanCase
from perfxlm_core.conformance.values import generator

Int32s = npt.NDArray[np.int32]
SPARE = 2
"""Blocks that belong to no sequence; unused table entries name one of them."""


@dataclass(frozen=True)
class Batch:
    """One step.

    Attributes:
        sizes: of the symbols: tokens, seqs, rows.
        feeds: input name -> array, under those sizes.
    """

    sizes: dict[str, int]
    feeds: dict[str, Int32s]


@dataclass(frozen=True)
class Pages:
    """The cache that all steps of a case share.

    Attributes:
        block_size: tokens of a block.
        max_blocks: blocks of the longest sequence.
        blocks: in all, spare ones included.
        tables: [sequences, max_blocks], int32; entries behind a sequence's end name a spare block.
        shared: for each sequence, its leading tokens that lie in blocks of the first.
    """

    block_size: int
    max_blocks: int
    blocks: int
    tables: Int32s
    shared: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that fits a table."""
        return self.block_size * self.max_blocks

    def slots(self, sequence: int, start: int, end: int) -> Int32s:
        """Slots of a sequence's tokens `start:end`."""
        at = np.arange(start, end)
        blocks = self.tables[sequence, at // self.block_size]
        return np.asarray(blocks * self.block_size + at % self.block_size, np.int32)


def pages(case: PlanCase) -> Pages:
    """Blocks of every sequence, anywhere in the cache."""
    size, shared = case.block_size, _shared(case)
    totals = [n + sum(step[s] for step in case.steps if s < len(step)) for s, n in shared.items()]
    needs = [-(-n // size) for n in totals]
    own = [need - n // size for need, n in zip(needs, shared.values(), strict=True)]
    blocks = sum(own) + SPARE
    order = generator(case.seed, "blocks", 0).permutation(blocks).tolist()
    spare = order.pop()
    tables = np.full((max(len(totals), 1), max([*needs, 1])), spare, np.int32)
    for s, need in enumerate(needs):
        first = need - own[s]
        tables[s, :first] = tables[0, :first]
        tables[s, first:need] = [order.pop() for _ in range(own[s])]
    return Pages(size, tables.shape[1], blocks, tables, tuple(shared.values()))


def _shared(case: PlanCase) -> dict[int, int]:
    """Sequence -> tokens in blocks that the first had filled before the sequence began."""
    found: dict[int, int] = {}
    for s in range(max(len(step) for step in case.steps)):
        begins = next((i for i, n in enumerate(case.steps) if s < len(n) and n[s]), 0)
        filled = sum(step[0] for step in case.steps[:begins])
        found[s] = filled - filled % case.block_size if case.share and s else 0
    return found


def batches(case: PlanCase, vocab: int) -> list[Batch]:
    """Every step of a case, in order."""
    cache = pages(case)
    done = list(cache.shared)
    made: list[Batch] = []
    for index, step in enumerate(case.steps):
        active = [s for s, n in enumerate(step) if n]
        order = generator(case.seed, "order", index).permutation(len(active))
        spans = [(active[i], done[active[i]], done[active[i]] + step[active[i]]) for i in order]
        made.append(_batch(case, cache, vocab, index, spans))
        for s, _, end in spans:
            done[s] = end
    return made


def _batch(
    case: PlanCase, cache: Pages, vocab: int, index: int, spans: list[tuple[int, int, int]]
) -> Batch:
    counts = [end - start for _, start, end in spans]
    starts = np.array([0, *np.cumsum(counts)], np.int32)
    tokens, rng = int(starts[-1]), generator(case.seed, "tokens", index)
    rows = rng.permutation(tokens) if case.every_row else starts[1:] - 1
    feeds = {
        "token_ids": rng.integers(0, vocab, tokens),
        "positions": _joined([np.arange(a, b) for _, a, b in spans]),
        "slot_mapping": _joined([cache.slots(s, a, b) for s, a, b in spans]),
        "block_tables": cache.tables[[s for s, _, _ in spans]],
        "query_starts": starts,
        "seq_lens": np.array([end for _, _, end in spans]),
        "logit_rows": rows,
    }
    sizes = {"tokens": tokens, "seqs": len(spans), "rows": len(rows)}
    return Batch(sizes, {name: array.astype(np.int32) for name, array in feeds.items()})


def _joined(parts: list[npt.NDArray[np.integer]]) -> npt.NDArray[np.integer]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def largest(steps: list[Batch]) -> dict[str, int]:
    """Largest size of each symbol, at least 1."""
    return {n: max(1, *(b.sizes[n] for b in steps)) for n in ("tokens", "seqs", "rows")}
