"""How inputs of an operator are made from a case; most operators need nothing but this.

A `Family` follows the operator's annotations: words become lengths, dtype variables become dtypes.
Operators whose inputs depend on each other have their own in `structured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perfxlm_core.conformance.case import Case, Variant
from perfxlm_core.conformance.values import KINDS, constant, floats, generator, weight
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.spec import Op, Param
from perfxlm_core.ops.types import Dim

LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129)
"""What breaks tiles and vectors: around powers of two, and none of them."""
LONG = (1000,)
"""Long enough for sums to lose digits."""
STEP_LENGTHS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 65)
"""Lengths of symbolic dimensions."""
DYNAMIC = ("tokens", "seqs", "rows", "rows_in")
"""Words that a running engine changes with every step; the first leading dimension is another."""
VANISHING = 2.0**-5
"""Beside the largest input, this share of the tolerance is allowed: inner terms may cancel."""

ATTRIBUTES: Mapping[str, st.SearchStrategy[Any]] = {
    "eps": st.sampled_from([1e-6, 1e-5, 1e-3]),
    "factor": st.sampled_from([1.0, 0.5, -1.75, 12.0]),
    "offset": st.sampled_from([0.0, 0.25, -3.0]),
    "cap": st.sampled_from([1.0, 5.0, 30.0]),
    "approximate": st.sampled_from(["none", "tanh"]),
}
"""Attribute -> values to try; others by the type of their default."""

Arrays = dict[str, Any]


class Family:
    """Cases of one kind of operator: how they are drawn, and the arrays that they stand for.

    Attributes:
        exact: whether every bit of the result is defined (nothing is computed).
    """

    exact = False

    # Drawing

    def cases(self, op: Op[..., Any], variant: Variant) -> st.SearchStrategy[Case]:
        """Cases of an operator for these types."""
        return st.composite(lambda draw: self.draw(draw, op, variant))()

    def draw(self, draw: st.DrawFn, op: Op[..., Any], variant: Variant) -> Case:
        """One case."""
        sizes = self.sizes(draw, op, variant)
        symbolic = draw(st.sampled_from([True, True, False]))
        count = draw(st.integers(1, 3)) if symbolic else 1
        steps = tuple(self.step(draw, op, sizes) for _ in range(count))
        optional = [p.name for p in op.params if p.optional]
        return Case(
            op.name,
            variant.dtype,
            variant.format,
            variant.cache_dtype,
            sizes,
            steps if symbolic else tuple(self.filled(s) for s in steps),
            {
                n: v
                for n in op.attributes
                if (v := self.attribute(draw, op, n, variant)) is not None
            },
            tuple(n for n in optional if draw(st.booleans())),
            draw(st.booleans()),
            symbolic,
            draw(st.sampled_from(KINDS)),
            draw(st.integers(0, 2**16)),
        )

    def sizes(self, draw: st.DrawFn, op: Op[..., Any], variant: Variant) -> dict[str, Any]:
        """Lengths that are known at bind time."""
        found: dict[str, Any] = {}
        words = words_of(op)
        for word in words:
            if word.startswith("*"):
                alone = all(p.dims == (word,) for p in op.params)
                found[word[1:]] = draw(self.tail(alone))
            elif word not in DYNAMIC and not word.isdigit():
                found[word] = draw(self.length(word, variant))
        return found

    def tail(self, alone: bool) -> st.SearchStrategy[tuple[int, ...]]:
        """Leading dimensions behind the first; `alone` when no other dimension follows."""
        one = st.sampled_from(LENGTHS)
        if alone:
            wide = st.sampled_from(LENGTHS + LONG)
            return st.one_of(wide.map(lambda n: (n,)), st.just(()), one.map(lambda n: (3, n)))
        return st.sampled_from([(), (), (), (3,)])

    def length(self, word: str, variant: Variant) -> st.SearchStrategy[int]:
        """Length of one word."""
        return st.sampled_from(LENGTHS + LONG)

    def step(self, draw: st.DrawFn, op: Op[..., Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
        """What one launch has that others have not."""
        return {word: draw(st.sampled_from(STEP_LENGTHS)) for word in dynamic_words(op)}

    def filled(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """A step without empty dimensions: what is known at bind time is not empty."""
        return {name: max(1, length) for name, length in step.items()}

    def attribute(self, draw: st.DrawFn, op: Op[..., Any], name: str, variant: Variant) -> Any:  # noqa: ANN401
        """A value for an attribute; None leaves it at its default."""
        if name in ATTRIBUTES:
            return draw(ATTRIBUTES[name])
        default = op.attributes[name]
        if isinstance(default, bool):
            return draw(st.booleans())
        if isinstance(default, float):
            return draw(st.sampled_from([default, default * 1.5, default * 0.5]))
        return None

    # Building

    def lengths(self, case: Case, index: int) -> dict[str, int]:
        """Lengths of the symbolic dimensions in one step."""
        return dict(case.steps[index])

    def largest(self, op: Op[..., Any], case: Case) -> dict[str, int]:
        """Largest length of each symbol over all steps."""
        steps = [self.lengths(case, i) for i in range(len(case.steps))]
        return {n: max(1, *(s[n] for s in steps)) for n in dynamic_words(op)}

    def environment(self, op: Op[..., Any], case: Case, index: int | None) -> dict[str, Any]:
        """Word -> length in a step, or as the kernel sees it when it is bound (None)."""
        env = dict(case.sizes)
        at = 0 if index is None else index
        for name, length in self.lengths(case, at).items():
            env[name] = Dim.symbol(name) if index is None and case.symbolic else length
        for word in words_of(op):
            if word.startswith("*"):
                env[word[1:]] = (env["tokens"], *case.sizes[word[1:]])
        return env

    def is_constant(self, param: Param, case: Case) -> bool:
        """Whether this input is a constant in this case."""
        if any(w.startswith("*") or w.removesuffix("+1") in DYNAMIC for w in param.dims):
            return False
        if param.dtype.name == "C" or param.any_shape:
            return False
        quantized = param.dtype.any_format and case.format in FORMATS
        return case.constants or quantized

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Inputs of one step: arrays, constants, and None for what is left out."""
        env = self.environment(op, case, index)
        found: Arrays = {}
        for param in op.params:
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
            return self.indices(param.name, shape, case, env, rng)
        made_array = floats(rng, shape, dtype_of(param, case), case.values)
        return constant(param.name, made_array) if fixed else made_array

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """An input of indices: only operators with a family of their own have one."""
        raise LookupError(f"{case.op}: no strategy for the indices {name}")

    # Judging

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Results in float64; exact ones in their own dtype."""
        given = arrays if self.exact else {k: precise(v) for k, v in arrays.items()}
        out = op.fn(**given, **self.full_attributes(op, case, exact=self.exact))
        return tuple(np.asarray(o) for o in (out if isinstance(out, tuple) else (out,)))

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
            float(np.nan_to_num(np.abs(v), nan=0, posinf=0).max(initial=0))
            for v in map(precise, arrays.values())
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


def words_of(op: Op[..., Any]) -> list[str]:
    """Dimension words of the inputs, each once, without `+1`."""
    words = [w.removesuffix("+1") for p in op.params for w in p.dims if w not in ("...", "_")]
    return list(dict.fromkeys(words))


def dynamic_words(op: Op[..., Any]) -> list[str]:
    """Symbols of the operator's dimensions."""
    words = ["tokens" if w.startswith("*") else w for w in words_of(op)]
    return list(dict.fromkeys(w for w in words if w in DYNAMIC))


