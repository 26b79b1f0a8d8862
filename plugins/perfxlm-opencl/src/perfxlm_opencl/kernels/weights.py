"""Weights on a device: in their file's layout, or packed; whole, or in parts.

A weight that one buffer cannot hold is kept as several, each with some of its rows. Nodes that use
the same weight (an embedding and the logits of a model that ties them) share them.
"""

from __future__ import annotations

from dataclasses import dataclass

from perfxlm_core.plugin import FORMATS, Buffer, Site, Tensor, itemsize
from perfxlm_opencl.kernels.packing import CUTS, Layout, Packed, pieces, row_limit
from perfxlm_opencl.kernels.parameters import TABLES
from perfxlm_opencl.launch import KINDS, constant, device_of, dtype_of

_ROUNDED = 4096
"""Buffers are made in multiples of less than this."""


@dataclass(frozen=True)
class Part:
    """Some rows of a weight.

    Attributes:
        first: the first of them.
        rows: how many.
        memory: where they lie; the name of an operand that the graph computes.
        packed: sizes, where they are packed.
    """

    first: int
    rows: int
    memory: Buffer | str
    packed: Packed | None = None


def layout_of(site: Site, name: str) -> Layout | None:
    """The layout of tiles that this device uses for a weight; None for its file's own."""
    device, format_name = device_of(site), dtype_of(site, name)
    layout = TABLES[device.profile.name].layout
    cut = CUTS.get(format_name)
    fits = cut is not None and not constant(site, name, 1) % cut.weights
    lanes_fit = layout is not None and layout.lanes <= device.profile.max_items
    if not isinstance(site.operands[name], Tensor) or layout is None or not (fits and lanes_fit):
        return None
    return layout.for_format(format_name)


def parts_of(site: Site, name: str, packed: bool = True) -> list[Part]:
    """All rows of a weight, made ready if they are not yet.

    Args:
        packed: in the device's layout, if the weight can be packed.
    """
    given = site.operands[name]
    rows, columns = constant(site, name, 0), constant(site, name, 1)
    if not isinstance(given, Tensor):
        return [Part(0, rows, name)]
    layout = layout_of(site, name) if packed else None
    limit = device_of(site).facts.max_allocation // _ROUNDED * _ROUNDED
    if layout is not None:
        step = row_limit(CUTS[given.format], layout, columns, limit)
    elif given.nbytes <= limit:
        return [Part(0, rows, device_of(site).constant(site, given))]
    else:
        step = max(1, limit // row_bytes(site, name))
    return [
        _part(site, given, layout, first, min(step, rows - first)) for first in range(0, rows, step)
    ]


def _part(site: Site, tensor: Tensor, layout: Layout | None, first: int, rows: int) -> Part:
    device = device_of(site)
    if layout is None:
        return Part(first, rows, device.constant_rows(site, tensor, first, rows))
    packed = Packed(layout, CUTS[tensor.format], rows, tensor.shape[1])
    form = f"tiles of {layout.lanes}, {layout.words}, rows {first} {rows}"
    return Part(
        first, rows, device.kept(tensor, form, lambda: _pack(site, tensor, packed, first)), packed
    )


def _pack(site: Site, tensor: Tensor, packed: Packed, first: int) -> Buffer:
    device = device_of(site)
    buffer: Buffer = site.pack(packed.nbytes)
    size = tensor.nbytes // tensor.shape[0]
    data = tensor.data[first * size : (first + packed.rows) * size]
    for at, piece in pieces(packed, data):
        device.copy_in(device.view(buffer, at, (piece.nbytes,), "uint8"), piece)
    tensor.release()
    return buffer


def row_bytes(site: Site, name: str) -> int:
    """Bytes of one row of a weight, as in its file."""
    dtype, columns = dtype_of(site, name), constant(site, name, 1)
    if dtype in FORMATS:
        return FORMATS[dtype].nbytes((1, columns))
    return columns * itemsize(dtype)


def format_defines(site: Site, name: str) -> dict[str, str]:
    """FORMAT of a weight, as cl/blocks.cl wants it, and PLAIN if it is not quantized."""
    dtype = dtype_of(site, name)
    if dtype in FORMATS:
        return {"FORMAT": dtype}
    return {"FORMAT": KINDS[dtype], "PLAIN": KINDS[dtype]}


def lane_defines(packed: Packed) -> dict[str, int]:
    """Sizes of tiles, as cl/lanes.cl wants them."""
    return {"LANES": packed.layout.lanes, "WORDS": packed.layout.words}
