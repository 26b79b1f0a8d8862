"""Normalizations of rows."""

from collections.abc import Sequence

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_opencl.kernels.collection import ACTIVATIONS, kernels
from perfxlm_opencl.launch import (
    Argument,
    Tiles,
    constant,
    count,
    device_of,
    kinds,
    launch,
    shape_of,
)


@kernels.binds(ops.rms_norm, dtypes=ACTIVATIONS)
def rms_norm(site: Site) -> Launch:
    """A work-group for each row."""
    n = constant(site, "x", -1)
    return _rows(site, "rms_norm", ["out", "x", "weight", n, float(site.attrs.eps)])


@kernels.binds(ops.layer_norm, dtypes=ACTIVATIONS)
def layer_norm(site: Site) -> Launch:
    """A work-group for each row."""
    n = constant(site, "x", -1)
    has_bias = int(site.operands["bias"] is not None)
    return _rows(
        site, "layer_norm", ["out", "x", "weight", "bias", n, float(site.attrs.eps), has_bias]
    )


def _rows(site: Site, kernel: str, arguments: Sequence[Argument]) -> Launch:
    device = device_of(site)
    defines = kinds(site, "x", "weight")
    program, items = device.programs.fitted("rows.cl", kernel, defines, device.profile.row_items)
    rows = count(shape_of(site, "x")[:-1])
    return launch(site, "rows.cl", kernel, arguments, [Tiles(rows)], [items], program=program)
