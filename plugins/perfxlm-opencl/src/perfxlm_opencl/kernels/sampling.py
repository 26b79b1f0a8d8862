"""From logits to tokens and probabilities."""

from collections.abc import Sequence

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_opencl.kernels.collection import ACTIVATIONS, kernels
from perfxlm_opencl.launch import (
    Argument,
    Length,
    Tiles,
    constant,
    count,
    device_of,
    kind_of,
    launch,
    shape_of,
)


@kernels.binds(ops.greedy, dtypes=ACTIVATIONS)
def greedy(site: Site) -> Launch:
    """The largest logit of each row."""
    rows, vocab = shape_of(site, "logits")[0], constant(site, "logits", 1)
    return _rows(site, "greedy", "logits", ["out", "logits", vocab], rows)


@kernels.binds(ops.sample_top_k_top_p, dtypes=ACTIVATIONS)
def sample_top_k_top_p(site: Site) -> Launch:
    """Limits found by bisection: nothing is sorted."""
    rows, vocab = shape_of(site, "logits")[0], constant(site, "logits", 1)
    arguments: list[Argument] = [
        "out", "logits", "temperatures", "top_ks", "top_ps", "uniforms", vocab,
    ]  # fmt: skip
    return _rows(site, "sample_top_k_top_p", "logits", arguments, rows, source="sampling.cl")


@kernels.binds(ops.log_probabilities, dtypes=ACTIVATIONS)
def log_probabilities(site: Site) -> Launch:
    """Of one token in each row."""
    rows, vocab = shape_of(site, "logits")[0], constant(site, "logits", 1)
    arguments: list[Argument] = ["out", "logits", "token_ids", vocab]
    return _rows(site, "log_probabilities", "logits", arguments, rows)


@kernels.binds(ops.softmax, dtypes=ACTIVATIONS)
def softmax(site: Site) -> Launch:
    """Along any axis."""
    return _softmax(site, logarithm=False)


@kernels.binds(ops.log_softmax, dtypes=ACTIVATIONS)
def log_softmax(site: Site) -> Launch:
    """Along any axis."""
    return _softmax(site, logarithm=True)


def _softmax(site: Site, *, logarithm: bool) -> Launch:
    shape = shape_of(site, "x")
    axis = site.attrs.axis % len(shape)
    n, inner, outer = shape[axis], count(shape[axis + 1 :]), count(shape[:axis])
    arguments: list[Argument] = ["out", "x", n, inner, int(logarithm)]
    return _rows(site, "softmax", "x", arguments, inner, outer)


def _rows(
    site: Site,
    kernel: str,
    like: str,
    arguments: Sequence[Argument],
    *groups: Length,
    source: str = "probabilities.cl",
) -> Launch:
    device = device_of(site)
    defines = {"ACT": kind_of(site, like)}
    items = device.profile.row_items
    program, items = device.programs.fitted(source, kernel, defines, items)
    local = [items, *(1 for _ in groups[1:])]
    tiles = [Tiles(length) for length in groups]
    return launch(site, source, kernel, arguments, tiles, local, program=program)
