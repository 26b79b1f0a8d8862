"""Attention over the paged cache, and the writing of the cache."""

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, PluginError, Site
from perfxlm_cpu import _native
from perfxlm_cpu.kernels.collection import ACTIVATIONS, kernels
from perfxlm_cpu.launch import constant, launch, shape_of

_CACHE_KINDS = {"float32": 0, "float16": 1, "bfloat16": 2, "int8": 3}
_FLOATS = ("float32", "float16", "bfloat16")


@kernels.binds(ops.store_kv, dtypes=ACTIVATIONS, cache_dtypes=_FLOATS)
def store_kv(site: Site) -> Launch:
    """A row of keys and one of values for each token, rounded to the cache's dtype."""
    heads = constant(site, "k", 1)
    return launch(
        site,
        "store_kv",
        ["k", "v", "k_cache", "v_cache", "slot_mapping"],
        [shape_of(site, "k")[0]],
        [heads * constant(site, "k", 2), heads * constant(site, "v", 2), _cache_kind(site)],
    )


@kernels.binds(ops.store_kv_int8, dtypes=ACTIVATIONS)
def store_kv_int8(site: Site) -> Launch:
    """A code for each element, and a scale for each token and head."""
    return launch(
        site,
        "store_kv_int8",
        ["k", "v", "k_cache", "v_cache", "slot_mapping", "k_scales", "v_scales"],
        [shape_of(site, "k")[0]],
        [constant(site, "k", 1), constant(site, "k", 2), constant(site, "v", 2)],
    )


@kernels.binds(
    ops.paged_attention,
    dtypes=ACTIVATIONS,
    cache_dtypes=_FLOATS,
    batch_invariant=True,
)
def paged_attention(site: Site) -> Launch:
    """Items of a few tokens and heads, each with an online softmax over tiles of keys."""
    return _attention(site, None, None)


@kernels.binds(ops.paged_attention_int8, dtypes=ACTIVATIONS, batch_invariant=True)
def paged_attention_int8(site: Site) -> Launch:
    """The same: scales of keys multiply the scores, those of values the weights."""
    return _attention(site, "k_scales", "v_scales")


def _attention(site: Site, *scales: str | None) -> Launch:
    head_dim, v_head_dim = constant(site, "k_cache", 3), constant(site, "v_cache", 3)
    scale, cap = site.attrs.scale, site.attrs.soft_cap
    made = launch(
        site,
        "paged_attention",
        [
            "out", "q", "k_cache", "v_cache", "block_tables", "seq_lens", "query_starts", "sinks",
            *scales,
        ],
        [shape_of(site, "q")[0], *shape_of(site, "block_tables")],
        [
            constant(site, "q", 1),
            constant(site, "k_cache", 2),
            head_dim,
            v_head_dim,
            constant(site, "k_cache", 1),
            _cache_kind(site),
            site.attrs.window or 0,
        ],
        [head_dim**-0.5 if scale is None else scale, 0.0 if cap is None else cap],
    )  # fmt: skip
    pool = made.device.pool
    pool.reserve(
        _native.attention_workspace(head_dim, v_head_dim),
        _native.attention_shared(v_head_dim, pool.threads, constant(site, "q", 1)),
    )
    return made


def _cache_kind(site: Site) -> int:
    dtype = site.operand("k_cache").dtype
    if dtype not in _CACHE_KINDS:
        raise PluginError(f"{site.op.name}: cache of {dtype}, want one of {list(_CACHE_KINDS)}")
    return _CACHE_KINDS[dtype]
