"""Results against the definition: how far off they are, in units of what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perfxlm_core.conformance.arrays import is_float
from perfxlm_core.conformance.case import Case, Failure
from perfxlm_core.conformance.family import Arrays, Family
from perfxlm_core.ops.spec import Op

SLACK = 10
"""How many times the effect of a rounding error of the inputs a kernel may be off, beyond its
tolerance: sums that cancel are no kernel's fault."""
DRAWS = 4
"""How often that effect is sampled; its largest counts."""


def results_of(op: Op[..., Any]) -> list[str]:
    """Names of what a launch gives: outputs, and what is updated in place."""
    return [*(o.name for o in op.outputs), *op.updates]


def judge(
    family: Family,
    op: Op[..., Any],
    case: Case,
    given: Arrays,
    got: Sequence[np.ndarray],
    where: str,
) -> float:
    """The worst error of a launch, in units of what is allowed.

    What rounding errors of the inputs would change is looked at only where the tolerance alone
    does not do.

    Args:
        family: of the operator.
        op: the operator.
        case: for attributes and types.
        given: inputs of the launch.
        got: its results.
        where: which launch, for messages.

    Raises:
        Failure: an error is larger than is allowed.
    """
    want, names = family.reference(op, case, given), results_of(op)
    if family.exact:
        for g, w, name in zip(got, want, names, strict=True):
            identical(name, g, w, where)
        return 0.0
    tolerance, floor = family.tolerance(op, case), family.floor(op, case, given)
    sizes = family.magnitude(op, case, given, want)
    allowed = [tolerance * _row(s) + floor for s in sizes]
    results = list(zip(names, got, want, strict=True))
    try:
        return max(_compare(*r, a, where) for r, a in zip(results, allowed, strict=True))
    except Failure:
        moved = _moved(family, op, case, given, want)
    return max(
        _compare(*r, a + SLACK * _row(m), where)
        for r, a, m in zip(results, allowed, moved, strict=True)
    )


def _moved(
    family: Family, op: Op[..., Any], case: Case, given: Arrays, want: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """How far rounding errors of the inputs move each element of the results."""
    rng = np.random.default_rng(case.seed)
    moved = [np.zeros(w.shape) for w in want]
    for _ in range(DRAWS):
        again = family.reference(op, case, family.disturbed(case, given, rng))
        for m, a, w in zip(moved, again, want, strict=True):
            np.fmax(m, np.abs(a - w), out=m)
    return moved


def identical(name: str, got: np.ndarray, want: np.ndarray, where: str) -> None:
    """Raise Failure unless both arrays have the same shape and bits."""
    if got.shape != want.shape:
        raise Failure("values", f"{name} has shape {got.shape}, the definition {want.shape}")
    if got.tobytes() != want.astype(got.dtype).tobytes():
        raise Failure("values", f"{name} of {where}: {first_difference(got, want)}")


def first_difference(got: np.ndarray, want: np.ndarray) -> str:
    """The first element whose bits differ, in words."""
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
    name: str, got: np.ndarray, want: np.ndarray, allowed: np.ndarray, where: str
) -> float:
    """Largest error in units of what is allowed, and of what the output's dtype cannot hold."""
    if got.shape != want.shape:
        raise Failure("values", f"{name} has shape {got.shape}, the definition {want.shape}")
    if not got.size:
        return 0.0
    if not is_float(got):
        identical(name, got, want, where)
        return 0.0
    rounded = want.astype(got.dtype).astype(np.float64)
    value = got.astype(np.float64)
    finite = np.isfinite(rounded)
    limit = allowed + _smallest(got.dtype.name)
    error = np.where(finite, np.abs(value - want), 0)
    odd = np.where(finite, ~np.isfinite(value), ~((value == rounded) | np.isnan(rounded)))
    over = _overflows(value, want, limit, _largest(got.dtype.name))
    error, odd = np.where(over, 0, error), odd & ~over
    units = np.where(odd, np.inf, error / limit)
    worst = float(units.max())
    if worst > 1:
        at = int(units.argmax())
        place = [int(i) for i in np.unravel_index(at, got.shape)]
        most = float(np.broadcast_to(limit, units.shape).reshape(-1)[at])
        raise Failure(
            "values",
            f"{name}{place} of {where} is {value.reshape(-1)[at]:.9g}, the definition gives "
            f"{want.reshape(-1)[at]:.9g}; off by {error.reshape(-1)[at]:.3g}, allowed {most:.3g} "
            f"({int((units > 1).sum())} of {units.size} elements are off)",
        )
    return worst


def _overflows(
    value: np.ndarray, want: np.ndarray, limit: np.ndarray, largest: float
) -> np.ndarray:
    """Where the largest number of the dtype is within what is allowed, and a result beyond it."""
    close = np.isfinite(want) & (np.abs(want) + limit >= largest)
    infinite = np.isinf(value) & (np.sign(value) == np.sign(want))
    return np.asarray(close & (infinite | (np.abs(value - want) <= limit)))


def _largest(dtype: str) -> float:
    """The largest finite number."""
    return {
        "float64": 1.7976931348623157e308,
        "float16": 65504.0,
        "bfloat16": 3.3895313892515355e38,
    }.get(dtype, 3.4028234663852886e38)


def _smallest(dtype: str) -> float:
    """Results below it may be flushed to zero; in float16 they are rounded to its last step."""
    return {"float64": 2.3e-308, "float16": 6e-8}.get(dtype, 1.2e-38)
