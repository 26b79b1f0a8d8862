"""The rows of the table before they are filled: which kernels are tried with which types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.conformance.case import Case, Variant
from perfxlm_core.conformance.device import CHECKS, DeviceCase
from perfxlm_core.conformance.structured import dtypes_of, family_of, known_operators
from perfxlm_core.conformance.target import Executor, Facts, KernelFacts
from perfxlm_core.errors import ArgumentError
from perfxlm_core.ops.spec import Op

PLAIN = ("float32", "float16", "bfloat16")
"""Types of weights and caches that are tried where a kernel names none."""
REFERENCE = "reference"
"""Status of an operator that the plugin has no kernel for."""
MODEL, GRAPH = "model", "graph"
DEVICE = "device"
"""The row of the device itself: memory, copies, programs."""
PLANS = (MODEL, GRAPH)
"""Rows of whole plans: models of installed recipes, and random graphs."""
PLAN = -1
"""The index of all kernels together; each architecture has a smaller one."""
UNCOVERED = "not covered"
"""Status of a kernel whose operator the kit cannot make inputs for."""


@dataclass(frozen=True)
class Slot:
    """A kernel with these types, or none.

    Attributes:
        op: operator's name.
        kernel: what is tried; None where the plugin has nothing for the operator.
        variant: types.
        note: why there is nothing to try: REFERENCE or UNCOVERED; None if there is.
        reason: more about the note.
        composites: for random graphs: the plugin's composite operators.
    """

    op: str
    kernel: KernelFacts | None
    variant: Variant
    note: str | None = None
    reason: str | None = None
    composites: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For progress and tests: `cpu.linear-float32-q4_0`, `model-LlamaForCausalLM`."""
        if self.kernel is None:
            return self.op
        if self.op in (DEVICE, *PLANS):
            return f"{self.op}-{self.kernel.name}"
        types = (self.variant.dtype, self.variant.label)
        return "-".join([self.kernel.name, *(t for t in types if t != "-")])

    def cases(self, large: bool = False, like: Case | None = None) -> st.SearchStrategy[Any]:
        """Cases to try; with `large`, of sizes that real models have; for `like` see `Family`."""
        if self.op == DEVICE:
            return st.sampled_from([DeviceCase(check) for check in CHECKS])
        if self.op in PLANS:
            return self._plans(large)
        op = operator(self.op)
        family = None if op is None else family_of(op)
        assert op is not None
        assert family is not None
        return family.cases(op, self.variant, large, like)

    def count(self, examples: int) -> int:
        """How many cases, where kernels get `examples`: plans take longer."""
        if self.op == DEVICE:
            return 4 * len(CHECKS)
        if self.op == MODEL:
            return max(3, examples // 10)
        return max(1, examples // 2) if self.op == GRAPH else examples

    def _plans(self, large: bool) -> st.SearchStrategy[Any]:
        from perfxlm_core.conformance.plans import graph_cases, model_cases

        assert self.kernel is not None
        if self.op == MODEL:
            return model_cases(self.kernel.name, large)
        return graph_cases(large, self.composites)


def operator(name: str) -> Op[..., Any] | None:
    """The core's operator of this name; None if it is a plugin's own."""
    return known_operators().get(name)


def operators() -> tuple[Op[..., Any], ...]:
    """The operators that plans of language models are made of and that kernels implement.

    Not `attention`: before it is planned, a graph's becomes `store_kv` and `paged_attention`; nor
    `reshape`, which a plan makes a view.
    """
    every = [getattr(ops, name) for name in ops.__all__ if name not in ("attention", "reshape")]
    return tuple(o for o in every if not o.composite and family_of(o) is not None)


def slots(target: Executor, only: str | None = None) -> list[Slot]:
    """Everything there is to try.

    Args:
        target: the plugin.
        only: name of the one operator to look at; "device" is the device itself, "model" and
            "graph" are whole plans.

    Raises:
        ArgumentError: there is no such operator.
    """
    facts = target.facts
    every = [DEVICE, *(o.name for o in operators()), *(k.op for k in facts.kernels), *PLANS]
    names = list(dict.fromkeys(every))
    if only is not None and only not in names:
        raise ArgumentError(f"no operator is called {only!r}; there are {', '.join(sorted(names))}")
    wanted = names if only is None else [only]
    return [slot for name in wanted for slot in _of_operator(facts, name)]


def _of_operator(facts: Facts, name: str) -> list[Slot]:
    if name == DEVICE:
        return [Slot(DEVICE, KernelFacts(DEVICE, facts.device, index=PLAN), Variant("-"))]
    if name in PLANS:
        return _of_plans(facts, name)
    op = operator(name)
    kernels = [k for k in facts.kernels if k.op == name]
    if not kernels:
        return [Slot(name, None, Variant("-"), REFERENCE)]
    if op is None or family_of(op) is None:
        return [Slot(name, k, Variant("-"), UNCOVERED) for k in kernels]
    return [Slot(name, k, v) for k in kernels for v in variants(facts, op, k)]


def _of_plans(facts: Facts, name: str) -> list[Slot]:
    if name == GRAPH:
        kernel = KernelFacts(GRAPH, "random", index=PLAN)
        return [Slot(GRAPH, kernel, Variant("-"), composites=facts.composites)]
    from perfxlm_core.conformance.plans import architectures, untried

    found: list[tuple[str, str | None, str | None]] = [(a, None, None) for a in architectures()]
    found += [(a, UNCOVERED, reason) for a, reason in untried().items()]
    return [
        Slot(MODEL, KernelFacts(MODEL, name, index=PLAN - i), Variant("-"), note, reason)
        for i, (name, note, reason) in enumerate(found, start=1)
    ]


def variants(facts: Facts, op: Op[..., Any], kernel: KernelFacts) -> list[Variant]:
    """The types that a kernel says it takes, those of the definition and the device.

    Where there are weights and a cache, a row has one type of weights and any of the cache.
    """
    names = {p.dtype.name: p.dtype for p in op.params}
    dtypes = dtypes_of(op, kernel.dtypes, facts.dtypes)
    formats = list(kernel.formats or PLAIN) if "W" in names else [None]
    caches = tuple(kernel.cache_dtypes or PLAIN) if "C" in names else ()
    if "W" in names and caches:
        return [Variant(d, f, caches[0], caches) for d in dtypes for f in formats]
    return [Variant(d, f, c) for d in dtypes for f in formats for c in caches or [None]]
