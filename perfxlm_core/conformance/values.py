"""Numbers for cases: activations of several kinds, and weights in every format."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.types import numpy_dtype

KINDS = ("normal", "large", "tiny", "zeros", "spiky")
"""Standard normal; times 30 (8 in float16); times 1/1000; all zero; normal with outliers, exact
zeros and negative zeros."""

POISON = 0xFF
"""Every byte around an input: NaN in each float dtype, -1 in each integer one."""

_MARGIN = 96

SCALE_OFFSETS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "q4_0": (0,),
        "q4_1": (0, 2),
        "q5_0": (0,),
        "q5_1": (0, 2),
        "q8_0": (0,),
        "q2_k": (80, 82),
        "q3_k": (108,),
        "q4_k": (0, 2),
        "q5_k": (0, 2),
        "q6_k": (208,),
        "iq4_nl": (0,),
        "iq4_xs": (0,),
    }
)
"""Where in a block of each format its float16 scales and minima lie."""


def generator(seed: int, name: str, step: int) -> np.random.Generator:
    """The source of the numbers of one input in one step."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), step])


def floats(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, kind: str) -> np.ndarray:
    """Numbers of a kind, float dtype `dtype`."""
    v = rng.standard_normal(shape)
    if kind == "spiky":
        pick = rng.random(shape)
        v = np.where(pick < 0.1, 100 * v, np.where(pick > 0.8, np.where(pick > 0.9, -0.0, 0.0), v))
    return np.asarray(v * magnitude(kind, dtype)).astype(numpy_dtype(dtype))


def magnitude(kind: str, dtype: str) -> float:
    """By what normal numbers are multiplied."""
    large = 8.0 if dtype == "float16" else 30.0
    return {"large": large, "tiny": 1e-3, "zeros": 0.0}.get(kind, 1.0)


def weight(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], format_name: str, kind: str
) -> Tensor:
    """A constant in any format, between poisoned bytes; quantized ones hold every code."""
    if format_name in FORMATS:
        data = _blocks(rng, shape, format_name, kind)
    else:
        data = floats(rng, shape, format_name, kind).reshape(-1).view(np.uint8)
    return Tensor(name, shape, format_name, _guarded(data))


def constant(name: str, array: np.ndarray) -> Tensor:
    """The array as a constant, between poisoned bytes."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Tensor(name, array.shape, array.dtype.name, _guarded(data))


def _blocks(
    rng: np.random.Generator, shape: tuple[int, ...], format_name: str, kind: str
) -> np.ndarray:
    known = FORMATS[format_name]
    data = rng.integers(0, 256, known.nbytes(shape), np.uint8)
    blocks = data.reshape(-1, known.block_bytes)
    factor = magnitude(kind, "float16")
    for at in SCALE_OFFSETS[format_name]:
        size = rng.uniform(0.001, 0.02, len(blocks)) * rng.choice([-1, 1], len(blocks)) * factor
        blocks[:, at : at + 2] = size.astype("<f2").view(np.uint8).reshape(-1, 2)
    return data


def _guarded(data: np.ndarray) -> np.ndarray:
    """A read-only copy, 32-byte aligned as in files, with poison on both sides."""
    whole = np.full(data.size + 2 * _MARGIN + 32, POISON, np.uint8)
    start = _MARGIN + -(whole.ctypes.data + _MARGIN) % 32
    view = whole[start : start + data.size]
    view[...] = data
    view.flags.writeable = False
    return view
