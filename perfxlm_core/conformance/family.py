"""How inputs of an operator are made from a case; most operators need nothing but this.

A `Family` follows the operator's annotations: words become lengths, dtype variables become dtypes.
Operators whose inputs depend on each other have their own, see `structured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perfxlm_core.conformance.arrays import flat, is_float, precise, wobble
from perfxlm_core.conformance.case import Case, Variant
from perfxlm_core.conformance.dimensions import (
    DYNAMIC,
    dtype_of,
    dynamic,
    is_activation,
    shape_of,
    words,
)
from perfxlm_core.conformance.draws import LARGE_STEPS, LENGTHS, LONG, STEP_LENGTHS, Draws
from perfxlm_core.conformance.rows import Batch, row_batches
from perfxlm_core.conformance.values import (
    FINITE,
    KINDS,
    below,
    constant,
    floats,
    generator,
    integers,
    weight,
)
from perfxlm_core.ops.formats import FORMATS
from perfxlm_core.ops.spec import Op, Param
from perfxlm_core.ops.types import Dim

LIMITS: Mapping[str, str] = MappingProxyType(
    {"token_ids": "vocab", "top_ks": "vocab", "rows": "rows_in"}
)
"""Input of indices -> the dimension that they count."""
VANISHING = 2.0**-5
"""Beside the largest input, this share of the tolerance is allowed: inner terms may cancel."""

ATTRIBUTES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "eps": (1e-6, 1e-5, 1e-3),
        "factor": (1.0, 0.5, -1.75, 12.0),
        "offset": (0.0, 0.25, -3.0),
        "cap": (1.0, 5.0, 30.0),
        "approximate": ("none", "tanh"),
    }
)
"""Attribute -> values to try; others by the type of their default."""
LAYOUTS = ("apart", "apart", "arena", "arena", "edge")
"""Where operands lie (`Case.layout`)."""

Arrays = dict[str, Any]


class Family:
    """Cases of one kind of operator: how they are drawn, and the arrays that they stand for.

    Attributes:
        exact: whether every bit of the result is defined (nothing is computed).
        kinds: kinds of numbers that the operator's definition covers.
    """

    exact = False
    kinds: tuple[str, ...] = KINDS

    # Drawing

    def cases(
        self,
        op: Op[..., Any],
        variant: Variant,
        large: bool = False,
        like: Case | None = None,
    ) -> st.SearchStrategy[Case]:
        """Cases of an operator.

        Args:
            op: the operator.
            variant: types.
            large: whether they have the sizes of real models.
            like: a case whose attributes and optional inputs they have, where those do not depend
                on lengths.
        """

        def drawn(draw: st.DrawFn) -> Case:
            at = Draws(draw, op, variant, large, like)
            return replace(self.draw(at), layout=at.one_of(LAYOUTS))

        return st.composite(drawn)()

    def draw(self, at: Draws) -> Case:
        """One case."""
        op, variant = at.op, at.variant
        sizes = self.sizes(at)
        symbolic = at.one_of([True, True, False])
        count = at.number(1, 3) if symbolic and not at.large else 1
        steps = tuple(self.step(at, sizes) for _ in range(count))
        attrs = self.attributes(at)
        given = tuple(p.name for p in op.params if p.optional and at.flag())
        return Case(
            op.name,
            variant.dtype,
            variant.format,
            at.one_of(variant.caches) if variant.caches else variant.cache_dtype,
            sizes,
            steps if symbolic else tuple(self.filled(s) for s in steps),
            attrs,
            given if at.like is None else at.like.given,
            at.flag(),
            symbolic,
            at.one_of(("normal", *self.kinds)),
            at.number(0, 2**16),
        )

    def params(self, op: Op[..., Any]) -> tuple[Param, ...]:
        """The operator's inputs, with their dimensions in words."""
        return op.params

    def sizes(self, at: Draws) -> dict[str, Any]:
        """Lengths that are known at bind time."""
        found: dict[str, Any] = {}
        params = self.params(at.op)
        for word in words(params):
            if word.startswith("*"):
                alone = all(p.dims == (word,) for p in params)
                found[word[1:]] = self.tail(at, alone)
            elif word not in DYNAMIC and not word.isdigit():
                found[word] = self.length(at, word, found)
        return found

    def tail(self, at: Draws, alone: bool) -> tuple[int, ...]:
        """Leading dimensions behind the first; `alone` when no other dimension follows."""
        if not alone:
            return at.one_of([(), (), (), (3,)])
        wide = (at.length("", LENGTHS + LONG),)
        return wide if at.large else at.one_of([wide, (), (3, at.length("", LENGTHS))])

    def length(self, at: Draws, word: str, others: Mapping[str, Any]) -> int:
        """Length of one word, beside those drawn before."""
        return at.length(word)

    def step(self, at: Draws, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """What one launch has that others have not."""
        lengths = LARGE_STEPS if at.large else STEP_LENGTHS
        return {word: at.one_of(lengths) for word in dynamic(self.params(at.op))}

    def filled(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """A step without empty dimensions: what is known at bind time is not empty."""
        return {name: max(1, length) for name, length in step.items()}

    def attributes(self, at: Draws) -> dict[str, Any]:
        """Values of attributes; those left out have their defaults."""
        drawn = {n: self.attribute(at, n) for n in at.op.attributes}
        chosen = {n: v for n, v in drawn.items() if v is not None}
        if at.like is None:
            return chosen
        needed = (n for n in chosen if at.op.attributes[n] is at.op.signature.empty)
        return {**{n: chosen[n] for n in needed}, **at.like.attrs}

    def attribute(self, at: Draws, name: str) -> Any:  # noqa: ANN401
        """A value for an attribute; None leaves it at its default."""
        if name in ATTRIBUTES:
            return at.one_of(ATTRIBUTES[name])
        default = at.op.attributes[name]
        if isinstance(default, bool):
            return at.flag()
        if isinstance(default, float):
            return at.one_of([default, default * 1.5, default * 0.5])
        return None

    # Building

    def lengths(self, case: Case, index: int) -> dict[str, int]:
        """Lengths of the symbolic dimensions in one step."""
        return dict(case.steps[index])

    def largest(self, op: Op[..., Any], case: Case) -> dict[str, int]:
        """Largest length of each symbol over all steps."""
        steps = [self.lengths(case, i) for i in range(len(case.steps))]
        return {n: max(1, *(s[n] for s in steps)) for n in dynamic(self.params(op))}

    def environment(self, op: Op[..., Any], case: Case, index: int | None) -> dict[str, Any]:
        """Word -> length in a step, or as the kernel sees it when it is bound (None)."""
        env = dict(case.sizes)
        at = 0 if index is None else index
        for name, length in self.lengths(case, at).items():
            env[name] = Dim.symbol(name) if index is None and case.symbolic else length
        for word in words(self.params(op)):
            if word.startswith("*"):
                env[word[1:]] = (env["tokens"], *case.sizes[word[1:]])
        return env

    def is_constant(self, param: Param, case: Case) -> bool:
        """Whether this input is a constant in this case."""
        if is_activation(param) or param.is_cache or param.any_shape:
            return False
        quantized = param.dtype.any_format and case.format in FORMATS
        return case.constants or quantized

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Inputs of one step: arrays, constants, lists of arrays, and None for what is left out."""
        env = self.environment(op, case, index)
        found: Arrays = {}
        for param in self.params(op):
            if param.optional and param.name not in case.given:
                found[param.name] = None
                continue
            fixed = self.is_constant(param, case)
            rng = generator(case.seed, param.name, 0 if fixed else index)
            found[param.name] = self.array(param, case, env, rng, fixed)
        return found

    def array(
        self,
        param: Param,
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
        fixed: bool,
    ) -> Any:  # noqa: ANN401 - array or Tensor
        """One input."""
        shape = shape_of(param, env)
        if param.dtype.any_format:
            made = weight(rng, param.name, shape, case.format or case.dtype, case.values)
            return made if fixed else made.array().copy()
        if param.dtype.name == "I32":
            return self.indices(param.name, shape, env, rng)
        dtype = dtype_of(param, case)
        kind = case.values if is_activation(param) or case.values in FINITE else "normal"
        array = self.numbers(rng, shape, dtype, kind)
        return constant(param.name, array) if fixed else array

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Indices, anywhere in the dimension that they count."""
        return below(rng, shape, env[LIMITS[name]])

    def numbers(
        self, rng: np.random.Generator, shape: tuple[int, ...], dtype: str, kind: str
    ) -> np.ndarray:
        """Floats of a kind, whole numbers or truth values."""
        if "float" in dtype:
            return floats(rng, shape, dtype, kind)
        return integers(rng, shape, dtype, wide=self.exact)

    def open_shape(self, param: Param, env: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Shape, symbols in it, of an input whose shape the definition leaves open.

        None stands for the shape of the array.
        """
        return None

    def batches(
        self,
        op: Op[..., Any],
        case: Case,
        arrays: Arrays,
        largest: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Iterable[Batch]:
        """The rows of a launch in other batches; for the arguments see `rows.row_batches`."""
        return row_batches(op, arrays, largest, rng)

    # Judging

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Results in float64; exact ones in their own dtype. NaN is where anything is right."""
        given = arrays if self.exact else {k: precise(v) for k, v in arrays.items()}
        out = op.fn(**given, **self.full_attributes(op, case, exact=self.exact))
        made = tuple(np.asarray(o) for o in (out if isinstance(out, tuple) else (out,)))
        if self.exact or case.values in FINITE:
            return made
        return tuple(self.opened(op, arrays, m) for m in made)

    def opened(self, op: Op[..., Any], arrays: Arrays, result: np.ndarray) -> np.ndarray:
        """NaN in each row of a result whose inputs are not all finite: anything is right there."""
        for param in self.params(op):
            value = arrays[param.name]
            if is_activation(param) and len(param.dims) > 1 and isinstance(value, np.ndarray):
                odd = ~np.isfinite(precise(value)).all(axis=-1)
                if is_float(value) and odd.shape == result.shape[:-1]:
                    result = np.where(odd[..., None], np.nan, result)
        return result

    def full_attributes(
        self, op: Op[..., Any], case: Case, *, exact: bool = True
    ) -> dict[str, Any]:
        """All attributes; for a float64 reference (not `exact`) its dtype."""
        full = {**op.attributes, **case.attrs}
        if "dtype" in full:
            full["dtype"] = case.dtype if exact else "float64"
        return full

    def tolerance(self, op: Op[..., Any], case: Case) -> float:
        """Error allowed relative to the largest magnitude of a row."""
        return op.tolerance[case.dtype]

    def floor(self, op: Op[..., Any], case: Case, arrays: Arrays) -> float:
        """Absolute error allowed everywhere, however small the result is beside the inputs."""
        sizes = [
            float(np.abs(v, where=np.isfinite(v), out=np.zeros(v.shape)).max(initial=0))
            for v in map(precise, flat(arrays).values())
            if isinstance(v, np.ndarray) and v.dtype == np.float64
        ]
        return VANISHING * self.tolerance(op, case) * max(sizes, default=0.0)

    def magnitude(
        self, op: Op[..., Any], case: Case, arrays: Arrays, want: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """What errors are relative to, element by element; the largest of a row counts."""
        return want

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The same inputs a rounding error away: what they change, no kernel is blamed for."""
        return {k: wobble(v, rng) for k, v in arrays.items()}
