"""Cases of operators over tensors of any shape: shapes, axes and positions are drawn together.

A case's `sizes` say what each input is: a tuple is a shape, a tuple of tuples the shapes of several
inputs, a list or a number its content (axes, lengths); what is not there is left out. `dtypes`
among them names those of inputs that do not share the case's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfxlm_core.conformance.arrays import plain
from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.dimensions import dtype_of
from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.family import Arrays, Family
from perfxlm_core.conformance.rows import Batch
from perfxlm_core.conformance.values import FINITE, constant, generator
from perfxlm_core.ops.spec import Op, Param
from perfxlm_core.ops.types import numpy_dtype

Facts = tuple[dict[str, Any], dict[str, Any]]
"""Sizes and attributes of a case."""
Shapes = Callable[[Draws], Facts]
Numbers = Callable[[Case, np.random.Generator, tuple[int, ...], str], np.ndarray]
"""Content of one input: of this case, shape and dtype."""


@dataclass(frozen=True)
class Form:
    """What the definition of an operator does not say about its inputs.

    Attributes:
        shapes: draws what inputs there are, and attributes.
        exact: the result is defined but for the sign of zero, and compared in its own dtype.
        copies: every bit of the result is defined.
        dtypes: those that make sense; None for all of the definition.
        numbers: input -> its content, where it is not any numbers of its dtype.
        kinds: kinds of numbers; None for finite ones, all of them for copies.
    """

    shapes: Shapes
    exact: bool = False
    copies: bool = False
    dtypes: tuple[str, ...] | None = None
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    kinds: tuple[str, ...] | None = None
    tolerance: float = 0.0
    """Relative error allowed where the result is compared in its own dtype."""


class TensorFamily(Family):
    """Cases of one operator over tensors; every length is known when the node is bound."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.exact = form.copies
        self.kinds = form.kinds or ((*FINITE, "infinite", "nan") if form.copies else FINITE)

    def draw(self, at: Draws) -> Case:
        """One case, of one launch."""
        sizes, attrs = self.form.shapes(at)
        return Case(
            at.op.name,
            at.variant.dtype,
            sizes=sizes,
            attrs=attrs,
            given=tuple(p.name for p in at.op.params if p.optional and p.name in sizes),
            constants=at.flag(),
            symbolic=False,
            values=at.one_of(("normal", *self.kinds)),
            seed=at.number(0, 2**16),
        )

    def lengths(self, case: Case, index: int) -> dict[str, int]:
        """None is a symbol."""
        return {}

    def largest(self, op: Op[..., Any], case: Case) -> dict[str, int]:
        """None is a symbol."""
        return {}

    def environment(self, op: Op[..., Any], case: Case, index: int | None) -> dict[str, Any]:
        """Lengths of the words that the operator's annotations have, if any."""
        found: dict[str, Any] = {}
        for param in op.params:
            shape = case.sizes.get(param.name)
            if not isinstance(shape, tuple) or param.any_shape:
                continue
            lead = len(shape) - len(param.dims) + 1 if param.dims[:1] == ("*shape",) else 0
            if param.dims[:1] == ("*shape",):
                found["shape"] = shape[:lead]
            else:
                found.update(zip(param.dims, shape, strict=True))
        return found

    def batches(
        self,
        op: Op[..., Any],
        case: Case,
        arrays: Arrays,
        largest: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Iterable[Batch]:
        """Nothing is promised about rows."""
        return ()

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Inputs; small ones that are given as numbers may be constants."""
        return {p.name: self._input(p, case) for p in op.params}

    def _input(self, param: Param, case: Case) -> Any:  # noqa: ANN401 - array, list of them, None
        found = case.sizes.get(param.name)
        if found is None:
            return None
        dtype = case.sizes.get("dtypes", {}).get(param.name) or dtype_of(param, case)
        if isinstance(found, list | int | float):
            made = np.array(found, numpy_dtype(dtype))
            return constant(param.name, made) if case.constants else made
        rng = generator(case.seed, param.name, 0)
        if param.variadic:
            return [self._numbers(param.name, case, rng, shape, dtype) for shape in found]
        return self._numbers(param.name, case, rng, found, dtype)

    def _numbers(
        self, name: str, case: Case, rng: np.random.Generator, shape: tuple[int, ...], dtype: str
    ) -> np.ndarray:
        make = self.form.numbers.get(name)
        if make is not None:
            return np.asarray(make(case, rng, shape, dtype)).astype(numpy_dtype(dtype))
        return self.numbers(rng, shape, dtype, case.values)

    def full_attributes(
        self, op: Op[..., Any], case: Case, *, exact: bool = True
    ) -> dict[str, Any]:
        """All attributes; dtypes of results stay what they are."""
        return {**op.attributes, **case.attrs}

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Results in float64, or in their own dtype where nothing is left to rounding."""
        if self.exact or self.form.exact:
            given = {n: plain(v) for n, v in arrays.items()}
            out = op.fn(**given, **self.full_attributes(op, case))
            return tuple(np.asarray(o) for o in (out if isinstance(out, tuple) else (out,)))
        return super().reference(op, case, arrays)

    def opened(self, op: Op[..., Any], arrays: Arrays, result: np.ndarray) -> np.ndarray:
        """Each element by itself."""
        return result

    def tolerance(self, op: Op[..., Any], case: Case) -> float:
        """None where nothing is rounded but the result."""
        if self.form.exact:
            return self.form.tolerance
        dtype = case.sizes.get("dtypes", {}).get("scale", case.dtype)
        return op.tolerance.get(dtype, op.tolerance["float32"])

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Nothing where nothing is rounded."""
        return arrays if self.form.exact else super().disturbed(case, arrays, rng)
