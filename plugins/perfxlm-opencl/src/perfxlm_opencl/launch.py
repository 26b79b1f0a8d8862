"""Bound nodes: which kernel runs, with which arguments, over how many work-groups.

A launch is a description; `Sweep` makes the OpenCL kernel of it, with its arguments set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core.plugin import (
    Buffer,
    Dim,
    Launch,
    Operand,
    PluginError,
    Program,
    Site,
    Tensor,
    itemsize,
)

if TYPE_CHECKING:
    from perfxlm_opencl.device import OpenClDevice

Length = int | Dim


@dataclass(frozen=True)
class Units:
    """An operand, constant or buffer whose offset counts units of `size` bytes.

    A name alone counts elements of its dtype, a buffer alone bytes.
    """

    of: str | Buffer
    size: int = 1


@dataclass(frozen=True)
class Picture:
    """An image, and the pixel at which an operand begins in it."""

    image: Any
    pixel: int


Argument = str | Buffer | Units | Picture | int | float | Dim | None

KINDS = {"float32": "float", "float16": "half", "bfloat16": "bfloat", "int32": "int"}
"""dtype -> kind, as cl/storage.cl calls it."""


@dataclass(frozen=True)
class Tiles:
    """Work-groups along one dimension: one for each `per` elements of `length`, rounded up."""

    length: Length
    per: int = 1

    def count(self, sizes: Mapping[str, int]) -> int:
        """How many, under these sizes."""
        n = self.length.value(sizes) if isinstance(self.length, Dim) else self.length
        return -(-n // self.per)


@dataclass(frozen=True)
class ClLaunch:
    """One kernel over one grid; callable alone, or one of many in a program.

    Attributes:
        device: where it runs.
        program: compiled program.
        kernel: name of the kernel.
        arguments: OpenCL arguments in order: buffers, NumPy scalars, None; a `Dim` is an int that
            each step sets.
        groups: work-groups for each dimension.
        local: work-items of a group for each dimension.
        when: whether it runs at all under these sizes; None for always.
        keep: owners of the memory that it uses.
    """

    device: OpenClDevice
    program: Any
    kernel: str
    arguments: tuple[Any, ...]
    groups: tuple[Tiles, ...]
    local: tuple[int, ...]
    when: Callable[[Mapping[str, int]], bool] | None = None
    keep: tuple[Any, ...] = ()

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run this node only."""
        self._alone(sizes)

    @cached_property
    def _alone(self) -> Program:
        from perfxlm_opencl.sweep import Sweep

        return Sweep(self.device, [self], self.symbols)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the sizes that it depends on."""
        lengths = [*self.arguments, *(g.length for g in self.groups)]
        return tuple(sorted({n for d in lengths if isinstance(d, Dim) for n, _ in d.terms}))

    def global_size(self, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
        """Work-items for each dimension; None if there is nothing to do."""
        if self.when is not None and not self.when(sizes):
            return None
        groups = [g.count(sizes) for g in self.groups]
        if not all(groups):
            return None
        return tuple(g * n for g, n in zip(groups, self.local, strict=True))


@dataclass(frozen=True)
class Chain:
    """Several launches that make one node, in order."""

    parts: tuple[ClLaunch, ...] = field(default_factory=tuple)

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run this node only."""
        for part in self.parts:
            part(sizes)


def chain(*launches: ClLaunch | Chain) -> Chain:
    """One node of several launches."""
    parts: list[ClLaunch] = []
    for one in launches:
        parts.extend(one.parts if isinstance(one, Chain) else [one])
    return Chain(tuple(parts))


def by_size(
    length: Length, limit: int, small: ClLaunch | Chain, large: ClLaunch | Chain
) -> ClLaunch | Chain:
    """`small` in steps where `length` is at most `limit`, `large` in others."""
    if isinstance(length, int):
        return small if length <= limit else large

    def under(one: ClLaunch, wanted: bool) -> ClLaunch:
        before = one.when
        return replace(
            one,
            when=lambda sizes: (
                (length.value(sizes) <= limit) is wanted and (before is None or before(sizes))
            ),
        )

    parts = [under(one, True) for one in chain(small).parts]
    return Chain((*parts, *(under(one, False) for one in chain(large).parts)))


