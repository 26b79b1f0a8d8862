"""Shapes of the kernels of linear: a small table for each profile, and what a tuner may try.

The table of `cpu` was measured, on Intel's processor runtime. Those of graphics processors follow
from what their makers publish (coalesced reads of 16 bytes a lane, waves of the layout's lanes, a
few thousand work-items in flight), and were not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType

from perfxlm_opencl.kernels.packing import Layout
from perfxlm_opencl.profiles import Facts, Profile

REGISTERS = 64
"""Sums that a work-item keeps, at most, in any table or search."""
GROUPS = 4
"""Work-groups that each unit of a processor has, at least, if there are enough rows."""
AHEAD = 16384
"""Bytes of the rows of a work-item up to which a processor is told to fetch the next ones."""


@dataclass(frozen=True)
class Shape:
    """The shape of a kernel of linear.

    Attributes:
        rows: outputs of a work-item, for each token; with tiles, tiles of a work-item.
        tokens: tokens of a work-item.
        items: work-items of a group, side by side; with tiles, as many as a tile has lanes.
        split: work-items that share the columns of an output.
    """

    rows: int = 1
    tokens: int = 1
    items: int = 16
    split: int = 1


@dataclass(frozen=True)
class Table:
    """What a profile uses.

    Attributes:
        layout: of tiles; None reads weights as they lie in their file.
        shapes: for steps of at most so many tokens; the last one is for any number.
    """

    layout: Layout | None
    shapes: tuple[tuple[int, Shape], ...]


_ANY = 1 << 30


def _tiles(layout: Layout, split: int, tokens: int) -> Table:
    lanes = layout.lanes
    return Table(
        layout,
        (
            (1, Shape(1, 1, lanes, split)),
            (4, Shape(1, 4, lanes, split)),
            (_ANY, Shape(1, tokens, lanes, 1)),
        ),
    )


TABLES = MappingProxyType(
    {
        "cpu": Table(None, ((1, Shape(8, 1, 16)), (4, Shape(4, 4, 4)), (_ANY, Shape(2, 8, 4)))),
        "generic": _tiles(Layout(32, 4), split=4, tokens=8),
        "intel": _tiles(Layout(16, 1), split=8, tokens=8),
        "adreno": _tiles(Layout(64, 4), split=4, tokens=8),
        "mali": _tiles(Layout(16, 4), split=8, tokens=4),
    }
)
"""What each profile uses where nothing was tuned."""


def valid(shape: Shape, profile: Profile, facts: Facts) -> bool:
    """Whether a shape can run: its group, its local memory and its registers are not too large."""
    layout = TABLES[profile.name].layout
    if layout is not None and shape.items != layout.lanes:
        return False
    if layout is None and shape.split != 1:
        return False
    sums = shape.rows * shape.tokens
    scratch = 4 * (shape.split - 1) * sums * shape.items
    return (
        shape.items * shape.split <= min(profile.max_items, facts.max_work_group)
        and scratch <= facts.local_memory
        and sums <= (REGISTERS if layout is not None else REGISTERS // 2)
    )


def candidates(profile: Profile, facts: Facts, columns: int, tokens: int) -> Iterator[Shape]:
    """Shapes that a tuner may try for a weight of so many columns, in steps of so many tokens."""
    layout = TABLES[profile.name].layout
    items = (1, 4, 16, 64) if layout is None else (layout.lanes,)
    splits = (1,) if layout is None else (1, 2, 4, 8, 16)
    at_once = [t for t in (1, 2, 4, 8, 12, 16) if t < 2 * tokens]
    for rows, some, side, split in product((1, 2, 4, 8), at_once, items, splits):
        shape = Shape(rows, some, side, split)
        if split <= max(1, columns // 32) and valid(shape, profile, facts):
            yield shape


def spread(shape: Shape, facts: Facts, rows: int) -> Shape:
    """The shape with smaller groups where a processor would have too few of them."""
    items = shape.items
    while facts.is_cpu and items > 1 and rows < shape.rows * items * GROUPS * facts.compute_units:
        items //= 2
    return replace(shape, items=items)


def fitted(shape: Shape, profile: Profile, facts: Facts) -> Shape:
    """The shape with a split that the device allows; the same for all columns, to save programs."""
    split = shape.split
    while split > 1 and not valid(replace(shape, split=split), profile, facts):
        split //= 2
    return replace(shape, split=split)