def shape_of(param: Param, env: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shape that a parameter's words stand for."""
    shape: list[Any] = []
    for word in param.dims:
        if word.startswith("*"):
            shape.extend(env[word[1:]])
        elif word.isdigit():
            shape.append(int(word))
        else:
            base = env[word.removesuffix("+1")]
            shape.append(base + 1 if word.endswith("+1") else base)
    return tuple(shape)


def dtype_of(param: Param, case: Case) -> str:
    """The dtype of an input that is not a weight."""
    if param.dtype.name == "C":
        return case.cache_dtype or case.dtype
    if case.dtype in param.dtype.allowed or not param.dtype.allowed:
        return case.dtype
    return param.dtype.allowed[0]


def is_float(value: Any) -> bool:  # noqa: ANN401
    """Whether an array holds floats, bfloat16 among them."""
    return bool(value.dtype.kind == "f" or value.dtype.name == "bfloat16")


def precise(value: Any) -> Any:  # noqa: ANN401
    """Floats in float64, weights decoded; anything else as it is."""
    if isinstance(value, Tensor):
        return value.float32().astype(np.float64)
    if isinstance(value, np.ndarray) and is_float(value):
        return value.astype(np.float64)
    return value


def wobble(value: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401
    """Floats in float64, each up to an ulp of float32 away."""
    exact = precise(value)
    if not isinstance(exact, np.ndarray) or exact.dtype != np.float64:
        return exact
    return exact * (1 + 2.0**-23 * rng.uniform(-1, 1, exact.shape))
