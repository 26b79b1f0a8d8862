"""Rows of tables."""

from math import gcd

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site, itemsize
from perfxlm_opencl.kernels.collection import ACTIVATIONS, WEIGHTS, kernels
from perfxlm_opencl.kernels.packing import UNIT
from perfxlm_opencl.kernels.weights import (
    Part,
    format_defines,
    lane_defines,
    parts_of,
    row_bytes,
)
from perfxlm_opencl.launch import (
    ClLaunch,
    Tiles,
    Units,
    chain,
    constant,
    device_of,
    dtype_of,
    kind_of,
    launch,
    shape_of,
)

_UNITS = {1: "uchar", 2: "ushort", 4: "uint", 8: "uint2", 16: "uint4"}


@kernels.binds(ops.embedding, dtypes=ACTIVATIONS, formats=WEIGHTS)
def embedding(site: Site) -> Launch:
    """Only the rows asked for are decoded."""
    made = [_embedding(site, part) for part in parts_of(site, "table")]
    return made[0] if len(made) == 1 else chain(*made)


def _embedding(site: Site, part: Part) -> ClLaunch:
    """The rows of one part of the table."""
    tokens, columns = shape_of(site, "token_ids")[0], constant(site, "table", 1)
    items = device_of(site).profile.items
    source, kernel = "gather.cl", "embedding"
    memory, after, defines = Units(part.memory), row_bytes(site, "table"), {}
    if part.packed is not None:
        source, kernel = "gather_lanes.cl", "embedding_lanes"
        memory, after = Units(part.memory, UNIT // 4), part.packed.unit_bytes // UNIT
        defines = lane_defines(part.packed)
    return launch(
        site,
        source,
        kernel,
        ["out", "token_ids", memory, after, tokens, part.rows, columns, part.first],
        [Tiles(columns, 32 * items), Tiles(tokens)],
        [items, 1],
        defines={"ACT": kind_of(site, "out"), **format_defines(site, "table"), **defines},
    )


@kernels.binds(ops.take_rows)
def take_rows(site: Site) -> Launch:
    """Rows of bytes, whatever they hold."""
    rows = shape_of(site, "rows")[0]
    size = constant(site, "x", 1) * itemsize(dtype_of(site, "x"))
    unit = gcd(size, 16)
    items = device_of(site).profile.items
    return launch(
        site,
        "gather.cl",
        "take_rows",
        [Units("out", unit), Units("x", unit), "rows", rows, size // unit],
        [Tiles(size // unit, items), Tiles(rows)],
        [items, 1],
        defines={"UNIT": _UNITS[unit]},
    )
