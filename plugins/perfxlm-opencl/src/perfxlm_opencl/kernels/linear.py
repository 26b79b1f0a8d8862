"""Products with weights of any format."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyopencl as cl

from perfxlm_core import ops
from perfxlm_core.plugin import FORMATS, Dim, Launch, Site
from perfxlm_opencl.kernels.collection import ACTIVATIONS, WEIGHTS, kernels
from perfxlm_opencl.kernels.packing import UNIT, Packed
from perfxlm_opencl.kernels.parameters import AHEAD, TABLES, Shape, fitted, spread
from perfxlm_opencl.kernels.tuned import tuned
from perfxlm_opencl.kernels.weights import (
    Part,
    format_defines,
    lane_defines,
    layout_of,
    parts_of,
    row_bytes,
)
from perfxlm_opencl.launch import (
    Argument,
    Chain,
    ClLaunch,
    Length,
    Picture,
    Tiles,
    Units,
    chain,
    constant,
    count,
    device_of,
    dtype_of,
    kind_of,
    launch,
    shape_of,
)
from perfxlm_opencl.programs import work_group_limit

GENERIC = ((1, Shape(1, 1, 64)), (1 << 30, Shape(1, 8, 64)))
"""What every device runs, for weights that are not packed: one token at a time, or eight."""


@kernels.binds(ops.linear, dtypes=ACTIVATIONS, formats=WEIGHTS)
def linear(site: Site) -> Launch:
    """In float, with a shape for one token, for a few and for many."""
    device = device_of(site)
    if layout_of(site, "weight") is None:
        return linear_as_filed(site)
    columns, tokens = constant(site, "weight", 1), count(shape_of(site, "x")[:-1])
    made: list[ClLaunch] = []
    for part in parts_of(site, "weight"):
        make = partial(_on_tiles, site, part, tokens)
        for when, most, shape in _steps(TABLES[device.profile.name].shapes, tokens):
            shape = fitted(shape, device.profile, device.facts, columns)
            best = tuned(site, part.rows, most, shape, make)
            made.append(replace(make(best), when=when))
    return made[0] if len(made) == 1 else chain(*made)


def linear_as_filed(site: Site) -> ClLaunch | Chain:
    """The same, never packing: for nodes whose weight others read as it lies in its file."""
    table, tokens = TABLES[device_of(site).profile.name], count(shape_of(site, "x")[:-1])
    made: list[ClLaunch] = []
    for part in parts_of(site, "weight", packed=False):
        make = partial(_on_rows, site, part, tokens)
        for when, most, shape in _steps(table.shapes if table.layout is None else GENERIC, tokens):
            best = shape if table.layout else tuned(site, part.rows, most, shape, make)
            made.append(replace(make(best), when=when))
    return made[0] if len(made) == 1 else chain(*made)


Condition = Callable[[Mapping[str, int]], bool]


def _steps(
    shapes: tuple[tuple[int, Shape], ...], tokens: Length
) -> list[tuple[Condition | None, int, Shape]]:
    """The shapes that a node needs: the steps and the most tokens that each is for."""
    found: list[tuple[Condition | None, int, Shape]] = []
    least = 1
    for most, shape in shapes:
        if isinstance(tokens, Dim):
            found.append((_between(tokens, least, most), most, shape))
        elif tokens <= most:
            return [(None, most, shape)]
        least = most + 1
    return found


def _between(tokens: Dim, least: int, most: int) -> Condition:
    return lambda sizes: least <= tokens.value(sizes) <= most


def _on_rows(site: Site, part: Part, tokens: Length, shape: Shape) -> ClLaunch:
    """The weight in its file's layout."""
    rows, columns = constant(site, "weight", 0), constant(site, "weight", 1)
    device = device_of(site)
    shape = spread(shape, device.facts, part.rows)
    items = min(shape.items, device.profile.max_items)
    ahead = AHEAD if device.facts.is_cpu and shape.tokens == 1 else 0
    return launch(
        site,
        "linear.cl",
        "linear",
        [
            "out", "x", Units(part.memory), "bias", tokens, part.rows, columns,
            row_bytes(site, "weight"), part.first, rows, _has_bias(site),
        ],
        [Tiles(part.rows, shape.rows * items), Tiles(tokens, shape.tokens)],
        [items, 1],
        defines={
            "ACT": kind_of(site, "x"), "TOKENS": shape.tokens, "ROWS": shape.rows,
            "AHEAD": ahead, **format_defines(site, "weight"),
        },
    )  # fmt: skip


