"""Rotary position embedding."""

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_opencl.kernels.collection import ACTIVATIONS, kernels
from perfxlm_opencl.launch import Tiles, constant, device_of, kinds, launch, shape_of


@kernels.binds(ops.rotary_table)
def rotary_table(site: Site) -> Launch:
    """Sines and cosines, once a step."""
    tokens = shape_of(site, "positions")[0]
    angles = constant(site, "inverse_frequencies", 0)
    items = device_of(site).profile.items
    return launch(
        site,
        "rotary.cl",
        "rotary_table",
        [
            "cos", "sin", "positions", "inverse_frequencies", tokens, angles,
            float(site.attrs.attention_factor),
        ],
        [Tiles(angles, items), Tiles(tokens)],
        [items, 1],
        defines={"ACT": "float"},
    )  # fmt: skip


@kernels.binds(ops.rotary_embedding, dtypes=ACTIVATIONS)
def rotary_embedding(site: Site) -> Launch:
    """Pairs turned, the rest of a head copied."""
    tokens = shape_of(site, "x")[0]
    heads, head_dim = constant(site, "x", 1), constant(site, "x", 2)
    angles = constant(site, "cos", 1)
    items = device_of(site).profile.items
    return launch(
        site,
        "rotary.cl",
        "rotary_embedding",
        [
            "out", "x", "cos", "sin", tokens, heads, head_dim, angles,
            int(site.attrs.interleaved),
        ],
        [Tiles(heads * (head_dim - angles), items), Tiles(tokens)],
        [items, 1],
        defines=kinds(site, "x"),
    )  # fmt: skip
