"""Operators that treat each element by itself."""

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_opencl.kernels.collection import ACTIVATIONS, kernels
from perfxlm_opencl.launch import Tiles, count, device_of, kinds, launch, shape_of


@kernels.binds(ops.add, dtypes=ACTIVATIONS)
def add(site: Site) -> Launch:
    """Sum of two."""
    return _elements(site, "add", "a", "b")


@kernels.binds(ops.mul, dtypes=ACTIVATIONS)
def mul(site: Site) -> Launch:
    """Product of two."""
    return _elements(site, "mul", "a", "b")


@kernels.binds(ops.silu_and_mul, dtypes=ACTIVATIONS)
def silu_and_mul(site: Site) -> Launch:
    """The gate of SwiGLU."""
    return _elements(site, "silu_and_mul", "gate", "up")


@kernels.binds(ops.gelu_and_mul, dtypes=ACTIVATIONS)
def gelu_and_mul(site: Site) -> Launch:
    """The gate of GEGLU."""
    return _elements(site, f"{_gelu(site)}_and_mul", "gate", "up")


@kernels.binds(ops.scale, dtypes=ACTIVATIONS)
def scale(site: Site) -> Launch:
    """Multiplied by a constant, and another added."""
    return _elements(site, "scale", "x", None, site.attrs.factor, site.attrs.offset)


@kernels.binds(ops.soft_cap, dtypes=ACTIVATIONS)
def soft_cap(site: Site) -> Launch:
    """Bounded by a hyperbolic tangent."""
    return _elements(site, "soft_cap", "x", None, site.attrs.cap)


@kernels.binds(ops.silu, dtypes=ACTIVATIONS)
def silu(site: Site) -> Launch:
    """Sigmoid linear unit."""
    return _elements(site, "silu", "x", None)


@kernels.binds(ops.gelu, dtypes=ACTIVATIONS)
def gelu(site: Site) -> Launch:
    """Gaussian error linear unit, exact or by tanh."""
    return _elements(site, _gelu(site), "x", None)


def _elements(
    site: Site, kernel: str, first: str, second: str | None, p: float = 0.0, q: float = 0.0
) -> Launch:
    n = count(shape_of(site, first))
    rest = [second, n] if second is not None else [n, float(p), float(q)]
    items = device_of(site).profile.items
    return launch(
        site,
        "elementwise.cl",
        kernel,
        ["out", first, *rest],
        [Tiles(n, items)],
        [items],
        defines=kinds(site, first, *([second] if second else [])),
    )


def _gelu(site: Site) -> str:
    return "gelu_tanh" if site.attrs.approximate == "tanh" else "gelu"
