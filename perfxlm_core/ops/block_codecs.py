"""How block-quantized formats store weights: a decoder each, and encoders of the simple ones.

A decoder takes blocks as uint8 `[n, block_bytes]` and returns their weights as float32
`[n, block_size]`; an encoder does the opposite. Arithmetic is float32, in the order of the formats'
definition (ggml's `ggml-quants.c`), so that every implementation agrees to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_HALF = np.dtype("<f2")
_NIBBLE_TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, as `[n, 1]`."""
    raw: NDArray[Any] = np.ascontiguousarray(blocks[:, at : at + 2])
    return raw.view(_HALF).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """`[n, bytes]` -> `[n, 2 * bytes]`: all low nibbles, then all high ones."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _fields(packed: Bytes, bits: int) -> Bytes:
    """Bit fields of each byte, lowest first: `[..., bytes]` -> `[..., 8 / bits, bytes]`."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)


def _shift(bits: Bytes, left: int) -> Bytes:
    """Bits of uint8, moved up within their bytes."""
    shifted: Bytes = np.left_shift(bits, np.uint8(left))
    return shifted


def _top(packed: Bytes, right: int) -> Bytes:
    """Bits of uint8, moved down to the bottom of their bytes."""
    shifted: Bytes = np.right_shift(packed, np.uint8(right))
    return shifted


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The 32 bits stored at byte `at`, as 0 or 16."""
    return _shift(np.unpackbits(blocks[:, at : at + 4], axis=-1, bitorder="little"), 4)


def decode_q4_0(blocks: Bytes) -> Floats:
    """`d * (q - 8)`; float16 `d`, 16 bytes of nibbles."""
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8))


def decode_q4_1(blocks: Bytes) -> Floats:
    """`d * q + m`; float16 `d` and `m`, 16 bytes of nibbles."""
    weights = _nibbles(blocks[:, 4:]) * _half(blocks, 0)
    weights += _half(blocks, 2)
    return weights


def decode_q5_0(blocks: Bytes) -> Floats:
    """`d * (q - 16)`; float16 `d`, 32 fifth bits, 16 bytes of nibbles."""
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (codes.view(np.int8) - np.int8(16))


def decode_q5_1(blocks: Bytes) -> Floats:
    """`d * q + m`; float16 `d` and `m`, 32 fifth bits, 16 bytes of nibbles."""
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    weights = codes * _half(blocks, 0)
    weights += _half(blocks, 2)
    return weights


def decode_q8_0(blocks: Bytes) -> Floats:
    """`d * q`; float16 `d`, 32 signed bytes."""
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _scaled(scale: Floats, codes: NDArray[Any]) -> Floats:
    """One scale for each group: `[n, groups]` times `[n, groups, weights]`."""
    weights: Floats = np.multiply(scale[:, :, None], codes)
    return weights


def decode_q2_k(blocks: Bytes) -> Floats:
    """16 groups of 16: `d * scale * q - dmin * min`; 4-bit scales and minima, 2-bit codes."""
    n, scales = len(blocks), blocks[:, :16]
    codes = _fields(blocks[:, 16:80].reshape(n, 2, 32), 2).reshape(n, 16, 16)
    scale = _half(blocks, 80) * (scales & 0x0F)
    minimum = _half(blocks, 82) * _top(scales, 4)
    return (_scaled(scale, codes) - minimum[:, :, None]).reshape(n, 256)


def decode_q3_k(blocks: Bytes) -> Floats:
    """16 groups of 16: `d * (scale - 32) * q`; 6-bit scales, codes of 2 + 1 bits from -4 to 3."""
    n, packed = len(blocks), blocks[:, 96:108]
    low = _fields(blocks[:, 32:96].reshape(n, 2, 32), 2).reshape(n, 16, 16)
    high = _fields(blocks[:, :32], 1).reshape(n, 16, 16)
    codes = (low | _shift(high, 2)).view(np.int8) - np.int8(4)
    scales = _nibbles(packed[:, :8]) | _shift(_fields(packed[:, 8:], 2).reshape(n, 16), 4)
    scale = _half(blocks, 108) * (scales.view(np.int8) - np.int8(32))
    return _scaled(scale, codes).reshape(n, 256)


def _six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight 6-bit scales and eight 6-bit minima out of 12 bytes (`q4_k` and `q5_k`)."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | _shift(_top(first, 6), 4)], axis=-1)
    minima = np.concatenate([second & 63, _top(third, 4) | _shift(_top(second, 6), 4)], axis=-1)
    return scales, minima


def _affine_groups(blocks: Bytes, codes: Bytes) -> Floats:
    """`d * scale * q - dmin * min` over eight groups of 32; codes `[n, 8, 32]`."""
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    scale = _half(blocks, 0) * scales
    minimum = _half(blocks, 2) * minima
    return (_scaled(scale, codes) - minimum[:, :, None]).reshape(len(blocks), 256)


def decode_q4_k(blocks: Bytes) -> Floats:
    """Eight groups of 32 with 6-bit scales and minima; 4-bit codes."""
    n = len(blocks)
    codes = _fields(blocks[:, 16:].reshape(n, 4, 32), 4).reshape(n, 8, 32)
    return _affine_groups(blocks, codes)


def decode_q5_k(blocks: Bytes) -> Floats:
    """Eight groups of 32 with 6-bit scales and minima; codes of 4 + 1 bits."""
    n = len(blocks)
    low = _fields(blocks[:, 48:].reshape(n, 4, 32), 4).reshape(n, 8, 32)
    high = _fields(blocks[:, 16:48], 1)
    return _affine_groups(blocks, low | _shift(high, 4))


def decode_q6_k(blocks: Bytes) -> Floats:
    """16 groups of 16: `d * scale * (q - 32)`; signed 8-bit scales, codes of 4 + 2 bits."""
    n = len(blocks)
    low = _fields(blocks[:, :128].reshape(n, 2, 64), 4).reshape(n, 16, 16)
    high = _fields(blocks[:, 128:192].reshape(n, 2, 32), 2).reshape(n, 16, 16)
    codes = (low | _shift(high, 4)).view(np.int8) - np.int8(32)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return _scaled(scale, codes).reshape(n, 256)


def _from_table(codes: Bytes) -> Floats:
    return np.array(_NIBBLE_TABLE, np.float32)[codes]


def decode_iq4_nl(blocks: Bytes) -> Floats:
    """`d * table[q]`; float16 `d`, 16 bytes of nibbles, a fixed table of 16 values."""
    return _half(blocks, 0) * _from_table(_nibbles(blocks[:, 2:]))


def decode_iq4_xs(blocks: Bytes) -> Floats:
    """Eight groups of 32: `d * (scale - 32) * table[q]`; 6-bit scales, 4-bit codes."""
    n = len(blocks)
    high = _fields(blocks[:, 2:4], 2).transpose(0, 2, 1).reshape(n, 8)
    low = _fields(blocks[:, 4:8], 4).transpose(0, 2, 1).reshape(n, 8)
    scale = _half(blocks, 0) * ((low | _shift(high, 4)).view(np.int8) - np.int8(32))
    codes = _nibbles(blocks[:, 8:].reshape(n, 8, 16))
    return _scaled(scale, _from_table(codes)).reshape(n, 256)


def _reciprocal(scale: Floats) -> Floats:
    """`1 / scale`, and 0 where the scale is 0."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def _as_half(values: Floats) -> Bytes:
    return np.ascontiguousarray(values.astype(_HALF)).view(np.uint8)