def _on_tiles(site: Site, part: Part, tokens: Length, shape: Shape) -> ClLaunch:
    """The weight in tiles; read as an image, or in blocks by subgroups, where the device can."""
    packed = packed_of(part)
    rows, columns = constant(site, "weight", 0), packed.columns
    picture = picture_of(site, part)
    program, split, special = _program(site, packed, shape, picture is not None)
    read: list[Argument] = [picture] if picture is not None and special else []
    return launch(
        site,
        "linear_lanes.cl",
        "linear_lanes",
        [
            "out", "x", Units(part.memory, UNIT // 4), *read, packed.unit_bytes // UNIT, "bias",
            tokens, part.rows, columns, part.first, rows, _has_bias(site),
        ],
        [Tiles(part.rows, packed.layout.lanes * shape.rows), Tiles(tokens, shape.tokens)],
        [packed.layout.lanes, split],
        program=program,
    )  # fmt: skip


def _program(site: Site, packed: Packed, shape: Shape, picture: bool) -> tuple[Any, int, bool]:
    """The program, its split as its compiled kernel allows, whether it has the special reads."""
    device, lanes = device_of(site), packed.layout.lanes
    defines: dict[str, str | int] = {
        "ACT": kind_of(site, "x"), "TOKENS": shape.tokens, "ROWS": shape.rows,
        **format_defines(site, "weight"), **lane_defines(packed),
    }  # fmt: skip
    extra = special_defines(site, packed, picture)
    split = shape.split
    while True:
        program = None
        if extra:
            program = device.programs.attempt(
                "linear_lanes.cl", {**defines, **extra, "SPLIT": split}
            )
        special = program is not None
        if program is None:
            program = device.programs.build("linear_lanes.cl", {**defines, "SPLIT": split})
        if split == 1 or lanes * split <= work_group_limit(device.device, program, "linear_lanes"):
            return program, split, special
        split //= 2


def special_defines(site: Site, packed: Packed, picture: bool) -> dict[str, str | int]:
    """Defines of the reads that suit the device best, if it has any."""
    if picture:
        return {"IMAGE": 1}
    lanes = packed.layout.lanes
    if packed.layout.words == 1 and device_of(site).profile.subgroup == lanes == 16:
        return {"BLOCK_READS": 1}
    return {}


def picture_of(site: Site, part: Part) -> Picture | None:
    """A packed weight as an image, where the profile reads weights so and the image can hold it."""
    device, packed = device_of(site), packed_of(part)
    if not device.profile.images or packed.layout.words != 4 or isinstance(part.memory, str):
        return None
    if dtype_of(site, "weight") not in FORMATS:
        return None
    region = part.memory.handle
    pixels = region.memory.size // UNIT
    if pixels > device.facts.image_buffer:
        return None
    pixel = cl.ImageFormat(cl.channel_order.RGBA, cl.channel_type.UNSIGNED_INT32)
    with device.errors("making an image of a weight"):
        image = cl.create_image(
            device.context, cl.mem_flags.READ_ONLY, pixel, shape=(pixels,), buffer=region.memory
        )
    return Picture(image, region.offset // UNIT)


def packed_of(part: Part) -> Packed:
    """Sizes of a part that is packed."""
    assert part.packed is not None
    return part.packed


def _has_bias(site: Site) -> int:
    return int(site.operands["bias"] is not None)
