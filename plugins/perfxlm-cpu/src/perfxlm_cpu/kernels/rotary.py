"""Rotary position embedding."""

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_cpu.kernels.collection import ACTIVATIONS, kernels
from perfxlm_cpu.launch import constant, launch, shape_of


@kernels.binds(ops.rotary_table)
def rotary_table(site: Site) -> Launch:
    """Sines and cosines in double, once a step."""
    return launch(
        site,
        "rotary_table",
        ["cos", "sin", "positions", "inverse_frequencies"],
        [shape_of(site, "positions")[0]],
        [constant(site, "inverse_frequencies", 0)],
        [site.attrs.attention_factor],
    )


@kernels.binds(ops.rotary_embedding, dtypes=ACTIVATIONS)
def rotary_embedding(site: Site) -> Launch:
    """Pairs turned, the rest of a head copied."""
    return launch(
        site,
        "rotary_embedding",
        ["out", "x", "cos", "sin"],
        [shape_of(site, "x")[0]],
        [
            constant(site, "x", 1),
            constant(site, "x", 2),
            constant(site, "cos", 1),
            int(site.attrs.interleaved),
        ],
    )
