"""All cases of a plugin: which kernels with which types, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import errors as hypothesis_errors

from perfxlm_core import ops
from perfxlm_core.conformance.case import Case, Failure, Variant
from perfxlm_core.conformance.check import run_case
from perfxlm_core.conformance.structured import family_of
from perfxlm_core.errors import ArgumentError, DeviceError, PluginError
from perfxlm_core.ops.spec import Op
from perfxlm_core.registry.device import Device
from perfxlm_core.registry.kernels import Kernel
from perfxlm_core.registry.plugins import load_plugins

PLAIN = ("float32", "float16", "bfloat16")
"""Types of weights and caches that are tried where a kernel names none."""
EXAMPLES = 60
"""Cases for each row of the table."""


@dataclass(frozen=True)
class Target:
    """What is tested.

    Attributes:
        name: the plugin's, for messages.
        device: its first.
        kernels: those that run on this kind of device.
    """

    name: str
    device: Device
    kernels: tuple[Kernel, ...]

    @staticmethod
    def of(name: str, device: Device, kernels: Iterable[Kernel]) -> Target:
        """The kernels among `kernels` that run on `device`."""
        kind = device.name.split(":")[0]
        return Target(name, device, tuple(k for k in kernels if k.device == kind))

    @staticmethod
    def load(name: str) -> Target:
        """An installed plugin, by its own name or that of one of its devices.

        Raises:
            PluginError: it is broken, or not installed.
            DeviceError: it finds no device on this machine.
        """
        plugins = load_plugins()
        found = next((r for r in plugins.report if r.name == name.split(":")[0]), None)
        if found is not None and found.error:
            raise PluginError(f"plugin {name} ({found.distribution}) is broken: {found.error}")
        if found is not None and not found.devices:
            raise DeviceError(f"plugin {name} ({found.distribution}) has no device on this machine")
        device = plugins.device(name) if found is None or ":" in name else found.devices[0]
        every = [k for kernels in plugins.registry.kernels.values() for k in kernels]
        return Target.of(name, device, every)


@dataclass(frozen=True)
class Slot:
    """A row of the table before it is filled: a kernel with these types, or none."""

    op: Op[..., Any]
    kernel: Kernel | None
    variant: Variant


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        op: operator's name.
        kernel: kernel's name; None where the plugin has none.
        dtype: of activations.
        format: of weights or cache; "-" where there are none.
        passed: cases that ran and were right.
        declined: cases that the kernel did not take.
        worst: largest error in units of what is allowed.
        failure: what is wrong, in a line; None if nothing is.
        case: the smallest case that shows it.
        note: for rows without cases, why.
    """

    op: str
    kernel: str | None
    dtype: str = "-"
    format: str = "-"
    passed: int = 0
    declined: int = 0
    worst: float = 0.0
    failure: str | None = None
    case: Case | None = None
    note: str | None = None

    @property
    def status(self) -> str:
        """One of passed, declined, failed, not implemented, not covered."""
        if self.failure is not None:
            return "failed"
        if self.note is not None:
            return self.note
        return "passed" if self.passed else "declined"


def operators() -> tuple[Op[..., Any], ...]:
    """The operators that plans of language models are made of and that kernels implement.

    Not `attention`: before it is planned, a graph's becomes `store_kv` and `paged_attention`.
    """
    every = [getattr(ops, name) for name in ops.__all__ if name != "attention"]
    return tuple(o for o in every if not o.composite and family_of(o) is not None)


def slots(target: Target, only: str | None = None) -> list[Slot]:
    """Everything there is to try.

    Args:
        target: the plugin.
        only: name of the one operator to look at.

    Raises:
        ArgumentError: there is no such operator.
    """
    known = {o.name: o for o in (*operators(), *(k.op for k in target.kernels))}
    if only is not None and only not in known:
        raise ArgumentError(f"no operator is called {only!r}; there are {', '.join(sorted(known))}")
    found: list[Slot] = []
    for name, op in known.items():
        kernels = [k for k in target.kernels if k.op.name == name]
        if only not in (None, name):
            continue
        if not kernels or family_of(op) is None:
            found += [Slot(op, k, Variant("-")) for k in kernels]
            found += [] if kernels else [Slot(op, None, Variant("-"))]
        for kernel in kernels if family_of(op) is not None else []:
            found += [Slot(op, kernel, v) for v in variants(target.device, kernel)]
    return found


