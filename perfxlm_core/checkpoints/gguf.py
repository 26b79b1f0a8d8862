"""Reader of GGUF files (versions 2 and 3), memory-mapped and validated before use.

A model's file is untrusted: every count, length and offset is compared with the size of the file
before anything is read through it, so that a damaged or hostile file ends in a `CheckpointError`
which names the file, the position and the field. Nothing is allocated that the file does not hold.

Source: the GGUF specification (ggml, docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from perfxlm_core.errors import ArgumentError, CheckpointError
from perfxlm_core.ops.formats import FORMATS, Tensor, TensorSource, format_nbytes

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_MAX_NESTING = 4
_MAX_KEY = 65_535
_DEFAULT_ALIGNMENT = 32

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SMALLEST_BYTES = {_BOOL: 1, _STRING: 8, _ARRAY: 12} | {
    t: struct.calcsize(code) for t, code in _SCALARS.items()
}
_STRUCTS = {t: struct.Struct("<" + code) for t, code in _SCALARS.items()}

_TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1",
    8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the tensor table, already checked against the file."""

    name: str
    shape: tuple[int, ...]
    """Logical, slowest dimension first: `[out, in]` for a projection."""
    format: str
    """A dtype's name or a key of `FORMATS`."""
    offset: int
    """From the beginning of the file, in bytes."""
    nbytes: int


class StringArray(Sequence[str]):
    """An array of strings of the metadata, decoded only when it is read."""

    def __init__(self, path: Path, buffer: mmap.mmap, starts: list[int]) -> None:
        """Strings whose length words lie at `starts` of `buffer`."""
        self._path, self._buffer, self._starts = path, buffer, starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(at) for at in self._starts[index]]
        return self._decode(self._starts[index])

    def __iter__(self) -> Iterator[str]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self[:] == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} strings>"

    def _decode(self, at: int) -> str:
        end = at + 8 + int.from_bytes(self._buffer[at : at + 8], "little")
        try:
            return str(self._buffer[at + 8 : end], "utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self._path}: the string at byte {at} is not UTF-8 ({error.reason}); "
                "the file is damaged"
            ) from error


