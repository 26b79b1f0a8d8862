"""Operands in a device's memory, between canaries; and launches as a plan makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.values import POISON
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import Shape, concrete, itemsize, numpy_dtype
from perfxlm_core.registry.device import Buffer, Device, Launch, Operand, operand_view
from perfxlm_core.registry.kernels import Kernel, Site

MARGIN = 1024
"""Bytes of canaries on either side; a multiple of 64, so that operands stay aligned."""


@dataclass(frozen=True)
class Placed:
    """An operand, room for its largest shape, and what surrounds it."""

    operand: Operand
    nbytes: int


class Bench:
    """One device, and what it takes to give a kernel its operands and look at them again."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def place(self, name: str, shape: Shape, dtype: str, largest: Mapping[str, int]) -> Placed:
        """Memory for an operand at its largest."""
        elements = int(np.prod(concrete(shape, largest), dtype=np.int64))
        nbytes = elements * itemsize(dtype)
        buffer = self.device.allocate(nbytes + 2 * MARGIN)
        return Placed(Operand(name, shape, dtype, buffer, MARGIN), nbytes + 2 * MARGIN)

    def write(self, placed: Placed, content: np.ndarray, canary: int = POISON) -> None:
        """Fill an operand; everything around it, behind its present shape too, is canaries."""
        whole = np.full(placed.nbytes, canary, np.uint8)
        whole[MARGIN : MARGIN + content.nbytes] = _bytes(content)
        self.device.copy_in(self._whole(placed), whole)

    def fill(self, placed: Placed, value: int) -> None:
        """Every byte of an operand, and around it, set to one value."""
        self.device.copy_in(self._whole(placed), np.full(placed.nbytes, value, np.uint8))

    def read(self, placed: Placed, sizes: Mapping[str, int], canary: int = POISON) -> np.ndarray:
        """The operand under these sizes.

        Raises:
            Failure: a canary is gone.
        """
        whole = np.empty(placed.nbytes, np.uint8)
        self.device.copy_out(whole, self._whole(placed))
        operand = placed.operand
        shape, dtype = concrete(operand.shape, sizes), numpy_dtype(operand.dtype)
        end = MARGIN + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for label, part in (("before its start", whole[:MARGIN]), ("past its end", whole[end:])):
            gone = np.flatnonzero(part != canary)
            if gone.size:
                where = MARGIN - gone[-1] if label.startswith("before") else gone[0]
                raise Failure(
                    "writes",
                    f"{operand.name} {list(shape)} {operand.dtype} is written {label}, "
                    f"first at {where} bytes; {gone.size} bytes in all",
                )
        return whole[MARGIN:end].copy().view(dtype).reshape(shape)

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
            views = [
                operand_view(self.device, o, sizes) if isinstance(o, Operand) else o
                for o in operands
            ]
            kernel.function(*views, **vars(site.attrs))

        return run

    def _uploaded(self, given: Any) -> Any:  # noqa: ANN401
        """A plain constant in device memory, as simple kernels take it."""
        if not isinstance(given, Tensor) or given.is_quantized:
            return given
        placed = self.place(given.name, given.shape, given.format, {})
        self.write(placed, given.array())
        return placed.operand

    def _whole(self, placed: Placed) -> Any:  # noqa: ANN401
        return self.device.view(placed.operand.buffer, 0, (placed.nbytes,), "uint8")


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
