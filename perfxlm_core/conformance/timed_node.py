"""A workload on a device, bound as a plan binds it, and the time that its launches take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import prod
from statistics import median
from typing import Any

import numpy as np

from perfxlm_core.conformance.bench import Bench
from perfxlm_core.conformance.case import Variant
from perfxlm_core.conformance.dimensions import DYNAMIC, dynamic_words, shape_of
from perfxlm_core.conformance.values import constant, floats, weight
from perfxlm_core.conformance.workloads import (
    CONTEXT,
    SEQUENCES,
    Batch,
    Workload,
    indices,
    operand_dtype,
    traffic,
)
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Op, Param, TensorType
from perfxlm_core.ops.types import Dim, concrete, itemsize, numpy_dtype
from perfxlm_core.registry.device import Buffer, Device, Operand, Program, kind_of, operand_view
from perfxlm_core.registry.kernels import Attributes, Kernel, Query, Site

NODES = 512
"""At most so many nodes make a program."""
CACHED = 8
"""Nodes of a program whose launches read no whole weights."""
FEW_ROWS = 16
"""Launches with more rows are timed on one node: the weights are read once for many rows."""
REPEATS = 3
"""Repeats of each batch, however long they take."""


class TimedNode:
    """A workload's nodes on a device, and two programs of them: all, and the first alone.

    The nodes share activations, as those of a plan do, and have weights of their own.

    Args:
        device: where they run.
        kernel: what runs them.
        variant: types of activations, weights and caches.
        work: shape of a node.
        stream: bytes of weights that all nodes should have together.

    Attributes:
        declined: why the kernel does not take the node; None if it does.
    """

    def __init__(
        self, device: Device, kernel: Kernel, variant: Variant, work: Workload, stream: int
    ) -> None:
        self.device, self.kernel, self.variant, self.work = device, kernel, variant, work
        self.op: Op[..., Any] = kernel.op
        self.bench = Bench(device)
        self.rng = np.random.default_rng(0)
        self.largest = {n: max(b.sizes[n] for b in work.batches) for n in dynamic_words(self.op)}
        self.attrs = {**self.op.attributes, **work.attrs}
        self.fixed = {p.name: self._constant(p) for p in self.op.params if self._is_fixed(p)}
        self.weights = sum(t.nbytes for t in self.fixed.values())
        types = {p.name: self._type(p) for p in self.op.params if not p.optional}
        self.query = Query.of(self.op, types, self.attrs, list(self.fixed), kind_of(device))
        self.declined = kernel.refusal(self.query)
        if self.declined is not None:
            return
        outputs = zip(self.op.outputs, self.op.infer(types, self.attrs), strict=True)
        shared = {n: t for n, t in types.items() if n not in self.fixed}
        shared |= {out.name: made for out, made in outputs}
        self.placed = {n: self._place(n, t) for n, t in shared.items()}
        self.tables: list[Operand] = []
        self.streams = self.weights > 0 and self.op.name != "embedding"
        wanted = -(-stream // self.weights) if self.streams else CACHED
        self._build(max(1, min(NODES, wanted)), types)

    def _build(self, count: int, types: Mapping[str, TensorType]) -> None:
        launches = []
        for _ in range(count):
            operands: dict[str, Any] = {p.name: None for p in self.op.params}
            operands |= {**self.placed, **{n: _copied(t) for n, t in self.fixed.items()}}
            if "block_tables" in operands:
                operands["block_tables"] = self._place("block_tables", types["block_tables"])
                self.tables.append(operands["block_tables"])
            attrs, scratch = Attributes(**self.attrs), self._scratch()
            site = Site(self.op, attrs, operands, scratch, self.device, self.bench.pack)
            launches.append(self.bench.launch(self.kernel, site))
        self.count = count
        self.all: Program = self.device.program(launches, tuple(self.largest))
        self.alone: Program = self.device.program(launches[:1], tuple(self.largest))

    def footprint(self, batch: Batch) -> int:
        """Bytes of memory that a batch's launches go through."""
        count = 1 if batch.tokens > FEW_ROWS else self.count
        if self.tables:
            caches = [self.placed[n] for n in ("k_cache", "v_cache")]
            whole = sum(c.buffer.nbytes for c in caches)
            part = sum(n for n, _ in batch.sequences) / (CONTEXT * SEQUENCES)
            return int(min(1.0, part * count) * whole)
        moved = traffic(self.op, self.work, self.variant, batch)
        return max(count * self.weights, moved) if self.streams else moved

    def times(self, seconds: float) -> dict[Batch, float]:
        """Seconds of a launch with each batch: the median of repeats made in turns."""
        taken: dict[Batch, list[float]] = {b: [] for b in self.work.batches}
        self._each(taken, warm=True)
        end = time.perf_counter() + seconds * len(taken)
        while time.perf_counter() < end or len(taken[self.work.batches[0]]) < REPEATS:
            self._each(taken)
        return {b: median(t) for b, t in taken.items()}

    def _each(self, taken: dict[Batch, list[float]], warm: bool = False) -> None:
        """One repeat of every batch."""
        for batch, times in taken.items():
            alone = batch.tokens > FEW_ROWS
            program, count = (self.alone, 1) if alone else (self.all, self.count)
            self._write(batch)
            sizes = {n: batch.sizes[n] for n in self.largest}
            self.device.synchronize()
            start = time.perf_counter()
            program(sizes)
            self.device.synchronize()
            if not warm:
                times.append((time.perf_counter() - start) / count)

    def _write(self, batch: Batch) -> None:
        """The indices of a batch; everything else stays as it is."""
        for param in self.op.params:
            if param.dtype.name != "I32":
                continue
            every = self.tables if param.name == "block_tables" else [self.placed[param.name]]
            for copy, operand in enumerate(every):
                content = indices(param, self.work, batch, copy, self.rng)
                view = operand_view(self.device, operand, batch.sizes)
                self.device.copy_in(view, content)

    def _is_fixed(self, param: Param) -> bool:
        """Whether a plan would have this input as a constant."""
        changing = any(w.startswith("*") or w.removesuffix("+1") in DYNAMIC for w in param.dims)
        return not (changing or param.optional or param.is_cache or param.any_shape)

    def _constant(self, param: Param) -> Tensor:
        shape = shape_of(param, dict(self.work.sizes))
        if param.dtype.any_format:
            name = self.variant.format or self.variant.dtype
            return weight(self.rng, param.name, shape, name, "normal")
        dtype = operand_dtype(param, self.variant)
        return constant(param.name, floats(self.rng, shape, dtype, "normal"))

    def _type(self, param: Param) -> TensorType:
        if param.name in self.fixed:
            fixed = self.fixed[param.name]
            return TensorType(fixed.shape, fixed.format)
        symbols = {n: Dim.symbol(n) for n in DYNAMIC}
        lead = (symbols["tokens"], *self.work.sizes.get("tail", ()))
        env = {**self.work.sizes, **symbols, "batch": lead}
        return TensorType(shape_of(param, env), operand_dtype(param, self.variant))

    def _place(self, name: str, made: TensorType) -> Operand:
        """Memory for an operand at its largest, filled with numbers."""
        shape = concrete(made.shape or (), self.largest)
        operand = Operand(name, made.shape or (), made.dtype, self._allocate(shape, made.dtype), 0)
        dtype = numpy_dtype(made.dtype)
        if dtype.kind == "f" or dtype.name == "bfloat16":
            some = floats(self.rng, (1 << 16,), made.dtype, "normal")
            view = self.device.view(operand.buffer, 0, shape, made.dtype)
            self.device.copy_in(view, np.resize(some, shape))
        return operand

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self.device.allocate(prod(shape) * itemsize(dtype))

    def _scratch(self) -> Operand | None:
        if self.kernel.scratch is None:
            return None
        dims = {k: _largest(v, self.largest) for k, v in vars(self.query.dims).items()}
        nbytes = self.kernel.scratch(type(self.query.dims)(**dims), self.query.attrs)
        return self._place("scratch", TensorType((nbytes,), "uint8")) if nbytes else None


def _copied(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.shape, tensor.format, tensor.data.copy())


def _largest(value: Any, sizes: Mapping[str, int]) -> Any:  # noqa: ANN401 - a length or several
    return concrete(value, sizes) if isinstance(value, tuple) else concrete((value,), sizes)[0]