def variants(device: Device, kernel: Kernel) -> list[Variant]:
    """The types that a kernel says it takes, those of the definition and the device."""
    names = {p.dtype.name: p.dtype for p in kernel.op.params}
    embedding = "dtype" in kernel.op.attributes
    takes_floats = "T" in names or "F" in names or embedding
    dtypes = list(kernel.dtypes or device.dtypes()) if takes_floats else ["float32"]
    if "ANY" in names:
        dtypes = [*dict.fromkeys([*(kernel.dtypes or device.dtypes()), "float16", "int32"])]
    formats = list(kernel.formats or PLAIN) if "W" in names else [None]
    caches = list(kernel.cache_dtypes or PLAIN) if "C" in names else [None]
    return [Variant(d, f, c) for d in dtypes for f in formats for c in caches]


def run_slot(target: Target, slot: Slot, examples: int = EXAMPLES, start: int = 0) -> Row:
    """Try a kernel with many cases; the first that fails is made as small as it gets.

    Args:
        target: the plugin.
        slot: what to try.
        examples: how many cases.
        start: seed of the cases.
    """
    kernel, variant, family = slot.kernel, slot.variant, family_of(slot.op)
    if kernel is None:
        return Row(slot.op.name, None, note="not implemented")
    if family is None:
        return Row(slot.op.name, kernel.name, note="not covered")
    passed, declined, worst = 0, 0, 0.0
    failed: tuple[Case, Failure] | None = None

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(family.cases(slot.op, variant))
    def attempt(case: Case) -> None:
        nonlocal passed, declined, worst, failed
        try:
            outcome = run_case(target.device, kernel, case)
        except Failure as failure:
            failed = (case, failure)
            raise
        passed += outcome.declined is None
        declined += outcome.declined is not None
        worst = max(worst, outcome.worst)

    try:
        attempt()
    except (Failure, hypothesis_errors.Flaky):
        assert failed is not None
    case, failure = failed or (None, None)
    text = None if failure is None else str(failure)
    return Row(
        slot.op.name, kernel.name, variant.dtype, variant.label, passed, declined, worst, text, case
    )


def run(
    target: Target, only: str | None = None, examples: int = EXAMPLES, start: int = 0
) -> Iterator[Row]:
    """Rows of the table, as they are done; for arguments see `slots` and `run_slot`."""
    for slot in slots(target, only):
        yield run_slot(target, slot, examples, start)


def check(target: Target | str, case: Case, *, kernel: str | None = None) -> list[float]:
    """Try one case: what a failure's Python does.

    Args:
        target: the plugin, or its name.
        case: the case.
        kernel: name of the kernel; None for all that take it.

    Returns:
        For each kernel that took it, the worst error in units of what is allowed.

    Raises:
        Failure: a kernel is wrong.
        ArgumentError: the plugin has no such kernel, or none of its kernels takes the case.
    """
    found = Target.load(target) if isinstance(target, str) else target
    kernels = [k for k in found.kernels if k.op.name == case.op and kernel in (None, k.name)]
    outcomes = [(k, run_case(found.device, k, case)) for k in kernels]
    taken = [o.worst for _, o in outcomes if o.declined is None]
    if not taken:
        reasons = "; ".join(f"{k.name}: {o.declined}" for k, o in outcomes) or "it has none"
        raise ArgumentError(f"no kernel of {found.name} runs this {case.op}: {reasons}")
    return taken


def snippet(target: str, row: Row) -> str:
    """A few lines of Python that show a row's failure again."""
    return (
        "from perfxlm_core.conformance import Case, check\n\n"
        f"case = {row.case!r}\n"
        f"check({target!r}, case, kernel={row.kernel!r})"
    )
