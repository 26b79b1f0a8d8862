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


PIECE = 128
"""Keys that have a softmax of their own, whose results are merged."""
FEW = 4
"""Tokens of a step up to which a context is split among work-groups."""
FULL = 4
"""Work-groups for each compute unit of a device from which on it is busy without a split."""
MOST_ROWS = 16
"""Queries of a tile at most: those of a key head's query heads, for some tokens."""
LEAST_ROWS = 4
PARTS = 16
"""Parts of a piece's keys, each of which one work-item weighs for a query."""
STAGED = 32
"""Keys that a work-item that works alone copies at a time."""
ALONE_SIZE = 256
"""Head size up to which such work-items share one program."""
SMALL_SIZE = 64
"""The least head size that programs of work-groups are made for; the next are twice as large."""
MOST_ITEMS = 256
"""Work-items of a group at most, each with an element of the values or some."""
QUERY_FLOATS = 2048
"""Floats of queries that a work-group keeps in local memory, where heads are large."""


def _pieces(context: int) -> int:
    return -(-context // PIECE)


def _scratch(dims: Dims, attrs: Attributes) -> int:
    """What the pieces of a few tokens give, where there are several."""
    pieces = _pieces(dims.max_blocks * dims.block_size)
    return 4 * FEW * dims.heads * pieces * (dims.v_head_dim + 2) if pieces > 1 else 0


@kernels.binds(
    ops.paged_attention, dtypes=ACTIVATIONS, cache_dtypes=CACHES, scratch=_scratch,
    batch_invariant=True,
)  # fmt: skip
def paged_attention(site: Site) -> Launch:
    """A work-group for each tile of queries and key head; for few tokens, of each piece too.

    Pieces are merged in the same order whether they are computed side by side or not, and a query
    gets the same bits in any tile.
    """
    device = device_of(site)
    site = replace(site, operands={**site.operands, "scratch": site.scratch})
    group = constant(site, "q", 1) // constant(site, "k_cache", 2)
    few, many = _rows(device, group, _size(site))
    whole = _by_tokens(site, few, many)
    if site.scratch is None or _busy(device, site, group, few):
        return whole
    return by_size(
        shape_of(site, "q")[0], FEW, chain(_attention(site, few, apart=True), _merge(site)), whole
    )


def _alone(device: OpenClDevice) -> bool:
    return device.profile.row_items == 1


def _busy(device: OpenClDevice, site: Site, group: int, rows: int) -> bool:
    """Whether one token's tiles give every compute unit something to do."""
    tiles = constant(site, "k_cache", 2) * -(-group // rows)
    return tiles >= device.facts.compute_units * (1 if _alone(device) else FULL)


def _by_tokens(site: Site, few: int, many: int) -> Launch:
    """Small tiles where sequences have two new tokens or fewer, on average; else large ones."""
    large = _attention(site, many)
    if few == many:
        return large
    tokens, seqs = shape_of(site, "q")[0], shape_of(site, "block_tables")[0]
    return by_size(tokens + seqs * -2, 0, _attention(site, few), large)


def _rows(device: OpenClDevice, group: int, size: int) -> tuple[int, int]:
    """Queries of a tile where sequences have one new token, and where they have many."""
    if _alone(device):
        return MOST_ROWS, MOST_ROWS
    many = _most_rows(size)
    return min(many, _doubled(LEAST_ROWS, group)), many


def _most_rows(size: int) -> int:
    return max(LEAST_ROWS, min(MOST_ROWS, QUERY_FLOATS // size))


def local_bytes(size: int) -> int:
    """Local memory of a work-group, for heads of this size."""
    size = _doubled(SMALL_SIZE, size)
    return 4 * _most_rows(size) * (size + PIECE + 2 * PARTS + 4)


def _doubled(least: int, wanted: int) -> int:
    while least < wanted:
        least *= 2
    return least


def _size(site: Site) -> int:
    """The size of heads that the program has room for: keys' and values'."""
    wanted = max(constant(site, "q", 2), constant(site, "v_cache", 3))
    return _doubled(ALONE_SIZE if _alone(device_of(site)) else SMALL_SIZE, wanted)


def _context(site: Site) -> int:
    """Tokens of the longest context."""
    return constant(site, "block_tables", 1) * constant(site, "k_cache", 1)


def _attention(site: Site, rows: int, *, apart: bool = False) -> ClLaunch:
    """One kernel over tiles of so many queries; `apart`, over pieces of the context too."""
    source, program, items = _program(site, rows)
    scale, cap = site.attrs.scale, site.attrs.soft_cap
    tokens, heads, size = shape_of(site, "q")
    seqs, max_blocks = shape_of(site, "block_tables")
    kv_heads, pieces = constant(site, "k_cache", 2), _pieces(_context(site))
    tiles = Tiles(tokens * (heads // kv_heads) + seqs * rows, rows)
    return launch(
        site,
        source,
        "paged_attention",
        [
            "out", Units("scratch", 4) if apart else None, "q", "k_cache", "v_cache",
            "block_tables", "seq_lens", "query_starts", "sinks", seqs, max_blocks, heads, kv_heads,
            constant(site, "k_cache", 1), size, constant(site, "v_cache", 3),
            site.attrs.window or 0, float(size**-0.5 if scale is None else scale),
            float(cap or 0.0), int(site.operands["sinks"] is not None), pieces, int(apart),
        ],
        [Tiles(kv_heads), tiles, Tiles(pieces if apart else 1)],
        [items, 1, 1],
        program=program,
    )  # fmt: skip


def _program(site: Site, rows: int) -> tuple[str, Any, int]:
    """The source, the program, and the work-items of a group."""
    device = device_of(site)
    defines: dict[str, str | int] = {
        "ACT": kind_of(site, "q"), "CACHE": kind_of(site, "k_cache"), "ROWS": rows,
        "PIECE": PIECE, "DIM": _size(site), "FUSED": int(device.facts.is_cpu),
    }  # fmt: skip
    if _alone(device):
        source = "paged_alone.cl"
        return source, device.programs.build(source, {**defines, "KEYS": STAGED}), 1
    source, items = "paged_group.cl", min(_size(site), MOST_ITEMS)
    defines["PARTS"] = PARTS
    return source, *device.programs.fitted(source, "paged_attention", defines, items)


def _merge(site: Site) -> ClLaunch:
    device = device_of(site)
    tokens, heads, _ = shape_of(site, "q")
    program, items = device.programs.fitted(
        "merge.cl",
        "merge_pieces",
        {"ACT": kind_of(site, "q"), "PIECE": PIECE},
        device.profile.row_items,
    )
    return launch(
        site,
        "merge.cl",
        "merge_pieces",
        [
            "out", Units("scratch", 4), "seq_lens", "query_starts", "sinks",
            shape_of(site, "block_tables")[0], heads, constant(site, "v_cache", 3),
            site.attrs.window or 0, int(site.operands["sinks"] is not None),
            _pieces(_context(site)),
        ],
        [Tiles(heads), Tiles(tokens)],
        [items, 1],
        program=program,
    )  # fmt: skip
