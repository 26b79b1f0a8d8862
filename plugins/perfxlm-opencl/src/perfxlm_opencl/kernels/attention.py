"""Attention over the paged cache, and the writing of the cache."""

from dataclasses import replace
from typing import Any

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dims, Launch, Site
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.kernels.collection import ACTIVATIONS, CACHES, kernels
from perfxlm_opencl.launch import (
    ClLaunch,
    Tiles,
    Units,
    by_size,
    chain,
    constant,
    device_of,
    kind_of,
    launch,
    shape_of,
)
from perfxlm_opencl.programs import Defines, work_group_limit


@kernels.binds(ops.store_kv, dtypes=ACTIVATIONS, cache_dtypes=CACHES)
def store_kv(site: Site) -> Launch:
    """A row of keys and one of values for each token, rounded to the cache's dtype."""
    tokens, heads = shape_of(site, "k")[0], constant(site, "k", 1)
    k_width, v_width = heads * constant(site, "k", 2), heads * constant(site, "v", 2)
    items = device_of(site).profile.items
    return launch(
        site,
        "attention.cl",
        "store_kv",
        ["k", "v", "k_cache", "v_cache", "slot_mapping", tokens, k_width, v_width],
        [Tiles(max(k_width, v_width), items), Tiles(tokens)],
        [items, 1],
        defines={"ACT": kind_of(site, "k"), "CACHE": kind_of(site, "k_cache")},
    )


SPLIT = 256
"""Keys that one work-group of a split attention looks at; twice as many and so on where contexts
have more than `MOST_PIECES` times that."""
MOST_PIECES = 32
FEW = 4
"""Tokens of a step up to which a context is split among work-groups."""
MOST_HEADS = 4
"""Query heads of a work-group at most."""
FULL = 4
"""Work-groups for each compute unit of a device from which on it is busy without a split."""


def _split(context: int) -> tuple[int, int]:
    """Keys of a piece, and the number of pieces of the longest context."""
    size = SPLIT
    while -(-context // size) > MOST_PIECES:
        size *= 2
    return size, -(-context // size)


def _scratch(dims: Dims, attrs: Attributes) -> int:
    """What the pieces of a few tokens give, where there are several."""
    pieces = _split(dims.max_blocks * dims.block_size)[1]
    return 4 * FEW * dims.heads * pieces * (dims.v_head_dim + 2) if pieces > 1 else 0


@kernels.binds(
    ops.paged_attention, dtypes=ACTIVATIONS, cache_dtypes=CACHES, scratch=_scratch,
    batch_invariant=True,
)  # fmt: skip
def paged_attention(site: Site) -> Launch:
    """A work-group for each token and heads that share a key head; for few tokens, of each piece.

    Pieces are merged in the same order whether they are computed side by side or not.
    """
    device = device_of(site)
    site = replace(site, operands={**site.operands, "scratch": site.scratch})
    whole = _attention(site, splits=False)
    heads, kv_heads = constant(site, "q", 1), constant(site, "k_cache", 2)
    enough = device.facts.compute_units * (1 if device.profile.row_items == 1 else FULL)
    if site.scratch is None or heads // _shared(heads, kv_heads) >= enough:
        return whole
    return by_size(
        shape_of(site, "q")[0], FEW, chain(_attention(site, splits=True), _merge(site)), whole
    )


def _shared(heads: int, kv_heads: int) -> int:
    """Query heads of a work-group: as many as divide those of a key head."""
    group = heads // kv_heads
    return max(n for n in range(1, MOST_HEADS + 1) if group % n == 0)


def _defines(site: Site) -> dict[str, str | int]:
    heads, size = constant(site, "q", 1), constant(site, "q", 2)
    v_size = constant(site, "v_cache", 3)
    profile = device_of(site).profile
    wide = profile.row_items == 1
    return {
        "ACT": kind_of(site, "q"),
        "CACHE": kind_of(site, "k_cache"),
        "HEADS": _shared(heads, constant(site, "k_cache", 2)),
        "HEAD_DIM": size,
        "V_HEAD_DIM": v_size,
        "KEYS": profile.keys,
        "SPLIT": _split(_context(site))[0],
        "K_VECTOR": _vector(size, 16 if wide else 4),
        "V_VECTOR": _vector(v_size, 16 if wide else 4 if v_size >= 4 * profile.row_items else 1),
    }


def _vector(length: int, most: int) -> int:
    return next(n for n in (16, 4, 1) if n <= most and length % n == 0)


def _context(site: Site) -> int:
    """Tokens of the longest context."""
    return constant(site, "block_tables", 1) * constant(site, "k_cache", 1)


def _attention(site: Site, *, splits: bool) -> ClLaunch:
    defines = {**_defines(site), "SPLITS": int(splits)}
    program, items = _program(device_of(site), defines)
    scale, cap = site.attrs.scale, site.attrs.soft_cap
    tokens, heads, size = shape_of(site, "q")
    seqs, max_blocks = shape_of(site, "block_tables")
    pieces = _split(_context(site))[1]
    groups = Tiles(heads, int(defines["HEADS"]))
    return launch(
        site,
        "paged.cl",
        "paged_attention",
        [
            Units("scratch", 4) if splits else "out", "q", "k_cache", "v_cache", "block_tables",
            "seq_lens", "query_starts", "sinks", seqs, max_blocks, heads,
            constant(site, "k_cache", 2), constant(site, "k_cache", 1), site.attrs.window or 0,
            float(size**-0.5 if scale is None else scale), float(cap or 0.0),
            int(site.operands["sinks"] is not None), pieces,
        ],
        [groups, Tiles(tokens), *([Tiles(pieces)] if splits else [])],
        [items, 1, *([1] if splits else [])],
        program=program,
    )  # fmt: skip


def _program(device: OpenClDevice, defines: Defines) -> tuple[Any, int]:
    """The program and the work-items of a group; with subgroups where kernels can require them.

    Only by Intel's extension: some drivers of others end where they compile reductions.
    """
    profile, items = device.profile, device.profile.row_items
    size = profile.subgroup if device.facts.has("cl_intel_required_subgroup_size") else 0
    if size and profile.name == "intel" and items % size == 0:
        program = device.programs.attempt(
            "paged.cl", {**defines, "SUBGROUPS": size, "LOCAL": items}
        )
        if program and items <= work_group_limit(device.device, program, "paged_attention"):
            return program, items
    plain = {**defines, "SUBGROUPS": 0}
    return device.programs.fitted("paged.cl", "paged_attention", plain, items)


def _merge(site: Site) -> ClLaunch:
    device = device_of(site)
    tokens, heads, _ = shape_of(site, "q")
    defines = {**_defines(site), "SPLITS": 1, "SUBGROUPS": 0}
    program, items = device.programs.fitted(
        "paged.cl", "merge_splits", defines, device.profile.row_items
    )
    return launch(
        site,
        "paged.cl",
        "merge_splits",
        [
            "out", Units("scratch", 4), "seq_lens", "query_starts", "sinks",
            shape_of(site, "block_tables")[0], heads, site.attrs.window or 0,
            int(site.operands["sinks"] is not None), _split(_context(site))[1],
        ],
        [Tiles(heads), Tiles(tokens)],
        [items, 1],
        program=program,
    )  # fmt: skip
