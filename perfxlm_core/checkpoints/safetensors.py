"""Reader of safetensors files and of folders of them, memory-mapped and validated before use.

Tensors are views of the mapping and know their byte range in the file, so that exported graphs can
point into it.

Source: the safetensors format (huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfxlm_core.errors import CheckpointError
from perfxlm_core.ops.formats import Tensor, TensorSource
from perfxlm_core.ops.types import itemsize

INDEX = "model.safetensors.index.json"
_MAX_HEADER = 100_000_000
_MAX_RANK = 64
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


class SafetensorsFile:
    """One file: tensors by name."""

    def __init__(self, path: Path) -> None:
        """Maps the file and checks its header.

        Raises:
            CheckpointError: it cannot be opened, or is not a valid safetensors file.
        """
        self.path = path
        self._mapping = _map(path)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._mapping, np.uint8)
        header, begin = _read_header(path, self._mapping)
        self.metadata: Mapping[str, str] = header.pop("__metadata__", {})
        self._entries = _check_entries(path, header, begin, len(self._mapping))

    def names(self) -> Iterator[str]:
        """Names of the tensors, in the order of the header."""
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(source.nbytes for _, _, source in self._entries.values())

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, without a copy.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self._entries:
            raise CheckpointError(f"{self.path}: holds no tensor {name!r}")
        dtype, shape, source = self._entries[name]
        data = self._bytes[source.offset : source.offset + source.nbytes]
        return Tensor(name, shape, dtype, data, source, self._mapping)


Entry = tuple[str, tuple[int, ...], TensorSource]


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 8:
                raise CheckpointError(
                    f"{path}: {path.stat().st_size} bytes are too few for a header (8); "
                    "the file is truncated, fetch it again"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error


def _read_header(path: Path, buffer: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header's JSON object, and where the data begin."""
    length = int.from_bytes(buffer[:8], "little")
    if length > min(_MAX_HEADER, len(buffer) - 8):
        raise CheckpointError(
            f"{path}: at byte 0, header length: {length} bytes are announced, "
            f"{len(buffer) - 8} follow, and {_MAX_HEADER} is the limit; "
            "the file is truncated, damaged or not in safetensors format"
        )
    try:
        header = json.loads(buffer[8 : 8 + length], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: at byte 8, header: {error}; the file is damaged") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise CheckpointError(f"{path}: at byte 8, header: no JSON object of tensors")
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    return unique


def _check_entries(
    path: Path, header: Mapping[str, Any], begin: int, size: int
) -> dict[str, Entry]:
    """The tensors; their byte ranges must cover the data without gaps or overlaps."""
    entries = {name: _check_entry(path, name, entry, begin) for name, entry in header.items()}
    end = begin
    for name, (_, _, source) in sorted(entries.items(), key=lambda e: e[1][2].offset):
        if source.offset != end and source.nbytes:
            raise CheckpointError(
                f"{path}: at byte {source.offset}, tensor {name}: the data before it end at "
                f"byte {end}; tensors must follow one another without gaps or overlaps"
            )
        end = max(end, source.offset + source.nbytes)
    if end != size:
        raise CheckpointError(
            f"{path}: the tensors end at byte {end} of a file of {size} bytes; "
            "the file is truncated or damaged"
        )
    return entries


def _check_entry(path: Path, name: str, entry: Any, begin: int) -> Entry:  # noqa: ANN401 - JSON
    def error(problem: str) -> CheckpointError:
        return CheckpointError(f"{path}: header, tensor {name}: {problem}")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise error("an object with dtype, shape and data_offsets is expected")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise error(f"dtype {dtype!r:.40} is not supported; supported are {', '.join(_DTYPES)}")
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
        raise error(f"shape {shape!r:.80} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error(f"data_offsets {offsets!r:.80} are not [begin, end]")
    nbytes = offsets[1] - offsets[0]
    if nbytes != prod(shape) * itemsize(_DTYPES[dtype]):
        raise error(
            f"{prod(shape) * itemsize(_DTYPES[dtype])} bytes are needed for {dtype} {shape}, "
            f"but data_offsets span {nbytes}"
        )
    return _DTYPES[dtype], tuple(shape), TensorSource(path, begin + offsets[0], nbytes)


def _are_sizes(value: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    """The file of each tensor of a folder: by its index, else `model.safetensors`, else all files.

    Raises:
        CheckpointError: files are missing or damaged, disagree with the index, or the index
            names a file outside the folder.
    """
    index = folder / INDEX
    if index.is_file():
        return _open_indexed(index)
    single = folder / "model.safetensors"
    paths = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    found: dict[str, SafetensorsFile] = {}
    for file in map(SafetensorsFile, paths):
        for name in file.names():
            if name in found:
                raise CheckpointError(
                    f"{folder}: {name} is in {found[name].path.name} and in {file.path.name}; "
                    "remove the files that do not belong to the model"
                )
            found[name] = file
    return found


def _open_indexed(index: Path) -> dict[str, SafetensorsFile]:
    try:
        content = json.loads(index.read_text("utf-8"))
        placed = content["weight_map"]
        shards = {_shard_name(index, value) for value in placed.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{index}: no index with a weight_map of tensor names to file names "
            f"({type(error).__name__}: {error})"
        ) from error
    files = {shard: SafetensorsFile(index.parent / shard) for shard in sorted(shards)}
    for name, shard in placed.items():
        if name not in files[shard]:
            raise CheckpointError(
                f"{index}: says that {name} is in {shard}, but that file lacks it; "
                "fetch the model again"
            )
    return {name: files[shard] for name, shard in placed.items()}


def _shard_name(index: Path, value: object) -> str:
    """A plain file name; links to elsewhere (as hub caches have) are the user's own doing."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+\.safetensors", value):
        raise CheckpointError(
            f"{index}: the file name {value!r:.120} is refused; shards are *.safetensors files "
            "beside the index"
        )
    return value
