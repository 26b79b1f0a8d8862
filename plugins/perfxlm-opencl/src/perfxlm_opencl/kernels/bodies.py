"""Composite operators as their bodies: the kernels of linear layers and what stands around them.

Intermediate values lie in scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dims, Operand, Site
from perfxlm_opencl.kernels import linear, normalization
from perfxlm_opencl.launch import Chain, ClLaunch, Length, count

_ALIGNED = 256


def _tokens(dims: Dims) -> int:
    total = 1
    for length in getattr(dims, "batch", (getattr(dims, "tokens", 1),)):
        total *= length
    return total


def between(widths: Callable[[Any], Sequence[int]]) -> Callable[[Dims, Attributes], int]:
    """Scratch memory for intermediate values of these widths, in float32."""

    def nbytes(dims: Dims, attrs: Attributes) -> int:
        return _bytes(widths(dims), _tokens(dims))

    return nbytes


def _bytes(widths: Sequence[int], tokens: int) -> int:
    return 4 * sum(widths) * tokens + _ALIGNED * len(widths)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED


@dataclass
class Body:
    """The operators of a composite's body, bound one after the other.

    Attributes:
        site: of the composite.
        widths: of the intermediate values, all of which fit the scratch memory together.
        packed: whether weights are packed, those that can be.
    """

    site: Site
    widths: Sequence[int]
    packed: bool = True
    used: int = 0

    def __post_init__(self) -> None:
        self.parts: list[ClLaunch | Chain] = []

    def value(self, *shape: Length) -> Operand:
        """Room for an intermediate value: in float32, since sums that cancel show rounding."""
        scratch = self.site.scratch
        assert scratch is not None
        width = 1
        for length in shape[1:]:
            width *= int(length)
        made = Operand("between", shape, "float32", scratch.buffer, scratch.offset + self.used)
        self.used += _aligned(4 * width * self._most())
        return made

    def _most(self) -> int:
        """Tokens that there is room for."""
        scratch = self.site.scratch
        assert scratch is not None
        nbytes = int(scratch.shape[0])
        return (nbytes - _bytes(self.widths, 0)) // (4 * sum(self.widths))

    def add(
        self,
        bind: Callable[[Site], Any],
        op: Any,  # noqa: ANN401
        attrs: Mapping[str, Any],
        **operands: Any,  # noqa: ANN401
    ) -> None:
        """Bind one operator of the body."""
        site = self.site
        inner = Site(op, Attributes(**attrs), operands, None, site.device, site.pack)
        self.parts.append(bind(inner))

    def linear(self, out: Operand, x: Any, prefix: str = "") -> Operand:  # noqa: ANN401
        """A linear layer whose weight and bias begin with `prefix`."""
        given = {n: self.site.operands[f"{prefix}{n}"] for n in ("weight", "bias")}
        attrs = {"exact": self.site.attrs.exact}
        bind = linear.linear if self.packed else linear.linear_as_filed
        self.add(bind, ops.linear, attrs, out=out, x=x, **given)
        return out

    def norm(self, x: Any, weight: str, eps: float) -> Any:  # noqa: ANN401
        """The norm of `x`; `x` itself where there is no weight."""
        by = self.site.operands[weight]
        if by is None:
            return x
        out = self.value(*x.shape)
        attrs = {"eps": eps}
        self.add(normalization.rms_norm, ops.rms_norm, attrs, out=out, x=x, weight=by)
        return out


def flat(value: Operand) -> Operand:
    """A value as [tokens, features]."""
    return replace(value, shape=(count(value.shape[:-1]), value.shape[-1]))
