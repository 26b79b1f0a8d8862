"""Normalizations of rows."""

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_cpu.kernels.collection import ACTIVATIONS, kernels
from perfxlm_cpu.launch import constant, count, launch, shape_of


@kernels.binds(ops.rms_norm, dtypes=ACTIVATIONS)
def rms_norm(site: Site) -> Launch:
    """Two passes over a row, which stays in L1."""
    return _rows(site, "rms_norm", ["out", "x", "weight"])


@kernels.binds(ops.layer_norm, dtypes=ACTIVATIONS)
def layer_norm(site: Site) -> Launch:
    """Mean, then squared differences, then the affine part."""
    return _rows(site, "layer_norm", ["out", "x", "weight", "bias"])


def _rows(site: Site, kernel: str, pointers: list[str]) -> Launch:
    rows = count(shape_of(site, "x")[:-1])
    hidden = constant(site, "x", -1)
    return launch(site, kernel, pointers, [rows], [hidden], [site.attrs.eps])
