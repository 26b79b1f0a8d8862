"""Composite operators as one launch, in steps of one token.

Where a profile packs weights the kernels are those of cl/fused_lanes.cl, else those of cl/fused.cl.
"""

from __future__ import annotations

from collections.abc import Sequence

from perfxlm_core.plugin import FORMATS, Site
from perfxlm_opencl.kernels.parameters import TABLES, fitted
from perfxlm_opencl.kernels.tiles import Defines, Reads, dot_of, formats
from perfxlm_opencl.kernels.weights import parts_of
from perfxlm_opencl.launch import (
    KINDS,
    Argument,
    ClLaunch,
    Length,
    Tiles,
    device_of,
    dtype_of,
    launch,
)
from perfxlm_opencl.programs import work_group_limit

BATCH = 4
"""Pairs of rows of a work-item, where it shares none with others."""
FACTORED = ("q4_0", "q4_1", "q4_k", "q8_0")
"""Formats that cl/products.cl multiplies without decoding them first."""


def row_formats(site: Site, *weights: str) -> tuple[Defines, list[int]]:
    """Formats as cl/fused.cl wants them, and which of them each weight has."""
    made, which = formats(site, *weights)
    for name, n in zip((dtype_of(site, w) for w in weights), which, strict=True):
        plain = name not in FORMATS
        made[f"PRODUCT_{n}"] = f"add_{name}" if name in FACTORED else f"decoded_{n}"
        made[f"PLAIN_{n}"] = KINDS[name] if plain else "float"
        made[f"IS_PLAIN_{n}"] = int(plain)
    made["FORMAT"] = made["FORMAT_0"]
    return made, which


def whole(site: Site, *weights: str) -> bool:
    """Whether each weight lies in one buffer, in its file's layout."""
    return all(len(parts_of(site, w, packed=False)) == 1 for w in weights)


def on_rows(
    site: Site,
    kernel: str,
    arguments: Sequence[Argument],
    units: int,
    tokens: Length,
    defines: Defines,
    heads: int = 0,
    together: bool = False,
) -> ClLaunch:
    """A launch of cl/fused.cl.

    Args:
        arguments: where there are heads, the string "parts" stands for the work-groups of each.
        units: pairs of rows; for `heads` heads, those of one.
        together: whether a head has one work-group.
    """
    device = device_of(site)
    alone = device.profile.row_items == 1
    lanes, items = (1, 8) if alone else (16, 4)
    batch = 1
    if alone and not heads:
        batch, items = BATCH, 4 if units < 16 * BATCH * device.facts.compute_units else 8
    while True:
        shape = {"LANES": lanes, "ITEMS": items, "UNITS": batch}
        shape |= {"IS_CPU": int(device.facts.is_cpu), "APART": int("GATED_LINEAR" in defines)}
        program = device.programs.build("fused.cl", {**defines, **shape})
        allowed = work_group_limit(device.device, program, kernel)
        if lanes * items <= min(allowed, device.profile.max_items):
            break
        lanes, items = (lanes // 2, items) if items == 1 else (lanes, items // 2)
    parts = 1 if together else -(-units // items)
    groups = Tiles(heads * parts) if heads else Tiles(units, items * batch)
    return launch(
        site, "fused.cl", kernel, [parts if a == "parts" else a for a in arguments],
        [Tiles(1), groups, Tiles(tokens)], [lanes, items, 1], program=program,
    )  # fmt: skip


def on_tiles(
    site: Site,
    kernel: str,
    weights: Sequence[str],
    reads: Reads,
    arguments: Sequence[Argument],
    units: int,
    tokens: Length,
    defines: Defines,
    heads: int = 0,
    together: bool = False,
) -> ClLaunch:
    """A launch of cl/fused_lanes.cl, with `on_rows`'s arguments.

    Args:
        weights: names.
        reads: how they are read.
        arguments: the strings "weight 0" and so on stand for those of the weights.
    """
    device, lanes = device_of(site), reads.layout.lanes
    first = TABLES[device.profile.name].shapes[0][1]
    split = fitted(first, device.profile, device.facts).split
    made = reads.program(
        site, "fused_lanes.cl", kernel, defines, split, reads.options(dot_of(site, *weights))
    )
    assert made is not None
    program, split, chosen = made
    parts = 1 if together else -(-units // lanes)
    given: list[Argument] = []
    for one in arguments:
        if isinstance(one, str) and one.startswith("weight "):
            given += reads.arguments(int(one.removeprefix("weight ")), chosen)
        else:
            given.append(parts if one == "parts" else one)
    groups = Tiles(heads * parts) if heads else Tiles(units, lanes)
    return launch(
        site, "fused_lanes.cl", kernel, given, [groups, Tiles(1), Tiles(tokens)],
        [lanes, split, 1], program=program,
    )  # fmt: skip


def bucket(length: int) -> int:
    """A length rounded up to one of few, for arrays whose size a program fixes."""
    size = 256
    while size < length:
        size *= 2
    return size
