"""Constants of an ONNX file, inside of it or in the files beside it.

A model is untrusted: shapes, offsets and paths are checked before anything is read. Bytes outside
of the model are mapped, not copied.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core.errors import CheckpointError, GraphError
from perfxlm_core.ops.formats import Tensor, TensorSource
from perfxlm_core.ops.types import numpy_dtype

if TYPE_CHECKING:
    from onnx import TensorProto

DTYPES: Mapping[int, str] = MappingProxyType(
    {
        1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
        9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
        15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
        19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
        24: "float8_e8m0fnu", 25: "uint2", 26: "int2", 27: "float6_e2m3fn", 28: "float6_e3m2fn",
    }
)  # fmt: skip
"""ONNX's number of an element type -> our dtype name."""
CODES: Mapping[str, int] = MappingProxyType({name: code for code, name in DTYPES.items()})
_PACKED_BITS = MappingProxyType({"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2})
"""Dtypes that a file stores several to a byte."""


def dtype_of(code: int, where: str) -> str:
    """Our name of an ONNX element type.

    Raises:
        GraphError: we have no such type (strings, for instance).
    """
    if code not in DTYPES:
        raise GraphError(f"{where} has elements of ONNX type {code}, which we do not compute with")
    return DTYPES[code]


class Initializers:
    """Reads the constants of one model.

    Args:
        folder: where files beside the model are looked for; None when the model has no place.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._maps: dict[Path, mmap.mmap | None] = {}

    def read(self, proto: TensorProto, name: str) -> Tensor:
        """One constant.

        Raises:
            CheckpointError: it is damaged, or its file is missing, too short or out of bounds.
            GraphError: its elements are of a type that we do not have.
        """
        dtype = dtype_of(proto.data_type, f"constant {name}")
        shape = tuple(int(n) for n in proto.dims)
        if any(n < 0 for n in shape):
            raise CheckpointError(f"constant {name} has shape {list(shape)}")
        if proto.data_location == proto.EXTERNAL:
            return self._external(proto, name, dtype, shape)
        return Tensor.from_array(name, _inside(proto, name, dtype, shape))

    def _external(
        self, proto: TensorProto, name: str, dtype: str, shape: tuple[int, ...]
    ) -> Tensor:
        entries = {e.key: e.value for e in proto.external_data}
        path = self._resolve(entries.get("location", ""), name)
        try:
            offset = int(entries.get("offset", 0) or 0)
            given = int(entries["length"]) if entries.get("length") else None
        except ValueError:
            raise CheckpointError(f"constant {name}: offset or length is not a number") from None
        expected = stored_bytes(dtype, shape)
        size = path.stat().st_size
        if given is not None and given != expected:
            raise CheckpointError(
                f"constant {name}: {given} bytes are given for {dtype} {list(shape)}, "
                f"which takes {expected}"
            )
        if offset < 0 or offset + expected > size:
            raise CheckpointError(
                f"constant {name} is at {offset}..{offset + expected} of {path.name}, which has "
                f"only {size} bytes; the file is cut off or belongs to another model"
            )
        mapping = self._map(path)
        buffer: Any = b"" if mapping is None else mapping
        data = np.frombuffer(buffer, np.uint8, count=expected, offset=offset if expected else 0)
        if dtype in _PACKED_BITS:
            return Tensor.from_array(name, _unpack(data, dtype, shape))
        return Tensor(name, shape, dtype, data, TensorSource(path, offset, expected), mapping)

    def _map(self, path: Path) -> mmap.mmap | None:
        if path not in self._maps:
            with path.open("rb") as file:
                empty = path.stat().st_size == 0
                self._maps[path] = (
                    None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                )
        return self._maps[path]

    def _resolve(self, location: str, name: str) -> Path:
        """The file of a constant: in the model's folder, or where a model hub's cache links to."""
        if self.folder is None:
            raise CheckpointError(
                f"constant {name} is in file {location!r}, but the model was not read from a "
                "folder; give the path of the .onnx file"
            )
        parts = PurePosixPath(location.replace("\\", "/"))
        if (
            not location
            or parts.is_absolute()
            or PureWindowsPath(location).drive
            or ".." in parts.parts
        ):
            raise CheckpointError(f"constant {name}: location {location!r} leaves the folder")
        path = self.folder / parts
        real = path.resolve()
        allowed = [self.folder.resolve(), *_hub_blobs(self.folder)]
        if not any(real.is_relative_to(a) for a in allowed):
            raise CheckpointError(f"constant {name}: {location!r} links to outside of the folder")
        if not real.is_file():
            raise CheckpointError(f"constant {name}: there is no file {path}")
        return real


def _hub_blobs(folder: Path) -> list[Path]:
    """Where the files of a hub's cache really lie: `<repository>/blobs` beside `snapshots`."""
    lexical = folder.absolute()
    return [
        (parent.parent / "blobs").resolve()
        for parent in (lexical, *lexical.parents)
        if parent.name == "snapshots"
    ]


def stored_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a constant in a file; elements below a byte are packed."""
    if dtype in _PACKED_BITS:
        return -(-prod(shape) * _PACKED_BITS[dtype] // 8)
    return prod(shape) * numpy_dtype(dtype).itemsize


def _unpack(data: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    bits = _PACKED_BITS[dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (data[:, None] >> shifts & (1 << bits) - 1).reshape(-1)[: prod(shape)]
    target = numpy_dtype(dtype)
    if dtype.startswith("int"):
        signed = codes.astype(np.int8)
        codes_signed = np.where(signed >= 1 << bits - 1, signed - (1 << bits), signed)
        return codes_signed.astype(np.int8).astype(target).reshape(shape)
    if dtype.startswith("uint"):
        return codes.astype(target).reshape(shape)
    return codes.astype(np.uint8).view(target).reshape(shape)


def _inside(
    proto: TensorProto, name: str, dtype: str, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    from onnx import numpy_helper

    if proto.HasField("raw_data") and len(proto.raw_data) != stored_bytes(dtype, shape):
        raise CheckpointError(
            f"constant {name} has {len(proto.raw_data)} bytes, {dtype} {list(shape)} takes "
            f"{stored_bytes(dtype, shape)}"
        )
    try:
        array = np.asarray(numpy_helper.to_array(proto))
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"constant {name} is damaged: {error}") from error
    return array.astype(numpy_dtype(dtype), copy=False).reshape(shape)
