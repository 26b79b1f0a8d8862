"""Weights as they lie in files: quantized formats, and the tensor that carries one.

A weight keeps its file's format all the way to the kernel. `Tensor` names that format;
`QuantFormat` says how its bytes become numbers, so that any device can fall back to plain floats.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from perfxlm_core.errors import ArgumentError
from perfxlm_core.ops import block_codecs as codecs
from perfxlm_core.ops.types import dtype_name, numpy_dtype

_CHUNK_WEIGHTS = 1 << 20


@dataclass(frozen=True)
class QuantFormat:
    """A format that stores `block_size` neighbouring weights of a row in `block_bytes` bytes.

    A row of `n` weights is `n // block_size` blocks, one after another; rows follow one another
    without gaps.
    """

    name: str
    bits: int
    """Bits of one weight's code, without its share of the scales."""
    block_size: int
    """Weights of one stored block, along the last axis."""
    block_bytes: int
    group_size: int
    """Weights that share one scale; less than `block_size` in two-level formats."""
    has_min: bool
    """Whether groups have a minimum (`scale * code + min`) beside their scale."""
    decode: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = field(repr=False)
    encode: Callable[[NDArray[np.float32]], NDArray[np.uint8]] | None = field(
        default=None, repr=False
    )

    @property
    def super_block(self) -> int | None:
        """Weights under one second-level scale; None where there is only one level."""
        return self.block_size if self.group_size < self.block_size else None

    @property
    def bits_per_weight(self) -> float:
        """All stored bits, scales included, over the number of weights."""
        return 8 * self.block_bytes / self.block_size

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this logical shape.

        Raises:
            ArgumentError: the rows are not whole blocks.
        """
        if not shape or shape[-1] % self.block_size:
            raise ArgumentError(
                f"{self.name}: rows of shape {list(shape)} are not a multiple of "
                f"{self.block_size} weights, the block of this format"
            )
        return prod(shape[:-1]) * (shape[-1] // self.block_size) * self.block_bytes

    def dequantize(
        self, data: NDArray[np.uint8], shape: tuple[int, ...], dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """The weights as numbers, in `shape`; exact in float32, then cast to `dtype`.

        Args:
            data: uint8, of `nbytes(shape)` bytes in any shape, C order.
            shape: Logical shape in weights.
            dtype: Of the result.

        Raises:
            ArgumentError: `data` has another number of bytes than `shape` needs.
        """
        if data.nbytes != self.nbytes(shape):
            raise ArgumentError(
                f"{self.name}: shape {list(shape)} takes {self.nbytes(shape)} bytes, "
                f"but {data.nbytes} were given"
            )
        blocks = data.reshape(-1, self.block_bytes)
        out = np.empty((len(blocks), self.block_size), dtype)
        step = max(1, _CHUNK_WEIGHTS // self.block_size)
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be inf or nan
            for i in range(0, len(blocks), step):
                out[i : i + step] = self.decode(blocks[i : i + step])
        return out.reshape(shape)

    def quantize(self, weights: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The nearest weights of this format, as bytes `[..., row bytes]`.

        Raises:
            ArgumentError: rows are not whole blocks, or only decoding is defined.
        """
        if self.encode is None:
            simple = [name for name, f in FORMATS.items() if f.encode is not None]
            raise ArgumentError(
                f"{self.name}: quantizing to this format is not supported; use one of {simple}"
            )
        row_bytes = self.nbytes((1, weights.shape[-1])) if weights.ndim else self.nbytes(())
        blocks = np.ascontiguousarray(weights, np.float32).reshape(-1, self.block_size)
        return self.encode(blocks).reshape(*weights.shape[:-1], row_bytes)


FORMATS: Mapping[str, QuantFormat] = MappingProxyType(
    {
        f.name: f
        for f in (
            QuantFormat("q4_0", 4, 32, 18, 32, False, codecs.decode_q4_0, codecs.encode_q4_0),
            QuantFormat("q4_1", 4, 32, 20, 32, True, codecs.decode_q4_1, codecs.encode_q4_1),
            QuantFormat("q5_0", 5, 32, 22, 32, False, codecs.decode_q5_0, codecs.encode_q5_0),
            QuantFormat("q5_1", 5, 32, 24, 32, True, codecs.decode_q5_1, codecs.encode_q5_1),
            QuantFormat("q8_0", 8, 32, 34, 32, False, codecs.decode_q8_0, codecs.encode_q8_0),
            QuantFormat("q2_k", 2, 256, 84, 16, True, codecs.decode_q2_k),
            QuantFormat("q3_k", 3, 256, 110, 16, False, codecs.decode_q3_k),
            QuantFormat("q4_k", 4, 256, 144, 32, True, codecs.decode_q4_k),
            QuantFormat("q5_k", 5, 256, 176, 32, True, codecs.decode_q5_k),
            QuantFormat("q6_k", 6, 256, 210, 16, False, codecs.decode_q6_k),
            QuantFormat("iq4_nl", 4, 32, 18, 32, False, codecs.decode_iq4_nl),
            QuantFormat("iq4_xs", 4, 256, 136, 32, False, codecs.decode_iq4_xs),
        )
    }
)
"""Every quantized format, by name."""


