"""Operands in a device's memory, between canaries; and launches as a plan makes them."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.pages import PAGE, forbid, permit
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import Shape, concrete, itemsize, numpy_dtype
from perfxlm_core.registry.device import Buffer, Device, Launch, Operand, operand_view
from perfxlm_core.registry.kernels import Kernel, Site

MARGIN = 1024
"""Bytes of canaries on either side; a multiple of 64, so that operands stay aligned."""
ALIGNMENT = 64
"""What plans guarantee for operands in an arena."""


@dataclass(frozen=True)
class Wanted:
    """An operand that needs memory: its name, its shape (with symbols) and its dtype."""

    name: str
    shape: Shape
    dtype: str

    def nbytes(self, largest: Mapping[str, int]) -> int:
        """Bytes of its largest shape."""
        return int(np.prod(concrete(self.shape, largest), dtype=np.int64)) * itemsize(self.dtype)


@dataclass(frozen=True)
class Placed:
    """An operand, and the bytes around it that are its own to check.

    Attributes:
        operand: where it lies.
        start: where in the buffer its bytes begin, canaries included.
        nbytes: how many they are.
    """

    operand: Operand
    start: int
    nbytes: int

    @property
    def before(self) -> int:
        """Bytes of canaries in front of the operand."""
        return self.operand.offset - self.start


class Bench:
    """One device, and what it takes to give a kernel its operands and look at them again.

    Args:
        device: where memory is taken from.
        layout: one of `LAYOUTS`.
        seed: of the order of operands in an arena, and of the edges that they lie at.
        guard: forbid the pages around operands and constants (layout "edge", memory of the host).
    """

    def __init__(
        self, device: Device, layout: str = "apart", seed: int = 0, guard: bool = False
    ) -> None:
        self.device = device
        self.layout = layout if device.host_visible or layout != "edge" else "apart"
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.guard = guard
        self._kept: list[Any] = []
        self._forbidden: list[int] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for address in self._forbidden:
            permit(address)
        self._forbidden.clear()
        self._kept.clear()

    def copy(self, layout: str | None = None, seed: int | None = None) -> Bench:
        """Another bench: the first node on it is placed as the first on this one was."""
        seed = self.seed if seed is None else seed
        return Bench(self.device, layout or self.layout, seed, self.guard)

    # Placing

    def place(self, wanted: Sequence[Wanted], largest: Mapping[str, int]) -> list[Placed]:
        """Memory for the operands of one node, each at its largest."""
        sizes = [w.nbytes(largest) for w in wanted]
        if self.layout == "arena":
            return self._arena(wanted, sizes)
        one = self._edge if self.layout == "edge" else self._apart
        return [one(w, n) for w, n in zip(wanted, sizes, strict=True)]

    def _apart(self, wanted: Wanted, nbytes: int) -> Placed:
        buffer = self.device.allocate(nbytes + 2 * MARGIN)
        return _placed(wanted, buffer, MARGIN, 0, buffer.nbytes)

    def _arena(self, wanted: Sequence[Wanted], sizes: Sequence[int]) -> list[Placed]:
        """All in one buffer, in any order; the first at an odd multiple of 64 bytes."""
        begin = ALIGNMENT * (1 + 2 * int(self.rng.integers(0, 8)))
        order = self.rng.permutation(len(wanted)).tolist()
        rooms = [-(-n // ALIGNMENT) * ALIGNMENT for n in sizes]
        buffer = self.device.allocate(begin + sum(rooms) + MARGIN)
        found: dict[int, Placed] = {}
        at = begin
        for i in order:
            start, offset = (0 if i == order[0] else at), at
            at += rooms[i]
            end = buffer.nbytes if i == order[-1] else at
            found[i] = _placed(wanted[i], buffer, offset, start, end - start)
        return [found[i] for i in range(len(wanted))]

    def _edge(self, wanted: Wanted, nbytes: int) -> Placed:
        """At the end of a page, or at the start of one."""
        room = max(1, -(-nbytes // PAGE)) * PAGE
        buffer = self.device.allocate(room + 3 * PAGE)
        address = self.device.view(buffer, 0, (buffer.nbytes,), "uint8").ctypes.data
        start = PAGE + -address % PAGE
        self._forbid(buffer, address + start - PAGE, address + start + room)
        behind = bool(self.rng.integers(0, 4))  # more often: most kernels go too far, not too early
        offset = start + (room - -(-nbytes // ALIGNMENT) * ALIGNMENT if behind else 0)
        return _placed(wanted, buffer, offset, start, room)

    def _forbid(self, owner: Any, *addresses: int) -> None:  # noqa: ANN401 - kept alive only
        if self.guard:
            self._kept.append(owner)
            for address in addresses:
                forbid(address)
                self._forbidden.append(address)

    def constant(self, tensor: Tensor, poison: int) -> Tensor:
        """The same constant elsewhere on the host, as files have it, with poison around it.

        Quantized ones are aligned to 32 bytes (GGUF), others in layouts other than "apart" only
        to their elements (safetensors).
        """
        step = 32 if tensor.is_quantized or self.layout == "apart" else itemsize(tensor.format)
        size = tensor.nbytes
        room = -(-(size + 2 * MARGIN) // PAGE) * PAGE
        pages = mmap.mmap(-1, room + 2 * PAGE)
        whole = np.frombuffer(pages, np.uint8)
        inside = whole[PAGE : PAGE + room]
        inside[...] = poison
        start = room - -(-size // step) * step if self.layout == "edge" else MARGIN
        start += step if self.layout == "arena" else 0
        if self.layout == "edge":
            address = whole.ctypes.data
            self._forbid(whole, address, address + PAGE + room)
        data = inside[start : start + size]
        data[...] = tensor.data
        data.flags.writeable = False
        return replace(tensor, data=data)

    # Contents

    def write(self, placed: Placed, content: np.ndarray, poison: int) -> None:
        """Fill an operand; everything around it, behind its present shape too, is canaries."""
        whole = np.full(placed.nbytes, poison, np.uint8)
        whole[placed.before : placed.before + content.nbytes] = _bytes(content)
        self.device.copy_in(self._whole(placed), whole)

    def fill(self, placed: Placed, value: int) -> None:
        """Every byte of an operand, and around it, set to one value."""
        self.device.copy_in(self._whole(placed), np.full(placed.nbytes, value, np.uint8))

    def read(self, placed: Placed, sizes: Mapping[str, int], poison: int) -> np.ndarray:
        """The operand under these sizes.

        Raises:
            Failure: a canary is gone.
        """
        whole = np.empty(placed.nbytes, np.uint8)
        self.device.copy_out(whole, self._whole(placed))
        operand, start = placed.operand, placed.before
        shape, dtype = concrete(operand.shape, sizes), numpy_dtype(operand.dtype)
        end = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for label, part in (("before its start", whole[:start]), ("past its end", whole[end:])):
            gone = np.flatnonzero(part != poison)
            if gone.size:
                where = start - gone[-1] if label.startswith("before") else gone[0]
                raise Failure(
                    "writes",
                    f"{operand.name} {list(shape)} {operand.dtype} is written {label}, "
                    f"first at {where} bytes; {gone.size} bytes in all",
                )
        return whole[start:end].copy().view(dtype).reshape(shape)

    def _whole(self, placed: Placed) -> Any:  # noqa: ANN401
        return self.device.view(placed.operand.buffer, placed.start, (placed.nbytes,), "uint8")

    # Binding

    def pack(self, nbytes: int) -> Buffer:
        """What a kernel's `site.pack` gives."""
        return self.device.allocate(nbytes)

    def launch(self, kernel: Kernel, site: Site) -> Launch:
        """Bind the kernel as a plan does."""
        if kernel.two_phase:
            launch: Launch = kernel.function(site)
            if not callable(launch):
                raise Failure("smoke", f"bind returned {launch!r}, which cannot be launched")
            return launch
        names = [*(o.name for o in site.op.outputs), *(p.name for p in site.op.params)]
        operands = [self._uploaded(site.operands[n]) for n in names]

        def run(sizes: Mapping[str, int]) -> None:
            views = [_view(self.device, o, sizes) for o in operands]
            kernel.function(*views, **vars(site.attrs))

        return run

    def _uploaded(self, given: Any) -> Any:  # noqa: ANN401
        """A constant as simple kernels take it: a quantized one as it is, others on the device.

        They stay in place where the device sees the host's memory.
        """
        if isinstance(given, tuple):
            return tuple(self._uploaded(g) for g in given)
        if not isinstance(given, Tensor) or given.is_quantized:
            return given
        if self.device.host_visible:
            buffer = Buffer(given.data, given.nbytes)
            return Operand(given.name, given.shape, given.format, buffer, 0)
        (placed,) = self.place([Wanted(given.name, given.shape, given.format)], {})
        self.fill(placed, 0)
        self.device.copy_in(operand_view(self.device, placed.operand, {}), given.array())
        return placed.operand


def _placed(wanted: Wanted, buffer: Buffer, offset: int, start: int, nbytes: int) -> Placed:
    operand = Operand(wanted.name, wanted.shape, wanted.dtype, buffer, offset)
    return Placed(operand, start, nbytes)


def _view(device: Device, given: Any, sizes: Mapping[str, int]) -> Any:  # noqa: ANN401
    if isinstance(given, tuple):
        return tuple(_view(device, g, sizes) for g in given)
    return operand_view(device, given, sizes) if isinstance(given, Operand) else given


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
