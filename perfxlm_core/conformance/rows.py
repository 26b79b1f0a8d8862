"""Rows in other company: the same tokens or sequences alone, in another order, among others.

A kernel that promises batch invariance gives a row the same bits in each of these batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfxlm_core.ops.spec import Op

LEADING = ("tokens", "seqs", "rows")
"""Words that count rows; a first leading dimension (`*batch`) counts them too."""


@dataclass(frozen=True)
class Batch:
    """Rows of a launch, to be launched again in another batch.

    Attributes:
        label: what is different, for messages.
        arrays: inputs.
        sizes: lengths of the symbols.
        source: for each row of the new results, its row in the old ones.
    """

    label: str
    arrays: dict[str, Any]
    sizes: dict[str, int]
    source: np.ndarray


def leading_word(op: Op[..., Any]) -> str | None:
    """The word that counts the rows of all results; None if there is none."""
    words = {o.dims[0] if o.dims else "" for o in op.outputs}
    word = next(iter(words)) if len(words) == 1 else ""
    return word if word.startswith("*") or word in LEADING else None


def row_batches(
    op: Op[..., Any],
    arrays: Mapping[str, Any],
    largest: Mapping[str, int],
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Batches for an operator whose definition names the rows.

    Args:
        op: the operator.
        arrays: inputs of a launch.
        largest: lengths that the symbols may have; empty where none is a symbol.
        rng: picks rows.
    """
    word = leading_word(op)
    if word is not None:
        names = [p.name for p in op.params if p.dims[:1] == (word,)]
        symbol = "tokens" if word.startswith("*") else word
        yield from picked_batches(names, symbol, arrays, largest, rng)


def picked_batches(
    names: Collection[str],
    symbol: str,
    arrays: Mapping[str, Any],
    largest: Mapping[str, int],
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Batches in which the rows of the inputs `names` are picked anew; see `row_batches`."""
    present = [n for n in names if isinstance(arrays[n], np.ndarray)]
    if not present or not len(arrays[present[0]]):
        return
    count = len(arrays[present[0]])
    kept = {n: v.shape[0] for n, v in arrays.items() if n in present}
    assert len(set(kept.values())) == 1, kept
    for label, pick in _picks(count, largest.get(symbol), rng):
        chosen = {n: np.ascontiguousarray(arrays[n][pick]) for n in present}
        sizes = {symbol: len(pick)} if largest else {}
        yield Batch(label, {**arrays, **chosen}, sizes, pick)


def _picks(
    count: int, most: int | None, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Which rows a batch is made of; as many as there were, where the number is fixed."""
    if most is None:
        yield "in reverse order", np.arange(count)[::-1]
        yield "among other rows", rng.integers(0, count, count)
        return
    for row in {0, count - 1, int(rng.integers(0, count))}:
        yield "alone", np.array([row])
    yield "in reverse order", np.arange(count)[::-1]
    for length in (most, int(rng.integers(1, most + 1))):
        yield f"in a batch of {length}", rng.integers(0, count, length)


def sequence_batches(
    arrays: Mapping[str, Any], largest: Mapping[str, int], rng: np.random.Generator
) -> Iterator[Batch]:
    """Batches for paged attention: sequences in other company, and parts of their chunks.

    A query row sees the keys up to its own position, so that it may also be launched without the
    rows behind it (its sequence is then shorter) and without those before it.
    """
    lens, starts = arrays["seq_lens"], arrays["query_starts"]
    parts = [
        (s, int(starts[s]), int(starts[s + 1]), int(lens[s]))
        for s in range(len(lens))
        if starts[s + 1] > starts[s]
    ]
    if not parts:
        return
    if largest:
        yield _sequences("alone", [parts[int(rng.integers(0, len(parts)))]], arrays)
        cut = [_cut(p, rng) for p in parts]
        yield _sequences("in a part of its chunk", cut, arrays)
        yield _sequences("without the rest of its chunk", [_single(p, rng) for p in parts], arrays)
        yield _sequences("in another batch", _fill(parts, largest, rng), arrays)
    order = rng.permutation(len(parts))
    if largest or len(parts) == len(lens):
        made = _sequences("in another order", [parts[int(i)] for i in order], arrays)
        yield made if largest else Batch(made.label, made.arrays, {}, made.source)


Part = tuple[int, int, int, int]
"""A sequence, its first query row and the one behind its last, and its length."""


def _cut(part: Part, rng: np.random.Generator) -> Part:
    """Some neighbouring query rows of a sequence, as if the others came before or later."""
    s, first, last, length = part
    begin = int(rng.integers(first, last))
    end = int(rng.integers(begin + 1, last + 1))
    return s, begin, end, length - (last - end)


def _single(part: Part, rng: np.random.Generator) -> Part:
    """One query row of a sequence, as when it is decoded."""
    s, first, last, length = part
    row = int(rng.integers(first, last))
    return s, row, row + 1, length - (last - 1 - row)


def _fill(parts: list[Part], largest: Mapping[str, int], rng: np.random.Generator) -> list[Part]:
    """Sequences at random, some more than once, up to what there is room for."""
    chosen: list[Part] = []
    rows = 0
    while len(chosen) < largest["seqs"]:
        part = parts[int(rng.integers(0, len(parts)))]
        rows += part[2] - part[1]
        if rows > largest["tokens"]:
            break
        chosen.append(part)
    return chosen or parts[:1]


def _sequences(label: str, parts: list[Part], arrays: Mapping[str, Any]) -> Batch:
    source = np.concatenate([np.arange(first, last) for _, first, last, _ in parts])
    owners = [s for s, _, _, _ in parts]
    made = {
        **arrays,
        "q": np.ascontiguousarray(arrays["q"][source]),
        "block_tables": np.ascontiguousarray(arrays["block_tables"][owners]),
        "seq_lens": np.array([length for _, _, _, length in parts], np.int32),
        "query_starts": np.cumsum([0, *(last - first for _, first, last, _ in parts)], dtype="i4"),
    }
    return Batch(label, made, {"tokens": len(source), "seqs": len(parts)}, source)
