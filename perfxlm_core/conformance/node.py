"""A node: a kernel bound to operands in a device's memory, and launched with the arrays of a case.

It is bound as a plan binds it, through `Query`, `Site` and `Device.program`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from perfxlm_core.conformance.arrays import flat
from perfxlm_core.conformance.bench import Bench, Placed, Wanted
from perfxlm_core.conformance.case import Case, Failure
from perfxlm_core.conformance.dimensions import shape_of
from perfxlm_core.conformance.family import Arrays, Family
from perfxlm_core.conformance.judge import results_of
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import TensorType, type_of
from perfxlm_core.ops.types import concrete
from perfxlm_core.registry.device import Launch, Program, kind_of
from perfxlm_core.registry.kernels import Attributes, Kernel, Query, Site

PATTERNS = (0xFF, 0x5A)
"""What outputs and scratch memory hold before the first launch of a step, and the second."""
POISONS = (0xFF, 0x4B)
"""Every byte around inputs, in the first launch and the second: NaN in each float dtype and -1 in
each integer one; then large finite numbers."""
ROOM = 40
"""Rows that a kernel which promises batch invariance has room for, at least."""


class Node:
    """A node of a case; `bind` comes before `launch`.

    Args:
        bench: where its operands are placed.
        kernel: what runs it.
        family: of the operator.
        case: what it computes.
        shared: input -> another input whose array and memory it is given.
    """

    def __init__(
        self,
        bench: Bench,
        kernel: Kernel,
        family: Family,
        case: Case,
        shared: Mapping[str, str] | None = None,
    ) -> None:
        self.bench, self.kernel, self.family, self.case = bench, kernel, family, case
        self.op, self.shared = kernel.op, dict(shared or {})
        self.attrs = family.full_attributes(self.op, case)
        self.inputs = [self._arrays(i) for i in range(len(case.steps))]
        self.types = self._types()
        self.largest = self._largest()
        self.query = Query.of(
            self.op, self.types, self.attrs,
            [n for n, v in self.inputs[0].items() if isinstance(v, Tensor)],
            kind_of(bench.device),
        )  # fmt: skip
        self.outputs = self._output_types()
        self.placed: dict[str, Placed] = {}
        self.scratch: Placed | None = None
        self.constants: dict[str, tuple[Tensor, bytes]] = {}
        self.program: Program | None = None

    def elsewhere(self, bench: Bench) -> Node:
        """The same node on another bench, not bound yet."""
        other = copy(self)
        other.bench = bench
        return other

    def _arrays(self, index: int) -> Arrays:
        made = self.family.arrays(self.op, self.case, index)
        return {n: made[self.shared.get(n, n)] for n in made}

    def _types(self) -> dict[str, Any]:
        """Types of the inputs as the kernel sees them when it is bound."""
        env = self.family.environment(self.op, self.case, None)
        found: dict[str, Any] = {}
        for param in self.op.params:
            value = self.inputs[0][param.name]
            given = type_of(value)
            if isinstance(value, np.ndarray):
                shape = (
                    shape_of(param, env)
                    if not param.any_shape
                    else self.family.open_shape(param, env)
                )
                given = given if shape is None else TensorType(shape, given.dtype)
            found[param.name] = given
        return found

    def _largest(self) -> dict[str, int]:
        if not self.case.symbolic:
            return {}
        most = self.family.largest(self.op, self.case)
        return {n: max(v, ROOM) if self.kernel.promises_rows else v for n, v in most.items()}

    def _output_types(self) -> list[TensorType]:
        """Types of the outputs; where only the numbers decide a shape, what they decide."""
        made = list(self.op.infer(self.types, self.attrs))
        if any(m.shape is None for m in made):
            first = self.family.reference(self.op, self.case, self.inputs[0])
            made = [
                m if m.shape is not None else TensorType(f.shape, m.dtype)
                for m, f in zip(made, first, strict=True)
            ]
        return made

    def refusal(self) -> str | None:
        """Why the kernel does not take the node; None if it does.

        Raises:
            Failure: it does not say why, or cannot tell.
        """
        return refusal(self.kernel, self.query)

    def bind(self, poison: int = POISONS[0]) -> None:
        """Place operands and bind the kernel.

        Args:
            poison: bytes around constants.

        Raises:
            Failure: the kernel raises, or returns something else than a launch.
        """
        values = flat(self.inputs[0])
        self.constants = {
            n: (self.bench.constant(v, poison), v.data.tobytes())
            for n, v in values.items()
            if isinstance(v, Tensor)
        }
        self._place(values)
        operands = {n: self._operand(n, v) for n, v in self.inputs[0].items()}
        operands |= {o.name: self.placed[o.name].operand for o in self.op.outputs}
        site = Site(
            self.op, Attributes(**self.attrs), operands,
            None if self.scratch is None else self.scratch.operand,
            self.bench.device, self.bench.pack,
        )  # fmt: skip
        self.program = self.bench.device.program([self._launch(site)], tuple(self.largest))

    def _launch(self, site: Site) -> Launch:
        try:
            return self.bench.launch(self.kernel, site)
        except Failure:
            raise
        except Exception as error:
            raise Failure("smoke", f"bind raises {in_a_line(error)}") from error

    def _place(self, values: Arrays) -> None:
        """Memory for inputs that are not constants, outputs, and scratch."""
        types = flat(self.types)
        wanted = [
            Wanted(n, types[n].shape, v.dtype.name)
            for n, v in values.items()
            if isinstance(v, np.ndarray) and n not in self.shared
        ]
        wanted += [
            Wanted(o.name, m.shape or (), m.dtype)
            for o, m in zip(self.op.outputs, self.outputs, strict=True)
        ]
        scratch = self._scratch_bytes()
        if scratch:
            wanted.append(Wanted("scratch", (scratch,), "uint8"))
        places = self.bench.place(wanted, self.largest)
        self.placed = {w.name: p for w, p in zip(wanted, places, strict=True)}
        self.placed |= {n: self.placed[other] for n, other in self.shared.items()}
        self.scratch = self.placed.pop("scratch", None) if scratch else None

    def _scratch_bytes(self) -> int:
        if self.kernel.scratch is None:
            return 0
        dims = {
            k: concrete(v, self.largest)
            if isinstance(v, tuple)
            else concrete((v,), self.largest)[0]
            for k, v in vars(self.query.dims).items()
        }
        return self.kernel.scratch(type(self.query.dims)(**dims), self.query.attrs)

    def _operand(self, name: str, value: Any) -> Any:  # noqa: ANN401 - what `Site.operands` holds
        if isinstance(value, list | tuple):
            return tuple(self._operand(key, v) for key, v in flat({name: value}).items())
        if isinstance(value, Tensor):
            return self.constants[name][0]
        return None if value is None else self.placed[name].operand

    def sizes(self, index: int) -> dict[str, int]:
        """Lengths of the symbols in a step."""
        return self.family.lengths(self.case, index) if self.case.symbolic else {}

    def step(
        self, index: int, pattern: int = PATTERNS[0], poison: int = POISONS[0]
    ) -> list[np.ndarray]:
        """One of the case's launches; for the rest see `launch`."""
        return self.launch(self.inputs[index], self.sizes(index), pattern, poison)

    def launch(
        self,
        given: Arrays,
        sizes: Mapping[str, int],
        pattern: int = PATTERNS[0],
        poison: int = POISONS[0],
    ) -> list[np.ndarray]:
        """Launch with any inputs; gives the outputs and what was updated in place.

        Args:
            given: inputs; constants are those that the node was bound with.
            sizes: lengths of the symbols.
            pattern: bytes of outputs and scratch memory before.
            poison: bytes around inputs.

        Raises:
            Failure: the kernel raises, or writes where it must not.
        """
        assert self.program is not None
        values = flat(given)
        self._fill(values, pattern, poison)
        try:
            self.program(sizes)
            self.bench.device.synchronize()
        except Exception as error:
            raise Failure("smoke", f"launch with {sizes} raises {in_a_line(error)}") from error
        if self.scratch is not None:
            self.bench.read(self.scratch, {}, poison)
        self._unchanged(values, sizes, poison)
        return [
            self.bench.read(self.placed[n], sizes, poison if n in values else pattern)
            for n in results_of(self.op)
        ]

    def _fill(self, values: Arrays, pattern: int, poison: int) -> None:
        for name, place in self.placed.items():
            if isinstance(values.get(name), np.ndarray):
                self.bench.write(place, values[name], poison)
            else:
                self.bench.fill(place, pattern)
        if self.scratch is not None:
            content = np.full(concrete(self.scratch.operand.shape, {}), pattern, np.uint8)
            self.bench.write(self.scratch, content, poison)

    def _unchanged(self, values: Arrays, sizes: Mapping[str, int], poison: int) -> None:
        for name, value in values.items():
            if isinstance(value, np.ndarray) and name not in self.op.updates:
                after = self.bench.read(self.placed[name], sizes, poison)
                if after.tobytes() != value.tobytes():
                    raise Failure("inputs", f"{name} is changed by the kernel")
        for name, (tensor, before) in self.constants.items():
            if tensor.data.tobytes() != before:
                raise Failure("inputs", f"the constant {name} is changed by the kernel")


def refusal(kernel: Kernel, query: Query) -> str | None:
    """The reason that a kernel gives for not taking a node; None if it takes it.

    Raises:
        Failure: it does not say why, raises, or says something else the second time.
    """
    try:
        reason, again = kernel.refusal(query), kernel.refusal(query)
        answer = True if kernel.when is None else kernel.when(query.dims, query.attrs)
    except Exception as error:
        raise Failure("refusals", f"`when` raises {in_a_line(error)}") from error
    if not isinstance(answer, bool | np.bool_):
        raise Failure("refusals", f"`when` answers {answer!r}, which is neither True nor False")
    if reason != again:
        raise Failure("refusals", f"asked twice, the kernel says {reason!r} and then {again!r}")
    if reason is not None and not (isinstance(reason, str) and reason.strip()):
        raise Failure("refusals", "the case is declined without a reason")
    return reason


def in_a_line(error: Exception) -> str:
    """An error's type and text, without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
