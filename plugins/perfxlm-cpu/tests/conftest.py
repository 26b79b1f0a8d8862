"""A small harness: places operands among canaries, binds a kernel, runs it, and compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from perfxlm_core.ops.spec import Op, TensorType, type_of
from perfxlm_core.plugin import (
    FORMATS,
    Attributes,
    Buffer,
    Operand,
    Registry,
    Site,
    Tensor,
    numpy_dtype,
)
from perfxlm_core.registry.kernels import Query
from perfxlm_cpu.device import CpuDevice, instruction_sets
from perfxlm_cpu.kernels import kernels

settings.register_profile("cpu", max_examples=25, deadline=None)
settings.load_profile("cpu")

CANARY = 0xAB
MARGIN = 64


@dataclass
class Bench:
    """One device, and what it takes to run one operator on it."""

    device: CpuDevice
    registry: Registry = field(repr=False)

    def place(self, name: str, array: np.ndarray, shape: tuple[Any, ...] | None = None) -> Operand:
        """A copy of `array` in device memory, with canaries on either side."""
        buffer = self.device.allocate(array.nbytes + 2 * MARGIN)
        buffer.handle[...] = CANARY
        buffer.handle[MARGIN : MARGIN + array.nbytes] = array.reshape(-1).view(np.uint8)
        dtype = array.dtype.name
        return Operand(name, array.shape if shape is None else shape, dtype, buffer, MARGIN)

    def read(self, operand: Operand, shape: tuple[int, ...]) -> np.ndarray:
        """The operand's contents, after a look at its canaries."""
        array = self.device.view(operand.buffer, operand.offset, shape, operand.dtype)
        rest = np.concatenate(
            [operand.buffer.handle[:MARGIN], operand.buffer.handle[MARGIN + array.nbytes :]]
        )
        assert (rest == CANARY).all(), f"{operand.name}: written beyond its end"
        return array.copy()

    def bind(
        self, op: Op[..., Any], arrays: Mapping[str, Any], attrs: Mapping[str, Any]
    ) -> tuple[Callable[[Mapping[str, int]], None], dict[str, Any], Any]:
        """Bind the kernel that resolution chooses; returns launch, operands and its name."""
        types = {k: type_of(v) for k, v in arrays.items()}
        constants = [k for k, v in arrays.items() if isinstance(v, Tensor)]
        full = {**op.attributes, **attrs}
        query = Query.of(op, types, full, constants, "cpu")
        kernel = self.registry.resolve(query).kernel
        assert kernel is not None, self.registry.resolve(query).refusals
        operands: dict[str, Any] = {
            k: self.place(k, v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()
        }
        for out, type_ in zip(op.outputs, op.infer(types, full), strict=True):
            operands[out.name] = self.place(out.name, poison(type_))
        site = Site(op, Attributes(**full), operands, None, self.device, self._pack)
        return kernel.function(site), operands, kernel.name

    def _pack(self, nbytes: int) -> Buffer:
        return self.device.allocate(nbytes)

    def run(self, op: Op[..., Any], arrays: Mapping[str, Any], **attrs: Any) -> list[np.ndarray]:
        """Outputs (or updated arrays) of the native kernel; inputs must come through unchanged."""
        launch, operands, _ = self.bind(op, arrays, attrs)
        launch({})
        for name, given in arrays.items():
            if isinstance(given, np.ndarray) and name not in op.updates:
                after = self.read(operands[name], given.shape)
                np.testing.assert_array_equal(
                    after.reshape(-1).view(np.uint8), given.reshape(-1).view(np.uint8)
                )
        names = [o.name for o in op.outputs] or list(op.updates)
        return [self.read(operands[n], operands[n].shape) for n in names]

    def check(
        self,
        op: Op[..., Any],
        arrays: Mapping[str, Any],
        tolerance: float | None = None,
        **attrs: Any,
    ) -> None:
        """Compare with the reference in float64, relative to the largest magnitude of each row."""
        got = self.run(op, arrays, **attrs)
        want = op.fn(**{k: precise(v) for k, v in arrays.items()}, **attrs)
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            compare(g, np.asarray(w), op.tolerance["float32"] if tolerance is None else tolerance)


def poison(type_: TensorType) -> np.ndarray:
    """NaN, or the largest integer, in every element."""
    dtype = numpy_dtype(type_.dtype)
    worst = np.nan if dtype.kind == "f" or dtype.name == "bfloat16" else np.iinfo(dtype).max
    return np.full(tuple(type_.shape or ()), worst, dtype)


def precise(value: Any) -> Any:
    """A float argument in float64, weights decoded; anything else as it is."""
    if isinstance(value, Tensor):
        return value.float32().astype(np.float64)
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value.astype(np.float64)
    return value


def compare(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """Every element within `tolerance` of the largest magnitude in its row, if that is not tiny."""
    assert got.shape == want.shape
    if not got.size:
        return
    assert np.isfinite(got).all() or not np.isfinite(want).all(), "not finite"
    size = np.maximum(np.abs(want).max(axis=-1, keepdims=True), 1e-9)
    error = (np.abs(got.astype(np.float64) - want) / size).max()
    assert error <= tolerance, f"off by {error:.3g} of the row's largest, allowed {tolerance:.3g}"


@pytest.fixture(scope="session")
def registry() -> Registry:
    registry = Registry()
    registry.extend(kernels)
    return registry


@pytest.fixture(scope="session", params=instruction_sets())
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def bench(variant: str, registry: Registry) -> Bench:
    """Two threads, each instruction set of this machine in turn."""
    return Bench(CpuDevice(variant=variant, threads=2), registry)


@pytest.fixture(scope="session")
def crew_of(registry: Registry) -> Callable[[int], Bench]:
    """The fastest instruction set with so many threads."""
    return lambda threads: Bench(CpuDevice(threads=threads), registry)


@pytest.fixture(params=[1, 2, 3])
def crew(request: pytest.FixtureRequest, crew_of: Callable[[int], Bench]) -> Bench:
    """One, two and three threads."""
    return crew_of(request.param)


@pytest.fixture(scope="session")
def weight() -> Callable[..., Tensor]:
    """A random weight `[rows, columns]` in any format."""

    def make(
        rng: np.random.Generator, format_name: str, rows: int, columns: int, size: float = 0.5
    ) -> Tensor:
        values = rng.standard_normal((rows, columns)).astype(np.float32) * np.float32(size)
        if format_name not in FORMATS:
            return Tensor.from_array("w", values.astype(numpy_dtype(format_name)))
        known = FORMATS[format_name]
        if known.encode is not None:
            data = known.quantize(values)
        else:
            data = rng.integers(0, 256, known.nbytes((rows, columns)), np.uint8)
            blocks = data.reshape(-1, known.block_bytes)
            for at in SCALES[format_name]:
                scale = rng.uniform(0.001, 0.02, len(blocks)).astype("<f2")
                blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
        return Tensor("w", (rows, columns), format_name, guarded(data.reshape(-1)))

    return make


SCALES = {
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
    "iq4_nl": (0,),
    "iq4_xs": (0,),
}


def guarded(data: np.ndarray) -> np.ndarray:
    """The same bytes at the very end of a mapping, with an unreadable page behind them."""
    import ctypes
    import mmap

    pages = -(-data.nbytes // mmap.PAGESIZE) + 1
    region = mmap.mmap(-1, pages * mmap.PAGESIZE)
    whole = np.frombuffer(region, np.uint8)
    tail = whole.ctypes.data + (pages - 1) * mmap.PAGESIZE
    end = (pages - 1) * mmap.PAGESIZE
    view = whole[end - data.nbytes : end]
    view[...] = data
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(tail), mmap.PAGESIZE, 0) == 0
    return view
