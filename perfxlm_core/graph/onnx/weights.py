"""Constants of a graph as initializers, in place wherever an ONNX file may point."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from perfxlm_core.graph.onnx.block_functions import FORMATS_WITH_FUNCTIONS
from perfxlm_core.graph.onnx.initializers import CODES
from perfxlm_core.ops.formats import FORMATS, Tensor, TensorSource

if TYPE_CHECKING:
    from onnx import TensorProto

FORMS = ("quantized", "standard", "dequantized")
"""What becomes of quantized weights; see `save_onnx`."""
STANDARD = ("q4_0", "q4_1", "q8_0")
"""Formats that DequantizeLinear can express without loss."""
INLINE_BYTES = 1 << 10
"""Constants up to this size that lie in no file stand in the model itself."""
_ALIGNMENT = 64


class WeightFiles:
    """Files beside the model that its initializers point to.

    A checkpoint's file that is not in the output folder yet is hard-linked into it, or copied
    where the file system cannot link. Everything else goes into one file of its own.
    """

    def __init__(self, folder: Path, data_name: str) -> None:
        self.folder = folder
        self.data_name = data_name
        self.linked: list[Path] = []
        self.copied: list[Path] = []
        self.referenced_bytes = 0
        self.written_bytes = 0
        self._locations: dict[Path, str] = {}
        self._data: BinaryIO | None = None
        self._finished = False

    @property
    def temporary(self) -> Path:
        """Where new bytes are collected until the model is complete."""
        return self.folder / f".{self.data_name}.part"

    def refer(self, source: TensorSource) -> tuple[str, int, int]:
        """Location, offset and length of bytes that stay where they are."""
        self.referenced_bytes += source.nbytes
        return self._location(source.path), source.offset, source.nbytes

    def _location(self, path: Path) -> str:
        real = path.resolve()
        if real not in self._locations:
            self._locations[real] = self._reach(real)
        return self._locations[real]

    def _reach(self, real: Path) -> str:
        inside = self.folder.resolve()
        if real.is_relative_to(inside):
            return real.relative_to(inside).as_posix()
        target = self.folder / real.name
        if target.exists() and target.samefile(real):
            return target.name
        for number in range(1, 1000):
            if not target.exists():
                break
            target = self.folder / f"{real.stem}-{number}{real.suffix}"
        try:
            os.link(real, target)
        except OSError:
            self.copied.append(target)  # listed first, so that a failed copy is removed as well
            shutil.copyfile(real, target)
        else:
            self.linked.append(target)
        return target.name

    def write(self, data: np.ndarray[Any, Any]) -> tuple[str, int, int]:
        """Append bytes to the model's own data file."""
        if self._data is None:
            self._data = self.temporary.open("wb")
        offset = -(-self._data.tell() // _ALIGNMENT) * _ALIGNMENT
        self._data.seek(offset)
        self._data.write(np.ascontiguousarray(data).data)
        self.written_bytes += data.nbytes
        return self.data_name, offset, data.nbytes

    def finish(self) -> None:
        """Put the data file in its place."""
        if self._data is not None:
            self._data.close()
            self._data = None
            os.replace(self.temporary, self.folder / self.data_name)
            self._finished = True

    def abandon(self) -> None:
        """Remove what was made, after a failure."""
        if self._data is not None:
            self._data.close()
            self._data = None
        for path in (self.temporary, *self.linked, *self.copied):
            path.unlink(missing_ok=True)
        if self._finished:
            (self.folder / self.data_name).unlink(missing_ok=True)


def initializer(tensor: Tensor, files: WeightFiles, name: str) -> TensorProto:
    """A plain tensor, or a quantized one as the bytes of its rows."""
    if tensor.is_quantized:
        row = FORMATS[tensor.format].nbytes(tensor.shape[-1:])
        return _proto(name, "uint8", (*tensor.shape[:-1], row), tensor.data, tensor.source, files)
    return _proto(name, tensor.format, tensor.shape, tensor.data, tensor.source, files)


def _proto(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    data: np.ndarray[Any, Any],
    source: TensorSource | None,
    files: WeightFiles,
) -> TensorProto:
    import onnx

    proto = onnx.TensorProto(name=name, data_type=CODES[dtype], dims=shape)
    if source is None and data.nbytes <= INLINE_BYTES:
        proto.raw_data = data.tobytes()
        return proto
    place = files.write(data) if source is None else files.refer(source)
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        proto.external_data.add(key=key, value=str(value))
    return proto


def packed(name: str, dtype: str, codes: np.ndarray[Any, Any], files: WeightFiles) -> TensorProto:
    """Codes of four bits, two to a byte, or of eight; `codes` in their logical shape."""
    flat: np.ndarray[Any, Any] = codes.reshape(-1).astype(np.uint8)
    if dtype in ("int4", "uint4"):
        flat = (flat[0::2] & 15) | (flat[1::2] & 15) << 4
    return _proto(name, dtype, codes.shape, flat, None, files)


def blocks_of(tensor: Tensor) -> tuple[np.ndarray[Any, Any], ...]:
    """Codes, scales and minima (or None) of a format in `STANDARD`.

    Returns:
        Codes `[rows, columns]`, signed where the format has no minima; float32 scales and minima
        `[rows, columns / block_size]`.
    """
    form = FORMATS[tensor.format]
    rows = tensor.shape[0]
    blocks = tensor.data.reshape(-1, form.block_bytes)

    def half(at: int) -> np.ndarray[Any, Any]:
        raw = np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")
        return raw.astype(np.float32).reshape(rows, -1)

    if tensor.format == "q8_0":
        return blocks[:, 2:].view(np.int8).reshape(tensor.shape), half(0)
    bytes_ = blocks[:, 2 + 2 * form.has_min :]
    codes: np.ndarray[Any, Any] = np.concatenate([bytes_ & 15, bytes_ >> 4], axis=1).reshape(
        tensor.shape
    )
    if form.has_min:
        return codes, half(0), half(2)
    return codes.astype(np.int8) - np.int8(8), half(0)


def stays_quantized(tensor: Tensor, form: str) -> bool:
    """Whether a quantized weight of this format can be written in this form without decoding."""
    known = {"quantized": FORMATS_WITH_FUNCTIONS, "standard": STANDARD, "dequantized": ()}[form]
    return tensor.format in known and len(tensor.shape) == 2
