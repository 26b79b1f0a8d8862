"""One case on one kernel: everything that a right kernel must do, tried and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfxlm_core.conformance.bench import Bench, Placed
from perfxlm_core.conformance.case import Case, Failure
from perfxlm_core.conformance.family import Arrays, Family, is_float, shape_of
from perfxlm_core.conformance.structured import family_of
from perfxlm_core.conformance.values import POISON
from perfxlm_core.errors import PluginError
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import TensorType, type_of
from perfxlm_core.ops.types import concrete
from perfxlm_core.registry.device import Device, Launch
from perfxlm_core.registry.kernels import Attributes, Kernel, Query, Site

SLACK = 10
"""How many times the effect of a rounding error of the inputs a kernel may be off, beyond its
tolerance: sums that cancel are no kernel's fault."""
DRAWS = 4
"""How often that effect is sampled; its largest counts."""
PATTERNS = (0xFF, 0x5A)
"""What outputs and scratch memory hold before the first launch of a step, and the second."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case that did not fail.

    Attributes:
        worst: largest error in units of what is allowed; 0 where the result is exact.
        declined: why the kernel does not take the case; None if it ran.
    """

    worst: float = 0.0
    declined: str | None = None


def run_case(device: Device, kernel: Kernel, case: Case) -> Outcome:
    """Try a kernel with a case.

    Raises:
        Failure: the kernel does something wrong; the message says what.
    """
    family = family_of(kernel.op)
    if family is None:
        raise PluginError(f"{kernel.op.name}: no strategy makes inputs for this operator")
    with np.errstate(all="ignore"):
        return _Trial(device, kernel, case, family).run()


