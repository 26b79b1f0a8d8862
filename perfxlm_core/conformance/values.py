"""Numbers for cases: activations of several kinds, and weights in every format."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.types import numpy_dtype

FINITE = ("normal", "large", "tiny", "zeros", "spiky", "mixed")
"""Standard normal; times 30 (8 in float16); times 1/1000; all zero; normal with outliers, exact
zeros and negative zeros; magnitudes from 1e-6 to 1e3 side by side (weights of quantized formats:
extreme codes and scales)."""
KINDS = (*FINITE, "denormal", "infinite", "nan")
"""Also: below the smallest normal number of the dtype; normal with infinities of both signs, and
with NaN as well, in about a third of the rows. The odd ones are in activations alone."""

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

EXTREME_SCALES = (0.0, -0.0, 6e-8, -6e-8, 3e-5, 1.0, -1.0, 100.0)
"""Scales of extreme blocks: zero, the smallest denormal, other denormals, and large ones."""
LARGEST_SCALE = 65504.0
"""The largest float16, which one block in a tensor may have."""
EXTREME_CODES = (0x00, 0xFF, 0xF0, 0x0F, 0xAA, 0x80, 0x7F)
"""Bytes of extreme blocks: all codes lowest, highest, alternating."""


def generator(seed: int, name: str, step: int) -> np.random.Generator:
    """The source of the numbers of one input in one step."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), step])


def floats(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, kind: str) -> np.ndarray:
    """Numbers of a kind, float dtype `dtype`."""
    v = rng.standard_normal(shape)
    if kind == "spiky":
        pick = rng.random(shape)
        v = np.where(pick < 0.1, 100 * v, np.where(pick > 0.8, np.where(pick > 0.9, -0.0, 0.0), v))
    elif kind == "mixed":
        v = v * 10.0 ** rng.integers(-6, 3, shape)
    elif kind in ("infinite", "nan"):
        v = _odd(rng, v, kind)
    return np.asarray(v * magnitude(kind, dtype)).astype(numpy_dtype(dtype))


def magnitude(kind: str, dtype: str) -> float:
    """By what normal numbers are multiplied."""
    large = 8.0 if dtype == "float16" else 30.0
    denormal = {"float64": 1e-310, "float16": 1e-5}.get(dtype, 1e-39)
    return {"large": large, "tiny": 1e-3, "zeros": 0.0, "denormal": denormal}.get(kind, 1.0)


def _odd(rng: np.random.Generator, v: np.ndarray, kind: str) -> np.ndarray:
    """A few elements in about a third of the rows replaced, in the first row always."""
    odd = [np.inf, -np.inf, *([np.nan] if kind == "nan" else [])]
    hit = rng.random((*v.shape[:-1], 1) if v.ndim else ()) < 1 / 3
    if v.ndim > 1:
        hit[:1] = True
    chosen = hit & (rng.random(v.shape) < 0.2)
    return np.where(chosen, rng.choice(odd, v.shape), v)


def integers(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, wide: bool
) -> np.ndarray:
    """Whole numbers or truth values: small ones, or (`wide`) all there are, both ends among them.

    Small ones lie in [-9, 9], so that sums and products of a few fit into every dtype.
    """
    import ml_dtypes

    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    info = ml_dtypes.iinfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]  # has no types
    low, high = int(info.min), int(info.max)
    if not wide:
        low, high = max(low, -9), min(high, 9)
    v = rng.integers(low, high, shape, np.uint64 if high >= 2**63 else np.int64, endpoint=True)
    if wide and v.size > 1:
        v = np.where(rng.random(shape) < 0.1, v.dtype.type(high), v)
        v = np.where(rng.random(shape) < 0.1, v.dtype.type(low), v)
    return np.asarray(v).astype(numpy_dtype(dtype))


def below(rng: np.random.Generator, shape: tuple[int, ...], limit: int) -> np.ndarray:
    """Indices in `[0, limit)`, int32, the last and the first among them."""
    made = rng.integers(0, limit, shape)
    made[:1], made[1:2] = limit - 1, 0
    return made.astype(np.int32)


def weight(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], format_name: str, kind: str
) -> Tensor:
    """A constant in any format, between poisoned bytes; quantized ones hold every code.

    Weights are finite: for kinds that are not, they are normal.
    """
    kind = kind if kind in (*FINITE, "denormal") else "normal"
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
    extreme = rng.random(len(blocks)) < (0.5 if kind == "mixed" else 0)
    blocks[extreme] = rng.choice(np.array(EXTREME_CODES, np.uint8), (int(extreme.sum()), 1))
    factor = magnitude(kind, "float16")
    for at in SCALE_OFFSETS[format_name]:
        size = rng.uniform(0.001, 0.02, len(blocks)) * rng.choice([-1, 1], len(blocks)) * factor
        size[extreme] = rng.choice(EXTREME_SCALES, int(extreme.sum()))
        if kind == "mixed" and rng.random() < 0.25:
            size[rng.integers(0, len(size))] = LARGEST_SCALE
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
