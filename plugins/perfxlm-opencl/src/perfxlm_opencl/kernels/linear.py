"""Products with weights of any format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from perfxlm_core import ops
from perfxlm_core.plugin import Dim, Launch, Site
from perfxlm_opencl.kernels.collection import ACTIVATIONS, WEIGHTS, kernels
from perfxlm_opencl.kernels.parameters import AHEAD, TABLES, Shape, fitted, spread
from perfxlm_opencl.kernels.tiles import Defines, Reads, dot_of, formats, packed_of
from perfxlm_opencl.kernels.tuned import tuned
from perfxlm_opencl.kernels.weights import (
    Part,
    format_defines,
    layout_of,
    parts_of,
    row_bytes,
)
from perfxlm_opencl.launch import (
    Argument,
    Chain,
    ClLaunch,
    Length,
    Tiles,
    Units,
    chain,
    constant,
    count,
    device_of,
    kinds,
    launch,
    shape_of,
)

BESIDE = 128
"""Rows beside each other, of a work-group that rounds activations of several tokens."""
GENERIC = ((1, Shape(1, 1, 64)), (1 << 30, Shape(1, 8, 64)))
"""What every device runs, for weights that are not packed: one token at a time, or eight."""


@kernels.binds(ops.linear, dtypes=ACTIVATIONS, formats=WEIGHTS)
def linear(site: Site) -> Launch:
    """With a shape for one token, for a few and for many."""
    return linear_as_filed(site) if layout_of(site, "weight") is None else linear_on_tiles(site)


def linear_on_tiles(site: Site) -> ClLaunch | Chain:
    """The same with a weight that this device packs; a residual is added where one is given.

    Products are those of bytes where the node and the device allow that.
    """
    device = device_of(site)
    tokens = count(shape_of(site, "x")[:-1])
    made: list[ClLaunch] = []
    for part in parts_of(site, "weight"):
        make = partial(_on_tiles, site, part, tokens)
        for when, most, shape in _steps(TABLES[device.profile.name].shapes, tokens):
            shape = fitted(shape, device.profile, device.facts)
            found = _rounded(site, part, tokens, shape)
            if found is None:
                found = make(tuned(site, part.rows, most, shape, make))
            made.append(replace(found, when=when))
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
            row_bytes(site, "weight"), part.first, rows, has(site, "bias"),
        ],
        [Tiles(part.rows, shape.rows * items), Tiles(tokens, shape.tokens)],
        [items, 1],
        defines={
            **kinds(site, "x", "bias"), "TOKENS": shape.tokens, "ROWS": shape.rows,
            "AHEAD": ahead, **format_defines(site, "weight"),
        },
    )  # fmt: skip


def _on_tiles(site: Site, part: Part, tokens: Length, shape: Shape) -> ClLaunch:
    """The weight in tiles, products in float."""
    reads = Reads.of(site, ["weight"], [part])
    defines: Defines = {
        **kinds(site, "x", "bias", "residual"), "TOKENS": shape.tokens, "ROWS": shape.rows,
        **format_defines(site, "weight"),
    }  # fmt: skip
    kernel = "linear_lanes"
    made = reads.program(site, "linear_lanes.cl", kernel, defines, shape.split, reads.options())
    assert made is not None
    groups = [Tiles(part.rows, reads.layout.lanes * shape.rows), Tiles(tokens, shape.tokens)]
    return _tiled(site, part, tokens, reads, "linear_lanes.cl", kernel, made, groups)


def _rounded(site: Site, part: Part, tokens: Length, shape: Shape) -> ClLaunch | None:
    """The weight in tiles, products of bytes; None where that is not allowed, or refused."""
    dot = dot_of(site, "weight")
    if not dot:
        return None
    reads = Reads.of(site, ["weight"], [part])
    lanes, one = reads.layout.lanes, shape.tokens == 1
    options = [o for o in reads.options(dot) if o.get("DOT")]
    source, kernel = ("fused_lanes.cl", "linear_staged") if one else ("linear_dot.cl", "linear_dot")
    defines: Defines = {**kinds(site, "x", "bias", "residual")}
    defines |= {"LINEAR": 1, **formats(site, "weight")[0]} if one else {
        "TOKENS": shape.tokens, **format_defines(site, "weight")
    }  # fmt: skip
    split = shape.split if one else max(1, BESIDE // lanes)
    made = reads.program(site, source, kernel, defines, split, options)
    if made is None:
        return None
    per = 2 * lanes if one else made[1] * lanes
    groups = [Tiles(part.rows, per), Tiles(tokens, shape.tokens)]
    return _tiled(site, part, tokens, reads, source, kernel, made, groups)


def _tiled(
    site: Site,
    part: Part,
    tokens: Length,
    reads: Reads,
    source: str,
    kernel: str,
    made: tuple[Any, int, Defines],
    groups: Sequence[Tiles],
) -> ClLaunch:
    """A launch of a kernel with the arguments of `linear_lanes`."""
    program, split, chosen = made
    arguments: list[Argument] = [
        "out", "x", *reads.arguments(0, chosen), "bias", "residual", tokens, part.rows,
        packed_of(part).columns, part.first, constant(site, "weight", 0), has(site, "bias"),
        has(site, "residual"),
    ]  # fmt: skip
    local = [reads.layout.lanes, split]
    return launch(site, source, kernel, arguments, groups, local, program=program)


def has(site: Site, name: str) -> int:
    """Whether an input is given: 1 or 0."""
    return int(site.operands.get(name) is not None)
