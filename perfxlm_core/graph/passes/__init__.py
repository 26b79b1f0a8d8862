"""Rewrites of graphs, none of which knows a vendor or a model."""

from perfxlm_core.graph.passes.fusing import fuse
from perfxlm_core.graph.passes.paging import cache_layers, page_attention
from perfxlm_core.graph.passes.rounding import allow_rounding
from perfxlm_core.graph.passes.rows import select_rows

__all__ = ["allow_rounding", "cache_layers", "fuse", "page_attention", "select_rows"]
