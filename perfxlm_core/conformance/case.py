"""A case: the few facts from which an operator's inputs are made, so that it prints as Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

LAYOUTS = ("apart", "arena", "edge")
"""Where operands lie: each in memory of its own, 1024 bytes of canaries around it; all in one
buffer, one directly behind the other at multiples of 64 bytes, as plans place them; or each at the
edge of a page."""


@dataclass(frozen=True, repr=False)
class Case:
    """One node and the launches that it is tried with.

    Attributes:
        op: operator's name.
        dtype: of activations.
        format: of weights: a dtype's name or a quantized format's; None where there are none.
        cache_dtype: of the KV cache; None where there is none.
        sizes: lengths of dimensions that are known when the node is bound; `batch` holds those
            behind the first leading one.
        steps: what changes from launch to launch: lengths of symbolic dimensions, or an operator's
            own description of a batch. The node is bound once for all of them.
        attrs: attributes; those left out take their defaults.
        given: optional inputs that are passed.
        constants: whether inputs that could be constants are (quantized weights always are).
        symbolic: whether the lengths in `steps` are symbols for the kernel; if not, there is one
            step and its lengths are known at bind time.
        values: kind of numbers, one of `values.KINDS`; for logits also "masked", minus infinities.
        seed: of the numbers.
        layout: where operands lie, one of `LAYOUTS`.
    """

    op: str
    dtype: str = "float32"
    format: str | None = None
    cache_dtype: str | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ({},)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    constants: bool = True
    symbolic: bool = True
    values: str = "normal"
    seed: int = 0
    layout: str = "apart"

    def __repr__(self) -> str:
        plain = Case(self.op)
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)[1:]
            if getattr(self, f.name) != getattr(plain, f.name)
        ]
        return f"Case({', '.join([repr(self.op), *changed])})"


@dataclass(frozen=True)
class Variant:
    """Types that a kernel is tried with: of activations, of weights, of the cache.

    Attributes:
        caches: types of the cache that cases are drawn from, where the weights' type makes the
            row: they are not multiplied. `cache_dtype` is the first.
    """

    dtype: str
    format: str | None = None
    cache_dtype: str | None = None
    caches: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The weights' type, the cache's, or both, for tables."""
        types = (self.format, None if self.caches else self.cache_dtype)
        return "+".join(t for t in types if t) or "-"


class Failure(AssertionError):
    """A kernel does not do what its operator's definition says.

    Attributes:
        check: which check found it: smoke, values, writes, reads, inputs, determinism,
            invariance, aliasing, refusals, device, crash, hang.
    """

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check
