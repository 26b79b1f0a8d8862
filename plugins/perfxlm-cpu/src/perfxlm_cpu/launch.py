"""Bound nodes: what a kernel's `bind` hands to the device, and how a list of them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from perfxlm_core.plugin import (
    Dim,
    Launch,
    Operand,
    PluginError,
    Program,
    Site,
    Span,
    Tensor,
    itemsize,
    timed,
)
from perfxlm_cpu import _native

if TYPE_CHECKING:
    from perfxlm_cpu.device import CpuDevice

Length = int | Dim


class NativeLaunch:
    """A node as its native kernel wants it; callable alone, or one of many in a program.

    Attributes:
        node: kernel's name and arguments, addresses among them.
        device: whose pool and instruction set run it.
        keep: owners of the memory that the addresses point to.
        symbols: names of the sizes that it depends on.
    """

    def __init__(
        self, device: CpuDevice, node: _native.Node, keep: Sequence[Any], symbols: Sequence[str]
    ) -> None:
        self.device = device
        self.node = node
        self.keep = tuple(keep)
        self.symbols = tuple(symbols)
        self._alone: Program | None = None

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run this node only."""
        if self._alone is None:
            self._alone = NativeProgram([self], self.symbols)
        self._alone(sizes)


def launch(
    site: Site,
    kernel: str,
    pointers: Sequence[str | np.ndarray | None],
    sizes: Sequence[Length] = (),
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
) -> NativeLaunch:
    """Bind the native kernel called `kernel` to a site.

    Args:
        pointers: operands by name (float constants too; null where left out), or host arrays.
        sizes: dimensions that may change with each step.
        ints: constant dimensions and choices, in the kernel's order.
        floats: attributes, in the kernel's order.
    """
    from perfxlm_cpu.device import CpuDevice

    if not isinstance(site.device, CpuDevice):
        raise PluginError(f"{site.op.name}: bound to {site.device.name}, which is not a cpu device")
    keep: list[Any] = []
    addresses = [_address(site, p, keep) for p in pointers]
    accesses = [(a, *_extent(site, p)) for a, p in zip(addresses, pointers, strict=True)]
    node = _native.Node(
        kernel,
        addresses,
        [_terms(size) for size in sizes],
        list(ints),
        list(floats),
        [a for a in accesses if a[1] != (0, [])],
    )
    lengths = [*sizes, *(d for p in pointers for d in _placed_shape(site, p))]
    symbols = sorted({n for d in lengths if isinstance(d, Dim) for n, _ in d.terms})
    return NativeLaunch(site.device, node, keep, symbols)


def _terms(length: Length) -> tuple[int, list[tuple[str, int]]]:
    return (length.offset, list(length.terms)) if isinstance(length, Dim) else (length, [])


def _placed_shape(site: Site, pointer: str | np.ndarray | None) -> tuple[Length, ...]:
    found = site.operands.get(pointer) if isinstance(pointer, str) else None
    return tuple(found.shape) if isinstance(found, Operand) else ()


def _extent(
    site: Site, pointer: str | np.ndarray | None
) -> tuple[tuple[int, list[tuple[str, int]]], bool]:
    """Bytes of a placed operand, and whether the node writes it; no bytes for constants."""
    found = site.operands.get(pointer) if isinstance(pointer, str) else None
    if not isinstance(found, Operand):
        return (0, []), False
    written = {*site.op.updates, *(out.name for out in site.op.outputs)}
    nbytes = count([*found.shape, itemsize(found.dtype)])
    return _terms(nbytes), pointer in written


def _address(site: Site, pointer: str | np.ndarray | None, keep: list[Any]) -> int:
    value: Any = site.operands.get(pointer) if isinstance(pointer, str) else pointer
    if value is None:
        return 0
    if isinstance(value, Tensor):
        value = np.ascontiguousarray(value.float32())
    if isinstance(value, Operand):
        keep.append(value.buffer)
        return int(value.buffer.handle.ctypes.data) + value.offset
    keep.append(value)
    return int(value.ctypes.data)


def shape_of(site: Site, name: str) -> tuple[Length, ...]:
    """Shape of an operand or constant."""
    found = site.operands[name]
    if found is None:
        raise PluginError(f"{site.op.name}: {name} is missing")
    if isinstance(found, tuple):
        raise PluginError(f"{site.op.name}: {name} is {len(found)} operands, not one")
    return tuple(found.shape)


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
    """Number of elements."""
    total: Length = 1
    for length in shape:
        total = total * length if isinstance(length, int) else length * _constant_factor(total)
    return total


def _constant_factor(length: Length) -> int:
    if isinstance(length, Dim):
        raise PluginError(f"a shape has two dimensions that change, one of them {length}")
    return length


class NativeProgram:
    """One native call for a list of launches."""

    def __init__(self, launches: Sequence[NativeLaunch], symbols: Sequence[str]) -> None:
        device = launches[0].device
        nodes = [one.node for one in launches]
        self._native = _native.Program(device.pool, device.variant, nodes, list(symbols))
        self._symbols = tuple(symbols)
        self._keep = tuple(launches)
        self._times = np.zeros((0, 0, 3), np.int64)
        self._threads = device.pool.threads

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run all."""
        self._native.run(*[sizes[name] for name in self._symbols])

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        """Run all, timed; a lane is a thread."""
        if not self._times.size:
            self._times = np.zeros((self._threads, self._native.nodes, 3), np.int64)
        self._native.run_timed(self._times.ctypes.data, *[sizes[name] for name in self._symbols])
        return [
            Span(launch, lane, *times)
            for lane, walk in enumerate(self._times.tolist())
            for launch, times in enumerate(walk)
        ]


class MixedProgram:
    """Runs of native launches as one call each, other launches as they come."""

    def __init__(self, launches: Sequence[Launch], symbols: Sequence[str]) -> None:
        self._parts: list[tuple[int, Launch]] = []  # with the number of the first launch in each
        run: list[NativeLaunch] = []
        for number, one in enumerate([*launches, None]):
            if isinstance(one, NativeLaunch):
                run.append(one)
                continue
            if run:
                self._parts.append((number - len(run), NativeProgram(run, symbols)))
                run = []
            if one is not None:
                self._parts.append((number, one))

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run all."""
        for _, part in self._parts:
            part(sizes)

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        """Run all, timed; what is not native runs on the first lane."""
        spans: list[Span] = []
        for first, part in self._parts:
            found = part.profile(sizes) if isinstance(part, NativeProgram) else timed(part, sizes)
            spans += [replace(span, launch=first + span.launch) for span in found]
        return spans


def program_of(launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
    """The plainest program that does."""
    if launches and all(isinstance(one, NativeLaunch) for one in launches):
        return NativeProgram(cast(Sequence[NativeLaunch], launches), symbols)
    return MixedProgram(launches, symbols)