class GGUFFile:
    """The metadata and the tensor table of one GGUF file; tensors are views of the mapping."""

    metadata: Mapping[str, Any]
    """Scalars and strings as Python values, numeric arrays as NumPy arrays, strings' arrays as
    `StringArray`, arrays of arrays as lists."""
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: Path) -> None:
        """Maps and checks the file.

        Raises:
            CheckpointError: it cannot be opened, or is not a valid GGUF file.
        """
        self.path = path
        self._mapping = _map(path)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._mapping, np.uint8)
        reader = _Reader(path, self._mapping)
        self.version, tensor_count, pair_count = _read_header(reader)
        self.metadata = _read_metadata(reader, pair_count)
        self.tensors = _read_tensors(reader, tensor_count, _alignment(reader, self.metadata))

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name` in the file, without a copy.

        Raises:
            CheckpointError: there is none.
        """
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"{self.path}: holds no tensor {name!r}")
        source = TensorSource(self.path, info.offset, info.nbytes)
        data = self._bytes[info.offset : info.offset + info.nbytes]
        return Tensor(name, info.shape, info.format, data, source, self._mapping)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise CheckpointError(
                    f"{path}: {path.stat().st_size} bytes are too few for a GGUF header (24); "
                    "the file is truncated, fetch it again"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error


class _Reader:
    """A position in the file that cannot leave it."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path, self.buffer, self.size = path, buffer, len(buffer)
        self.at = 0

    def error(self, field: str, problem: str, at: int | None = None) -> CheckpointError:
        where = self.at if at is None else at
        return CheckpointError(f"{self.path}: at byte {where}, {field}: {problem}")

    def take(self, nbytes: int, field: str) -> int:
        """Start of the next `nbytes` bytes, which are then behind the position."""
        start = self.at
        if nbytes > self.size - start:
            raise self.error(
                field,
                f"{nbytes} bytes are announced but {self.size - start} are left; "
                "the file is truncated or damaged",
            )
        self.at = start + nbytes
        return start

    def scalar(self, kind: int, field: str) -> Any:  # noqa: ANN401 - int or float by kind
        codec = _STRUCTS[kind]
        return codec.unpack_from(self.buffer, self.take(codec.size, field))[0]

    def u32(self, field: str) -> int:
        return int(self.scalar(4, field))

    def u64(self, field: str) -> int:
        return int(self.scalar(10, field))

    def count(self, item_bytes: int, field: str) -> int:
        """A 64-bit count of items that take at least `item_bytes` bytes each."""
        start = self.at
        count = self.u64(field)
        if count > (self.size - self.at) // item_bytes:
            raise self.error(
                field,
                f"{count} items cannot fit into the {self.size - self.at} bytes that are left; "
                "the file is truncated or damaged",
                start,
            )
        return count

    def string(self, field: str) -> str:
        length = self.count(1, f"length of {field}")
        start = self.take(length, field)
        try:
            return str(self.buffer[start : start + length], "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(field, f"not UTF-8 ({error.reason})", start) from error

    def value(self, kind: int, field: str, depth: int = 0) -> Any:  # noqa: ANN401
        if kind in _SCALARS:
            return self.scalar(kind, field)
        if kind == _STRING:
            return self.string(field)
        if kind == _BOOL:
            return self._bool(field)
        if kind == _ARRAY:
            return self._array(field, depth)
        raise self.error(field, f"unknown value type {kind}; known are 0 to 12")

    def _bool(self, field: str) -> bool:
        start = self.take(1, field)
        if self.buffer[start] > 1:
            raise self.error(field, f"a bool is 0 or 1, not {self.buffer[start]}", start)
        return self.buffer[start] == 1

    def _array(self, field: str, depth: int) -> Any:  # noqa: ANN401
        if depth == _MAX_NESTING:
            raise self.error(field, f"arrays are nested deeper than {_MAX_NESTING}")
        kind = self.u32(f"element type of {field}")
        if kind not in _SMALLEST_BYTES:
            raise self.error(field, f"unknown element type {kind}; known are 0 to 12")
        count = self.count(_SMALLEST_BYTES[kind], f"length of {field}")
        if kind == _STRING:
            return self._strings(count, field)
        if kind == _ARRAY:
            return [self._array(field, depth + 1) for _ in range(count)]
        return self._numbers(kind, count, field)

    def _numbers(self, kind: int, count: int, field: str) -> NDArray[Any]:
        dtype = np.dtype("u1" if kind == _BOOL else "<" + _SCALARS[kind])
        start = self.take(count * dtype.itemsize, field)
        numbers: NDArray[Any] = np.frombuffer(self.buffer, dtype, count, start)
        if kind != _BOOL:
            return numbers
        if count and numbers.max() > 1:
            raise self.error(field, "a bool is 0 or 1", start)
        return numbers.view(np.bool_)

    def _strings(self, count: int, field: str) -> StringArray:
        starts: list[int] = []
        add, length, buffer = starts.append, _STRUCTS[10].unpack_from, self.buffer
        begin = at = self.at
        try:
            for _ in range(count):
                add(at)
                at += 8 + length(buffer, at)[0]
        except (struct.error, IndexError, OverflowError):
            at = self.size + 1
        if at > self.size:
            inside = sum(start <= self.size for start in starts)
            raise self.error(
                field,
                f"string {inside - 1} of {count} ends beyond the file; "
                "the file is truncated or damaged",
                begin,
            )
        self.at = at
        return StringArray(self.path, buffer, starts)


def _read_header(reader: _Reader) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata pairs."""
    magic = reader.buffer[reader.take(4, "magic") : reader.at]
    if magic != MAGIC:
        raise reader.error("magic", f"{magic!r} instead of {MAGIC!r}; not a GGUF file", 0)
    version = reader.u32("version")
    if version and not version & 0xFFFF:
        raise reader.error(
            "version", "the file is big-endian; convert it on a little-endian machine", 4
        )
    if version not in _VERSIONS:
        raise reader.error(
            "version", f"version {version} is not read, only 2 and 3; convert the model again", 4
        )
    tensor_count = reader.count(24, "number of tensors")
    return version, tensor_count, reader.count(13, "number of metadata pairs")


def _read_metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for i in range(count):
        start = reader.at
        key = reader.string(f"key {i} of the metadata")
        if not 0 < len(key) <= _MAX_KEY or key in metadata:
            problem = "is there twice" if key in metadata else f"has {len(key)} characters"
            raise reader.error(f"key {i} of the metadata", f"{key[:80]!r} {problem}", start)
        metadata[key] = reader.value(reader.u32(f"type of {key}"), key)
    return metadata


def _alignment(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise reader.error("general.alignment", f"{alignment!r} is not a power of two")
    return alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> dict[str, TensorInfo]:
    table: dict[str, tuple[TensorInfo, int]] = {}
    for i in range(count):
        at = reader.at
        info = _read_tensor(reader, i, alignment)
        if info.name in table:
            raise reader.error(f"name of tensor {i}", f"{info.name!r} is there twice", at)
        table[info.name] = info, at
    begin = -(-reader.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    end, previous = begin, "the tensor table"
    for info, at in sorted(table.values(), key=lambda entry: entry[0].offset):
        start = begin + info.offset
        field = f"offset of tensor {info.name}"
        if start < end:
            raise reader.error(field, f"{info.offset} overlaps {previous}", at)
        if start + info.nbytes > reader.size:
            raise reader.error(
                field,
                f"it ends at byte {start + info.nbytes} of a file of {reader.size} bytes; "
                "the file is truncated or damaged",
                at,
            )
        end, previous = start + info.nbytes, info.name
        tensors[info.name] = TensorInfo(info.name, info.shape, info.format, start, info.nbytes)
    return {name: tensors[name] for name in table}


def _read_tensor(reader: _Reader, index: int, alignment: int) -> TensorInfo:
    """One entry, its offset still counted from the beginning of the data."""
    at = reader.at
    name = reader.string(f"name of tensor {index}")
    rank = reader.u32(f"rank of tensor {name}")
    if rank > _MAX_DIMENSIONS:
        raise reader.error(f"rank of tensor {name}", f"{rank} is more than {_MAX_DIMENSIONS}", at)
    shape = tuple(reader.u64(f"shape of tensor {name}") for _ in range(rank))[::-1]
    kind = reader.u32(f"type of tensor {name}")
    offset = reader.u64(f"offset of tensor {name}")
    if 0 in shape or prod(shape) >= 1 << 62:
        raise reader.error(f"shape of tensor {name}", f"{list(shape)} is out of range", at)
    if offset % alignment:
        raise reader.error(
            f"offset of tensor {name}", f"{offset} is not a multiple of {alignment}", at
        )
    format_name = _format(reader, name, kind, at)
    try:
        return TensorInfo(name, shape, format_name, offset, format_nbytes(format_name, shape))
    except ArgumentError as error:
        raise reader.error(f"shape of tensor {name}", str(error), at) from error


def _format(reader: _Reader, name: str, kind: int, at: int) -> str:
    label = _TENSOR_TYPES.get(kind, f"number {kind}")
    known = _DTYPES.get(label, label.lower())
    if label not in _DTYPES and known not in FORMATS:
        raise reader.error(
            f"type of tensor {name}",
            f"type {label} is not supported; supported are "
            f"{', '.join([*_DTYPES, *(f.upper() for f in FORMATS)])}; use another quantization "
            "of this model",
            at,
        )
    return known