def is_quantized(name: str) -> bool:
    """Whether `name` is a quantized format rather than a dtype."""
    return name in FORMATS


def format_nbytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in the format or dtype called `name`.

    Raises:
        ArgumentError: the rows are not whole blocks of a quantized format.
    """
    if name in FORMATS:
        return FORMATS[name].nbytes(shape)
    return prod(shape) * numpy_dtype(name).itemsize


@dataclass(frozen=True)
class TensorSource:
    """Where a tensor lies: a byte range of a file."""

    path: Path
    offset: int
    """From the beginning of the file, in bytes."""
    nbytes: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A constant on the host, in its file's own format."""

    name: str
    shape: tuple[int, ...]
    """Logical shape in weights, for instance `[out, in]`."""
    format: str
    """A dtype's name or a key of `FORMATS`."""
    data: NDArray[np.uint8] = field(repr=False)
    """uint8, 1-D, C order; usually a read-only view of a memory-mapped file."""
    source: TensorSource | None = None
    mapping: mmap.mmap | None = field(default=None, repr=False)
    """The mapping of the whole source file, if `data` is a view of one."""

    @classmethod
    def from_array(cls, name: str, array: NDArray[Any]) -> Tensor:
        """A tensor that shares the memory of `array` (copied if that is not contiguous)."""
        contiguous = np.ascontiguousarray(array)
        data = contiguous.reshape(-1).view(np.uint8)
        return cls(name, tuple(array.shape), dtype_name(array.dtype), data)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored form."""
        return self.data.nbytes

    @property
    def is_quantized(self) -> bool:
        """Whether `format` is a quantized format rather than a dtype."""
        return is_quantized(self.format)

    def array(self) -> NDArray[Any]:
        """A view in the tensor's own dtype and shape, without a copy.

        Raises:
            ArgumentError: the tensor is quantized.
        """
        if self.is_quantized:
            raise ArgumentError(
                f"{self.name} is stored as {self.format}, which NumPy cannot view; use float32()"
            )
        return self.data.view(numpy_dtype(self.format)).reshape(self.shape)

    def float32(self) -> NDArray[np.float32]:
        """The numbers as float32 `shape`: dequantized, cast, or a view if they are float32."""
        if self.is_quantized:
            return FORMATS[self.format].dequantize(self.data, self.shape)
        return self.array().astype(np.float32, copy=False)

    def rows(self, index: Any) -> NDArray[np.float32]:  # noqa: ANN401 - whatever indexes an axis
        """Rows picked by `index` from the first axis, as float32; only those are decoded."""
        wanted = np.asarray(index)
        if not self.is_quantized:
            picked: NDArray[np.float32] = self.array()[wanted].astype(np.float32, copy=False)
            return picked
        stored = self.data.reshape(self.shape[0], -1)[wanted.reshape(-1)]
        shape = (wanted.size, *self.shape[1:])
        decoded = FORMATS[self.format].dequantize(stored, shape)
        return decoded.reshape(*wanted.shape, *self.shape[1:])

    def cast(self, dtype: str) -> Tensor:
        """The tensor in a plain dtype; itself if it has it already."""
        if dtype == self.format:
            return self
        target = numpy_dtype(dtype)
        if self.is_quantized:
            array = FORMATS[self.format].dequantize(self.data, self.shape, target)
        else:
            array = self.array().astype(target)
        return Tensor.from_array(self.name, array)

    def release(self) -> None:
        """Lets the system drop the file's pages from this process; reading brings them back.

        For tensors that a device has copied or packed. Nothing happens to tensors that are not
        memory-mapped, nor on systems without `madvise`.
        """
        if self.mapping is None or self.source is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = self.source.offset - self.source.offset % mmap.PAGESIZE
        self.mapping.madvise(
            mmap.MADV_DONTNEED, start, self.source.offset + self.source.nbytes - start
        )