class _Trial:
    """A case being tried."""

    def __init__(self, device: Device, kernel: Kernel, case: Case, family: Family) -> None:
        self.device, self.kernel, self.case, self.family = device, kernel, case, family
        self.op = kernel.op
        self.bench = Bench(device)
        self.attrs = family.full_attributes(self.op, case)
        self.largest = family.largest(self.op, case) if case.symbolic else {}
        self.inputs = [family.arrays(self.op, case, i) for i in range(len(case.steps))]
        self.constants = {
            n: v.data.tobytes() for n, v in self.inputs[0].items() if isinstance(v, Tensor)
        }
        self.types = self._types()
        self.scratch: Placed | None = None

    def run(self) -> Outcome:
        query = self._query()
        reason = self._refusal(query)
        if reason is not None:
            return Outcome(declined=reason)
        placed = self._place()
        launch = self._bind(query, placed, self.inputs[0], self.attrs)
        self._bind_neighbour(query)
        program = self.device.program([launch], tuple(self.largest))
        order = list(range(len(self.case.steps)))
        first = {i: self._step(program, placed, i, PATTERNS[0]) for i in order}
        for i in reversed(order):
            self._same(first[i], self._step(program, placed, i, PATTERNS[1]), i)
        return Outcome(max((self._judge(i, first[i]) for i in order), default=0.0))

    def _types(self) -> dict[str, Any]:
        env = self.family.environment(self.op, self.case, None)
        found: dict[str, Any] = {}
        for param in self.op.params:
            given = type_of(self.inputs[0][param.name])
            open_shape = (
                given is None or param.any_shape or isinstance(self.inputs[0][param.name], Tensor)
            )
            found[param.name] = (
                given if open_shape else TensorType(shape_of(param, env), given.dtype)
            )
            if given is not None and param.any_shape and self.case.symbolic:
                found[param.name] = TensorType(self._open_shape(env), given.dtype)
        return found

    def _open_shape(self, env: Mapping[str, Any]) -> tuple[Any, ...]:
        return (*env["batch"], env["hidden"])

    def _query(self) -> Query:
        kind = self.device.name.split(":")[0]
        return Query.of(self.op, self.types, self.attrs, list(self.constants), kind)

    def _refusal(self, query: Query) -> str | None:
        try:
            reason = self.kernel.refusal(query)
        except Exception as error:
            raise Failure("refusals", f"`when` raises {_line(error)}") from error
        if reason is not None and not reason:
            raise Failure("refusals", "the case is declined without a reason")
        return reason

    def _place(self) -> dict[str, Placed]:
        """Operands in device memory: inputs that are not constants, and outputs."""
        placed = {
            name: self.bench.place(name, self.types[name].shape, value.dtype.name, self.largest)
            for name, value in self.inputs[0].items()
            if isinstance(value, np.ndarray)
        }
        for out, made in zip(self.op.outputs, self._output_types(), strict=True):
            placed[out.name] = self.bench.place(
                out.name, made.shape or (), made.dtype, self.largest
            )
        return placed

    def _output_types(self) -> tuple[TensorType, ...]:
        return self.op.infer(self.types, self.attrs)

    def _bind(
        self, query: Query, placed: Mapping[str, Placed], given: Arrays, attrs: Mapping[str, Any]
    ) -> Launch:
        operands: dict[str, Any] = {**given, **{n: p.operand for n, p in placed.items()}}
        scratch = self._scratch(query)
        site = Site(
            self.op, Attributes(**attrs), operands,
            None if scratch is None else scratch.operand, self.device,
            self.bench.pack,
        )  # fmt: skip
        self.scratch = scratch
        try:
            return self.bench.launch(self.kernel, site)
        except Failure:
            raise
        except Exception as error:
            raise Failure("smoke", f"bind raises {_line(error)}") from error

    def _scratch(self, query: Query) -> Placed | None:
        if self.kernel.scratch is None:
            return None
        dims = {
            k: concrete(v, self.largest)
            if isinstance(v, tuple)
            else concrete((v,), self.largest)[0]
            for k, v in vars(query.dims).items()
        }
        nbytes = self.kernel.scratch(type(query.dims)(**dims), query.attrs)
        return self.bench.place("scratch", (nbytes,), "uint8", {}) if nbytes else None

    def _bind_neighbour(self, query: Query) -> None:
        """Bind another node after ours: other weights, other numbers; ours must not notice."""
        ours = self.scratch
        attrs = {k: _other(v) for k, v in self.attrs.items()}
        asked = replace(query, attrs=Attributes(**attrs))
        if self._refusal(asked) is None:
            other = replace(self.case, seed=self.case.seed + 1)
            given = self.family.arrays(self.op, other, 0)
            self._bind(asked, self._place(), given, attrs)
        self.scratch = ours

    def _step(
        self, program: Launch, placed: Mapping[str, Placed], index: int, pattern: int
    ) -> list[np.ndarray]:
        """One launch; gives outputs, or what was updated in place."""
        given = self.inputs[index]
        sizes = self.family.lengths(self.case, index) if self.case.symbolic else {}
        for name, place in placed.items():
            if isinstance(given.get(name), np.ndarray):
                self.bench.write(place, given[name])
            else:
                self.bench.fill(place, pattern)
        if self.scratch is not None:
            content = np.full(concrete(self.scratch.operand.shape, {}), pattern, np.uint8)
            self.bench.write(self.scratch, content)
        try:
            program(sizes)
            self.device.synchronize()
        except Exception as error:
            raise Failure("smoke", f"launch with {sizes} raises {_line(error)}") from error
        if self.scratch is not None:
            self.bench.read(self.scratch, {})
        self._unchanged(placed, given, sizes)
        names = [o.name for o in self.op.outputs]
        return [
            self.bench.read(placed[n], sizes, POISON if n in given else pattern)
            for n in names or self.op.updates
        ]

    def _unchanged(
        self, placed: Mapping[str, Placed], given: Arrays, sizes: Mapping[str, int]
    ) -> None:
        for name, value in given.items():
            if isinstance(value, np.ndarray) and name not in self.op.updates:
                after = self.bench.read(placed[name], sizes)
                if after.tobytes() != value.tobytes():
                    raise Failure("inputs", f"{name} is changed by the kernel")
        for name, before in self.constants.items():
            if self.inputs[0][name].data.tobytes() != before:
                raise Failure("inputs", f"the constant {name} is changed by the kernel")

    def _same(self, one: list[np.ndarray], two: list[np.ndarray], index: int) -> None:
        for a, b, name in zip(one, two, self._names(), strict=True):
            if a.tobytes() == b.tobytes():
                continue
            missed = _unwritten(a, PATTERNS[0]) & _unwritten(b, PATTERNS[1])
            if missed.any():
                at = [int(i) for i in np.argwhere(missed)[0]]
                raise Failure(
                    "writes",
                    f"{name}{at} of step {index} is never written; "
                    f"{int(missed.sum())} of {missed.size} elements in all",
                )
            raise Failure(
                "determinism",
                f"{name} of step {index} has other bits when launched again"
                f" ({_where_bits(a, b)}); it may depend on what its memory held before,"
                " on other launches, or on timing",
            )

    def _names(self) -> list[str]:
        return [o.name for o in self.op.outputs] or list(self.op.updates)

    def _judge(self, index: int, got: list[np.ndarray]) -> float:
        """The worst error of a step, in units of what is allowed."""
        family, case, given = self.family, self.case, self.inputs[index]
        want = family.reference(self.op, case, given)
        if family.exact:
            for g, w, name in zip(got, want, self._names(), strict=True):
                _identical(name, g, w, index)
            return 0.0
        rng = np.random.default_rng(case.seed)
        moved = [np.zeros(w.shape) for w in want]
        for _ in range(DRAWS):
            again = family.reference(self.op, case, family.disturbed(case, given, rng))
            for m, a, w in zip(moved, again, want, strict=True):
                np.fmax(m, np.abs(a - w), out=m)
        tolerance, floor = family.tolerance(self.op, case), family.floor(self.op, case, given)
        sizes = family.magnitude(self.op, case, given, want)
        return max(
            _compare(name, g, w, tolerance * _row(s) + SLACK * _row(m) + floor, index)
            for name, g, w, s, m in zip(self._names(), got, want, sizes, moved, strict=True)
        )