def _pack_nibbles(codes: Bytes) -> Bytes:
    return (codes[:, :16] & np.uint8(0x0F)) | _shift(codes[:, 16:], 4)


def _pack_fifth_bits(codes: Bytes) -> Bytes:
    return np.packbits(_top(codes, 4) & 1, axis=-1, bitorder="little")


def _symmetric_codes(weights: Floats, bits: int) -> tuple[Floats, Bytes]:
    """Codes `0 .. 2**bits - 1` around the middle; the weight of largest magnitude is exact."""
    middle = 1 << (bits - 1)
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=-1)[:, None], axis=-1)
    scale = largest / np.float32(-middle)
    codes = np.trunc(weights * _reciprocal(scale) + np.float32(middle + 0.5))
    return scale, codes.clip(0, 2 * middle - 1).astype(np.uint8)


def _affine_codes(weights: Floats, bits: int) -> tuple[Floats, Floats, Bytes]:
    """Codes `0 .. 2**bits - 1` from the smallest weight of the block to the largest."""
    top = (1 << bits) - 1
    minimum = weights.min(axis=-1, keepdims=True)
    scale = (weights.max(axis=-1, keepdims=True) - minimum) / np.float32(top)
    codes = np.trunc((weights - minimum) * _reciprocal(scale) + np.float32(0.5))
    return scale, minimum, codes.clip(0, top).astype(np.uint8)


def encode_q4_0(weights: Floats) -> Bytes:
    """Inverse of `decode_q4_0`, within half a step."""
    scale, codes = _symmetric_codes(weights, 4)
    return np.concatenate([_as_half(scale), _pack_nibbles(codes)], axis=-1)


def encode_q4_1(weights: Floats) -> Bytes:
    """Inverse of `decode_q4_1`, within half a step."""
    scale, minimum, codes = _affine_codes(weights, 4)
    return np.concatenate([_as_half(scale), _as_half(minimum), _pack_nibbles(codes)], axis=-1)


def encode_q5_0(weights: Floats) -> Bytes:
    """Inverse of `decode_q5_0`, within half a step."""
    scale, codes = _symmetric_codes(weights, 5)
    parts = [_as_half(scale), _pack_fifth_bits(codes), _pack_nibbles(codes)]
    return np.concatenate(parts, axis=-1)


def encode_q5_1(weights: Floats) -> Bytes:
    """Inverse of `decode_q5_1`, within half a step."""
    scale, minimum, codes = _affine_codes(weights, 5)
    parts = [_as_half(scale), _as_half(minimum), _pack_fifth_bits(codes), _pack_nibbles(codes)]
    return np.concatenate(parts, axis=-1)


def encode_q8_0(weights: Floats) -> Bytes:
    """Inverse of `decode_q8_0`, within half a step; halves round away from zero."""
    scale = np.abs(weights).max(axis=-1, keepdims=True) / np.float32(127)
    scaled = weights * _reciprocal(scale)
    codes = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)
    return np.concatenate([_as_half(scale), codes.view(np.uint8)], axis=-1)