def launch(
    site: Site,
    source: str,
    kernel: str,
    arguments: Sequence[Argument],
    groups: Sequence[Tiles],
    local: Sequence[int],
    *,
    defines: Mapping[str, str | int | float] | None = None,
    program: Any = None,  # noqa: ANN401
) -> ClLaunch:
    """Bind a kernel to a site.

    Args:
        source: file in `cl/`.
        kernel: name of the kernel in it.
        arguments: names of operands and constants (a buffer and an offset in elements), `Units`
            and buffers (the same, in other units), pictures, ints and dims (`const int`), floats
            (`const float`); None, or the name of an operand that is left out: a null buffer and 0.
        groups: work-groups for each dimension.
        local: work-items of a group for each dimension.
        defines: macros of the program.
        program: the compiled program, where the caller has it already.
    """
    device = device_of(site)
    keep: list[Any] = []
    made: list[Any] = []
    for one in arguments:
        made.extend(_argument(device, site, one, keep))
    if program is None:
        program = device.programs.build(source, defines)
    return ClLaunch(
        device, program, kernel, tuple(made), tuple(groups), tuple(local), keep=tuple(keep)
    )


def device_of(site: Site) -> OpenClDevice:
    """The site's device.

    Raises:
        PluginError: it is another plugin's.
    """
    from perfxlm_opencl.device import OpenClDevice

    if not isinstance(site.device, OpenClDevice):
        raise PluginError(f"{site.op.name}: bound to {site.device.name}, not an opencl device")
    return site.device


def _argument(
    device: OpenClDevice, site: Site, given: Argument, keep: list[Any]
) -> tuple[Any, ...]:
    if isinstance(given, Dim):
        return (given,)
    if isinstance(given, float):
        return (np.float32(given),)
    if isinstance(given, int):
        return (np.int32(given),)
    if isinstance(given, Picture):
        return (given.image, np.int32(given.pixel))
    unit = given.size if isinstance(given, Units) else None
    named = given.of if isinstance(given, Units) else given
    found: Any = site.operands.get(named) if isinstance(named, str) else named
    if found is None:
        return (None, np.uint64(0))
    offset, size = 0, 1
    if isinstance(found, Tensor):
        size = 1 if found.is_quantized else itemsize(found.format)
        found = device.constant(site, found)
    elif isinstance(found, Operand):
        offset, size = found.offset, itemsize(found.dtype)
        found = found.buffer
    if not isinstance(found, Buffer):
        raise PluginError(f"{site.op.name}: {given!r} is no argument of a kernel")
    keep.append(found)
    start, rest = divmod(found.handle.offset + offset, unit or size)
    if rest:
        raise PluginError(f"{site.op.name}: {given!r} does not begin at a whole element")
    return (found.handle.memory, np.uint64(start))


def shape_of(site: Site, name: str) -> tuple[Length, ...]:
    """Shape of an operand or constant."""
    found = site.operands[name]
    if found is None:
        raise PluginError(f"{site.op.name}: {name} is missing")
    return tuple(found.shape)


def dtype_of(site: Site, name: str) -> str:
    """Dtype of an operand, dtype or format of a constant."""
    found = site.operands[name]
    if found is None:
        raise PluginError(f"{site.op.name}: {name} is missing")
    return found.format if isinstance(found, Tensor) else found.dtype


def kind_of(site: Site, name: str) -> str:
    """How an operand or plain constant is stored: float, half, bfloat or int."""
    dtype = dtype_of(site, name)
    if dtype not in KINDS:
        raise PluginError(f"{site.op.name}: {name} is {dtype}, want one of {', '.join(KINDS)}")
    return KINDS[dtype]


def kinds(site: Site, first: str, *others: str) -> dict[str, str]:
    """ACT of a program, and RESULT and OTHER of cl/storage.cl where they are not the same.

    Args:
        first: the input that ACT is the kind of.
        others: inputs beside it, of one kind; those that are given.
    """
    made = {"ACT": kind_of(site, first)}
    beside = [n for n in others if site.operands.get(n) is not None]
    found = {"RESULT": "out", **({"OTHER": beside[0]} if beside else {})}
    return made | {k: kind_of(site, n) for k, n in found.items() if kind_of(site, n) != made["ACT"]}


def constant(site: Site, name: str, axis: int) -> int:
    """A dimension that no step changes.

    Raises:
        PluginError: it depends on a step.
    """
    length = shape_of(site, name)[axis]
    if isinstance(length, Dim):
        raise PluginError(f"{site.op.name}: dimension {axis} of {name} is {length}, not a constant")
    return int(length)


def count(shape: Sequence[Length]) -> Length:
    """Number of elements.

    Raises:
        PluginError: two dimensions change.
    """
    total: Length = 1
    for length in shape:
        if isinstance(length, int):
            total = total * length
        elif isinstance(total, int):
            total = length * total
        else:
            raise PluginError(f"a shape has two dimensions that change, {total} and {length}")
    return total


__all__ = [
    "KINDS",
    "Argument",
    "Chain",
    "ClLaunch",
    "Launch",
    "Length",
    "Picture",
    "Tiles",
    "Units",
    "by_size",
    "chain",
    "constant",
    "count",
    "device_of",
    "dtype_of",
    "kind_of",
    "launch",
    "shape_of",
]