def _unwritten(array: np.ndarray, pattern: int) -> np.ndarray:
    """Where an output still holds the bytes that it was filled with."""
    raw = np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
    return np.asarray((raw == pattern).all(axis=1).reshape(array.shape))


def _identical(name: str, got: np.ndarray, want: np.ndarray, index: int) -> None:
    if got.shape != want.shape:
        raise Failure("values", f"{name} has shape {got.shape}, the definition {want.shape}")
    if got.tobytes() != want.astype(got.dtype).tobytes():
        raise Failure("values", f"{name} of step {index}: {_where_bits(got, want)}")


def _where_bits(got: np.ndarray, want: np.ndarray) -> str:
    a = np.ascontiguousarray(got).reshape(-1, 1).view(np.uint8)
    b = np.ascontiguousarray(want).reshape(-1, 1).view(np.uint8)
    at = int(np.flatnonzero((a != b).any(axis=1))[0])
    place = [int(i) for i in np.unravel_index(at, got.shape)]
    return f"at {place} {got.reshape(-1)[at]!s} and not {want.reshape(-1)[at]!s}"


def _row(v: np.ndarray) -> np.ndarray:
    """The largest finite magnitude of each row."""
    known = np.atleast_1d(np.where(np.isfinite(v), np.abs(v), 0))
    return np.asarray(known.max(axis=-1, keepdims=True, initial=0))


def _compare(
    name: str, got: np.ndarray, want: np.ndarray, allowed: np.ndarray, index: int
) -> float:
    """Largest error in units of what is allowed, and of what the output's dtype cannot hold."""
    if got.shape != want.shape:
        raise Failure("values", f"{name} has shape {got.shape}, the definition {want.shape}")
    if not got.size:
        return 0.0
    if not is_float(got):
        _identical(name, got, want, index)
        return 0.0
    rounded = want.astype(got.dtype).astype(np.float64)
    value = got.astype(np.float64)
    finite = np.isfinite(rounded)
    limit = allowed + _smallest(got.dtype.name)
    error = np.where(finite, np.abs(value - want), 0)
    odd = np.where(finite, ~np.isfinite(value), ~((value == rounded) | np.isnan(rounded)))
    units = np.where(odd, np.inf, error / limit)
    worst = float(units.max())
    if worst > 1:
        at = int(units.argmax())
        place = [int(i) for i in np.unravel_index(at, got.shape)]
        most = float(np.broadcast_to(limit, units.shape).reshape(-1)[at])
        raise Failure(
            "values",
            f"{name}{place} of step {index} is {value.reshape(-1)[at]:.9g}, the definition gives "
            f"{want.reshape(-1)[at]:.9g}; off by {error.reshape(-1)[at]:.3g}, allowed {most:.3g} "
            f"({int((units > 1).sum())} of {units.size} elements are off)",
        )
    return worst


def _smallest(dtype: str) -> float:
    """Results below it may be flushed to zero; in float16 they are rounded to its last step."""
    return {"float64": 2.3e-308, "float16": 6e-8}.get(dtype, 1.2e-38)


def _other(value: Any) -> Any:  # noqa: ANN401 - an attribute of any type
    return value * 2 if isinstance(value, float) else value


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
