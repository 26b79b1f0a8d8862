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


def place(lifetimes: Sequence[Lifetime], in_front: int = 0) -> Placement:
    """Lay out blocks so that none that live together overlap.

    Args:
        lifetimes: the blocks.
        in_front: how many of them, the first, lie in front of all others and side by side, the
            largest last; nothing else uses their memory.
    """
    offsets = [0] * len(lifetimes)
    front = 0
    for i in sorted(range(in_front), key=lambda i: (lifetimes[i].nbytes, i)):
        offsets[i] = front
        front += align(lifetimes[i].nbytes)
    placed: list[int] = []
    total = front
    rest = range(in_front, len(lifetimes))
    for i in sorted(rest, key=lambda i: (-lifetimes[i].nbytes, i)):
        block = lifetimes[i]
        size = align(block.nbytes)
        neighbours = sorted(
            (offsets[j], offsets[j] + align(lifetimes[j].nbytes))
            for j in placed
            if block.overlaps(lifetimes[j])
        )
        at = front
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
