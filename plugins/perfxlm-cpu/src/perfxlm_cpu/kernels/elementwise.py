"""Operators that treat each element by itself."""

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Site
from perfxlm_cpu.kernels.collection import ACTIVATIONS, kernels
from perfxlm_cpu.launch import count, launch, shape_of


@kernels.binds(ops.add, dtypes=ACTIVATIONS)
def add(site: Site) -> Launch:
    """Sum of two."""
    return launch(site, "add", ["out", "a", "b"], [count(shape_of(site, "a"))])


@kernels.binds(ops.mul, dtypes=ACTIVATIONS)
def mul(site: Site) -> Launch:
    """Product of two."""
    return launch(site, "mul", ["out", "a", "b"], [count(shape_of(site, "a"))])


@kernels.binds(ops.scale, dtypes=ACTIVATIONS)
def scale(site: Site) -> Launch:
    """Multiplied by a constant, and another added."""
    return _unary(site, "scale", site.attrs.factor, site.attrs.offset)


@kernels.binds(ops.soft_cap, dtypes=ACTIVATIONS)
def soft_cap(site: Site) -> Launch:
    """Bounded by a hyperbolic tangent."""
    return _unary(site, "soft_cap", site.attrs.cap)


@kernels.binds(ops.silu, dtypes=ACTIVATIONS)
def silu(site: Site) -> Launch:
    """Sigmoid linear unit."""
    return _unary(site, "silu")


@kernels.binds(ops.gelu, dtypes=ACTIVATIONS)
def gelu(site: Site) -> Launch:
    """Gaussian error linear unit, exact or by tanh."""
    return _unary(site, _gelu_form(site, "gelu"))


@kernels.binds(ops.silu_and_mul, dtypes=ACTIVATIONS)
def silu_and_mul(site: Site) -> Launch:
    """The gate of SwiGLU."""
    return _gate(site, "silu_and_mul")


@kernels.binds(ops.gelu_and_mul, dtypes=ACTIVATIONS)
def gelu_and_mul(site: Site) -> Launch:
    """The gate of GEGLU."""
    return _gate(site, _gelu_form(site, "gelu_and_mul"))


def _unary(site: Site, kernel: str, *parameters: float) -> Launch:
    elements = count(shape_of(site, "x"))
    return launch(site, kernel, ["out", "x", None], [elements], floats=parameters)


def _gate(site: Site, kernel: str) -> Launch:
    return launch(site, kernel, ["out", "gate", "up"], [count(shape_of(site, "gate"))])


def _gelu_form(site: Site, kernel: str) -> str:
    return f"fast_{kernel}" if site.attrs.approximate == "tanh" else kernel
