"""Where every activation lies: one arena, shared by values that never live at the same time.

Greedy by size: the largest value first, each at the lowest offset that is free for as long as it
lives. Source: Pisarchyk and Lee 2020, arXiv:2001.03288.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A block of memory that is needed from one node to another.

    Attributes:
        name: for reports.
        nbytes: size.
        first: index of the node that writes it.
        last: index of the last node that reads it, included.
    """

    name: str
    nbytes: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are needed during some node."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Placement:
    """Offsets of blocks in an arena.

    Attributes:
        offsets: one for each lifetime, in the order given; multiples of 64.
        nbytes: size of the arena.
    """

    offsets: tuple[int, ...]
    nbytes: int


def place(lifetimes: Sequence[Lifetime]) -> Placement:
    """Lay out blocks so that none that live together overlap."""
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    total = 0
    order = sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].nbytes, i))
    for i in order:
        block = lifetimes[i]
        size = align(block.nbytes)
        neighbours = sorted(
            (offsets[j], offsets[j] + align(lifetimes[j].nbytes))
            for j in placed
            if block.overlaps(lifetimes[j])
        )
        at = 0
        for start, end in neighbours:
            if start - at >= size:
                break
            at = max(at, end)
        offsets[i] = at
        placed.append(i)
        total = max(total, at + size)
    return Placement(tuple(offsets), total)


def align(nbytes: int) -> int:
    """The next multiple of 64."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
