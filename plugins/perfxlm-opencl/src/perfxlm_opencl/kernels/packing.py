"""Weights as cl/lanes.cl reads them: the same bytes in another order.

A block of a row is cut into units of 16 bytes, and what is left of it (half-precision scales).
Rows stand in tiles, one row to a lane; the last tile is filled up with rows of zeros.

    units   [tiles, blocks, units of a block, lanes, 16 bytes]           words together
            [tiles, blocks, units of a block, 4 words, lanes, 4 bytes]   words apart
    extras  [tiles, blocks, lanes, bytes left]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from perfxlm_core.plugin import FORMATS, itemsize

UNIT = 16
PLAIN_BLOCK = 32
"""Weights of a block of plain numbers."""


@dataclass(frozen=True)
class Cut:
    """What of a block becomes units, and what is left of it.

    Attributes:
        weights: of a block.
        size: bytes of a block.
        units: where its units begin and end, in bytes.
        extra: where the rest begins and ends.
    """

    weights: int
    size: int
    units: tuple[int, int]
    extra: tuple[int, int]

    @property
    def unit_count(self) -> int:
        """Units of a block."""
        return (self.units[1] - self.units[0]) // UNIT

    @property
    def extra_size(self) -> int:
        """Bytes of a block beside its units."""
        return self.extra[1] - self.extra[0]


def _plain(dtype: str) -> Cut:
    size = PLAIN_BLOCK * itemsize(dtype)
    return Cut(PLAIN_BLOCK, size, (0, size), (0, 0))


CUTS = MappingProxyType(
    {
        "q4_0": Cut(32, 18, (2, 18), (0, 2)),
        "q4_1": Cut(32, 20, (4, 20), (0, 4)),
        "q8_0": Cut(32, 34, (2, 34), (0, 2)),
        "q4_k": Cut(256, 144, (0, 144), (0, 0)),
        "q6_k": Cut(256, 210, (0, 208), (208, 210)),
        **{dtype: _plain(dtype) for dtype in ("float32", "float16", "bfloat16")},
    }
)
"""Formats that are repacked."""


@dataclass(frozen=True)
class Layout:
    """How tiles are laid out.

    Attributes:
        lanes: rows of a tile.
        words: 4 where a unit's words lie together, 1 where each lies among those of other lanes.
    """

    lanes: int
    words: int

    def for_format(self, name: str) -> Layout:
        """Plain numbers are read as pointers to several: their words lie together."""
        return self if name in FORMATS else Layout(self.lanes, 4)


@dataclass(frozen=True)
class Packed:
    """Sizes of a packed weight.

    Attributes:
        layout: of its tiles.
        cut: of its blocks.
        rows: without those that fill up the last tile.
        columns: weights of a row.
    """

    layout: Layout
    cut: Cut
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """Tiles, the last one filled up."""
        return -(-self.rows // self.layout.lanes)

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return self.columns // self.cut.weights

    @property
    def unit_bytes(self) -> int:
        """Bytes of all units: where the extras begin."""
        return self.tiles * self.layout.lanes * self.blocks * self.cut.unit_count * UNIT

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        extras = self.tiles * self.layout.lanes * self.blocks * self.cut.extra_size
        return self.unit_bytes + extras


def row_limit(cut: Cut, layout: Layout, columns: int, limit: int) -> int:
    """Rows, in whole tiles, that `limit` bytes hold; at least one tile."""
    size = columns // cut.weights * cut.size * layout.lanes
    return max(1, limit // size) * layout.lanes


def pieces(
    packed: Packed, data: np.ndarray, size: int = 1 << 24
) -> Iterator[tuple[int, np.ndarray]]:
    """The packed weight, some tiles at a time.

    Args:
        packed: its sizes.
        data: uint8, the rows as they lie in the file.
        size: about how many bytes of the file are packed at once.

    Yields:
        Where the bytes belong, and the bytes.
    """
    cut, lanes = packed.cut, packed.layout.lanes
    rows = data.reshape(packed.rows, packed.blocks, cut.size)
    tile_bytes = lanes * packed.blocks * cut.size
    step = max(1, size // max(1, tile_bytes))
    unit_bytes = lanes * packed.blocks * cut.unit_count * UNIT
    extra_bytes = lanes * packed.blocks * cut.extra_size
    for tile in range(0, packed.tiles, step):
        some = rows[tile * lanes : (tile + step) * lanes]
        missing = -len(some) % lanes
        if missing:
            some = np.concatenate([some, np.zeros((missing, *some.shape[1:]), np.uint8)])
        yield tile * unit_bytes, _units(some, packed)
        if extra_bytes:
            yield packed.unit_bytes + tile * extra_bytes, _extras(some, packed)


def _units(rows: np.ndarray, packed: Packed) -> np.ndarray:
    cut, layout = packed.cut, packed.layout
    inner = (cut.unit_count, 1, UNIT) if layout.words == 4 else (cut.unit_count, 4, UNIT // 4)
    start, end = cut.units
    split = rows[:, :, start:end].reshape(-1, layout.lanes, packed.blocks, *inner)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1, 5)).reshape(-1)


def _extras(rows: np.ndarray, packed: Packed) -> np.ndarray:
    start, end = packed.cut.extra
    split = rows[:, :, start:end].reshape(-1, packed.layout.lanes, packed.blocks, end - start)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(-1)


def unpack(packed: Packed, data: np.ndarray) -> np.ndarray:
    """The bytes of the file again: uint8, [rows, bytes of a row]."""
    cut, layout = packed.cut, packed.layout
    inner = (cut.unit_count, 1, UNIT) if layout.words == 4 else (cut.unit_count, 4, UNIT // 4)
    count, width, piece = inner
    units = data[: packed.unit_bytes].reshape(
        packed.tiles, packed.blocks, count, width, layout.lanes, piece
    )
    out = np.empty((packed.tiles * layout.lanes, packed.blocks, cut.size), np.uint8)
    out[:, :, slice(*cut.units)] = units.transpose(0, 4, 1, 2, 3, 5).reshape(
        len(out), packed.blocks, -1
    )
    if cut.extra_size:
        extras = data[packed.unit_bytes :].reshape(
            packed.tiles, packed.blocks, layout.lanes, cut.extra_size
        )
        out[:, :, slice(*cut.extra)] = extras.transpose(0, 2, 1, 3).reshape(
            len(out), packed.blocks, -1
        )
    return out.reshape(len(out), -1)[: packed.rows]
