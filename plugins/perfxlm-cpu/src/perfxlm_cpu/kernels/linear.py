"""Products with weights of any format, and rows of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dims, Launch, Site, Tensor, itemsize
from perfxlm_cpu import _native
from perfxlm_cpu.kernels.collection import ACTIVATIONS, kernels
from perfxlm_cpu.launch import constant, count, launch, shape_of

if TYPE_CHECKING:
    from perfxlm_cpu.device import CpuDevice

FORMATS = tuple(_native.FORMATS)
TILE_ROWS = 16
PACKED_AT_ONCE = 4 * 2**20
"""Bytes of a weight's file that are resident beside what they are packed into."""
PACKED = ("q4_0", "q4_1", "q4_k", "q6_k", "q8_0")


@kernels.binds(ops.linear, dtypes=ACTIVATIONS, formats=FORMATS, batch_invariant=True)
def linear(site: Site) -> Launch:
    """In float32, the weight read where it lies and decoded a stretch at a time."""
    weight, format_name = _weight(site, "weight")
    return launch(
        site,
        "linear",
        ["out", "x", weight, "bias"],
        [count(shape_of(site, "x")[:-1])],
        [
            constant(site, "weight", 0),
            constant(site, "weight", 1),
            _native.FORMATS[format_name],
        ],
    )


def _is_inexact(dims: Dims, attrs: Attributes) -> bool:
    return not attrs.exact


@kernels.binds(
    ops.linear,
    dtypes=ACTIVATIONS,
    formats=PACKED,
    constants=["weight"],
    when=_is_inexact,
    priority=1,
    batch_invariant=True,
)
def linear_int8(site: Site) -> Launch:
    """Activations rounded to 8 bits, the weight repacked into tiles of 16 rows.

    A weight whose scales, multiplied out, are beyond float16 goes to `linear`.
    """
    weight = site.constant("weight")
    rows, columns = weight.shape
    format_id = _native.FORMATS[weight.format]
    kind = _native.tile_kind(format_id)
    packed = site.pack(_native.packed_bytes(kind, rows, columns))
    made = launch(
        site,
        "linear_int8",
        ["out", "x", packed.handle, "bias"],
        [count(shape_of(site, "x")[:-1])],
        [rows, columns, kind],
    )
    if not _pack(made.device, weight, packed.handle):
        return linear(site)
    made.device.pool.reserve(_native.linear_int8_workspace(columns))
    return made


def _pack(device: CpuDevice, weight: Tensor, target: np.ndarray) -> bool:
    """Repack a weight a part at a time, and give back the file's pages behind; whether it fits."""
    rows, columns = weight.shape
    format_id = _native.FORMATS[weight.format]
    kind = _native.tile_kind(format_id)
    row_bytes = weight.nbytes // max(rows, 1)
    step = max(PACKED_AT_ONCE // max(row_bytes, 1) // TILE_ROWS, 1) * TILE_ROWS
    fits = True
    for first in range(0, rows, step):
        source = weight.data.ctypes.data + first * row_bytes
        tiles = target.ctypes.data + _native.packed_bytes(kind, first, columns)
        count = min(step, rows - first)
        fits &= _native.pack(device.pool, device.variant, format_id, source, tiles, count, columns)
        weight.release()
    return fits


@kernels.binds(ops.embedding, dtypes=ACTIVATIONS, formats=FORMATS)
def embedding(site: Site) -> Launch:
    """Only the rows asked for are decoded."""
    table, format_name = _weight(site, "table")
    return launch(
        site,
        "embedding",
        ["out", "token_ids", table],
        [shape_of(site, "token_ids")[0]],
        [constant(site, "table", 1), _native.FORMATS[format_name]],
    )


@kernels.binds(ops.take_rows)
def take_rows(site: Site) -> Launch:
    """Rows of bytes, whatever they hold."""
    bytes_of_row = constant(site, "x", 1) * itemsize(site.operand("x").dtype)
    return launch(
        site, "take_rows", ["out", "x", "rows"], [shape_of(site, "rows")[0]], [bytes_of_row]
    )


def _weight(site: Site, name: str) -> tuple[str | np.ndarray, str]:
    """A constant's bytes where they lie, or the name of a computed operand; and its format."""
    found = site.operands[name]
    if isinstance(found, Tensor):
        return found.data, found.format
    return name, site.operand(name).dtype
