"""Quantized formats as ONNX functions: what the bytes of a block mean, in standard operators.

For each format three functions of domain ai.perfxlm take the blocks as they lie in a file, uint8
`[rows, bytes of a row]`:

    Dequantize_<format>(blocks) -> weights           float32 [..., weights of a row]
    Linear_<format>(x, blocks) -> x @ weights.T
    Embedding_<format>(ids, blocks) -> weights[ids]  only the rows asked for are decoded

A runtime that knows nothing of them runs their bodies; our importer turns them back into one
operator on a quantized weight. A block whose scale is infinite or not a number decodes to large
finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from perfxlm_core.ops.formats import FORMATS

if TYPE_CHECKING:
    from onnx import FunctionProto

DOMAIN = "ai.perfxlm"
VERSION = 1

_SIGNED_POWERS = [2.0 ** (max(e, 1) - 25) for e in range(32)]
_POWERS = ", ".join(repr(p) for p in (*_SIGNED_POWERS, *(-p for p in _SIGNED_POWERS)))
_LEADS = ", ".join("1024.0" if i % 32 else "0.0" for i in range(64))
_CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

_HALF = f"""
Float16 (bytes) => (y) {{
  low, high = Split <axis = -1, num_outputs = 2> (bytes)
  two = Constant <value = uint8[1] {{2}}> ()
  three = Constant <value = uint8[1] {{3}}> ()
  top = BitShift <direction = "RIGHT"> (high, two)
  index = Cast <to = 6> (top)
  powers = Constant <value = float[64] {{{_POWERS}}}> ()
  leads = Constant <value = float[64] {{{_LEADS}}}> ()
  power = Gather <axis = 0> (powers, index)
  lead = Gather <axis = 0> (leads, index)
  rest = BitwiseAnd (high, three)
  page = Constant <value = float[1] {{256.0}}> ()
  rest_number = Cast <to = 1> (rest)
  low_number = Cast <to = 1> (low)
  pages = Mul (rest_number, page)
  fraction = Add (pages, low_number)
  mantissa = Add (lead, fraction)
  y = Mul (mantissa, power)
}}
"""
"""Two bytes as the float16 that they are: sign and exponent look up a power of two."""


def _piece(name: str, start: int, end: int) -> str:
    return f"""
  {name}_start = Constant <value_ints = [{start}]> ()
  {name}_end = Constant <value_ints = [{end}]> ()
  {name} = Slice (flat, {name}_start, {name}_end, one)
"""


def _scale(at: int) -> str:
    return f"{_piece('scale_bytes', at, at + 2)}  d = {DOMAIN}.Float16 (scale_bytes)\n"


_SCALE_AND_MINIMUM = f"""
{_piece("scale_bytes", 0, 4)}
  halves_of = Constant <value_ints = [-1, 2, 2]> ()
  middle = Constant <value_ints = [2]> ()
  scale_pairs = Reshape (scale_bytes, halves_of)
  scale_numbers = {DOMAIN}.Float16 (scale_pairs)
  scale_matrix = Squeeze (scale_numbers, middle)
  d, m = Split <axis = 1, num_outputs = 2> (scale_matrix)
"""


_NIBBLES = """
  fifteen = Constant <value = uint8[1] {15}> ()
  four = Constant <value = uint8[1] {4}> ()
  low = BitwiseAnd (packed, fifteen)
  high = BitShift <direction = "RIGHT"> (packed, four)
"""
_CODES = """
  codes = Concat <axis = 1> (low, high)
"""
_FIFTH = """
  places = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
  bit = Constant <value = uint8[1] {1}> ()
  sixteen = Constant <value = uint8[1] {16}> ()
  thirty_two = Constant <value_ints = [-1, 32]> ()
  last = Constant <value_ints = [2]> ()
  apart = Unsqueeze (fifths, last)
  moved = BitShift <direction = "RIGHT"> (apart, places)
  bits = BitwiseAnd (moved, bit)
  in_order = Reshape (bits, thirty_two)
  worth = Mul (in_order, sixteen)
  small = Concat <axis = 1> (low, high)
  codes = Add (small, worth)
"""


def _minus(offset: int) -> str:
    return f"""
  numbers = Cast <to = 1> (codes)
  offset = Constant <value = float[1] {{{offset}.0}}> ()
  centred = Sub (numbers, offset)
  weights = Mul (centred, d)
"""


_PLUS_MINIMUM = """
  numbers = Cast <to = 1> (codes)
  scaled = Mul (numbers, d)
  weights = Add (scaled, m)
"""
_SIGNED = """
  codes = Cast <to = 6> (packed)
  half = Constant <value = int32[1] {128}> ()
  whole = Constant <value = int32[1] {256}> ()
  moved = Add (codes, half)
  wrapped = Mod (moved, whole)
  signed = Sub (wrapped, half)
  numbers = Cast <to = 1> (signed)
  weights = Mul (numbers, d)
"""
_LOOKUP = f"""
  book = Constant <value = float[16] {{{", ".join(f"{c}.0" for c in _CODEBOOK)}}}> ()
  index = Cast <to = 6> (codes)
  numbers = Gather <axis = 0> (book, index)
  weights = Mul (numbers, d)
"""
_SIX_BITS = """
  three = Constant <value = uint8[1] {3}> ()
  sixteen = Constant <value = uint8[1] {16}> ()
  halves = Constant <value_ints = [-1, 2, 2, 32]> ()
  quarters = Constant <value_ints = [-1, 2, 4, 32]> ()
  lows = Reshape (low, halves)
  highs = Reshape (high, halves)
  fours = Concat <axis = 2> (lows, highs)
  rows = Constant <value_ints = [-1, 2, 1, 32]> ()
  column = Constant <value = uint8[1, 1, 4, 1] {0, 2, 4, 6}> ()
  tops = Reshape (upper, rows)
  moved = BitShift <direction = "RIGHT"> (tops, column)
  twos = BitwiseAnd (moved, three)
  worth = Mul (twos, sixteen)
  codes = Add (fours, worth)
  numbers = Cast <to = 1> (codes)
  offset = Constant <value = float[1] {32.0}> ()
  centred = Sub (numbers, offset)
  groups = Constant <value_ints = [-1, 16, 16]> ()
  grouped = Reshape (centred, groups)
  wide = Cast <to = 6> (scales)
  half = Constant <value = int32[1] {128}> ()
  whole = Constant <value = int32[1] {256}> ()
  lifted = Add (wide, half)
  wrapped = Mod (lifted, whole)
  signed = Sub (wrapped, half)
  factors = Cast <to = 1> (signed)
  steps = Mul (factors, d)
  last = Constant <value_ints = [2]> ()
  each = Unsqueeze (steps, last)
  weights = Mul (grouped, each)
"""
_AFFINE_GROUPS = """
  six = Constant <value = uint8[1] {6}> ()
  sixty_three = Constant <value = uint8[1] {63}> ()
  sixteen = Constant <value = uint8[1] {16}> ()
  first_low = BitwiseAnd (first, sixty_three)
  second_low = BitwiseAnd (second, sixty_three)
  third_low = BitwiseAnd (third, fifteen)
  third_high = BitShift <direction = "RIGHT"> (third, four)
  first_top = BitShift <direction = "RIGHT"> (first, six)
  second_top = BitShift <direction = "RIGHT"> (second, six)
  first_worth = Mul (first_top, sixteen)
  second_worth = Mul (second_top, sixteen)
  late_scales = Add (third_low, first_worth)
  late_minima = Add (third_high, second_worth)
  all_scales = Concat <axis = 1> (first_low, late_scales)
  all_minima = Concat <axis = 1> (second_low, late_minima)
  all_scale_numbers = Cast <to = 1> (all_scales)
  minimum_numbers = Cast <to = 1> (all_minima)
  scales = Mul (all_scale_numbers, d)
  minima = Mul (minimum_numbers, m)
  last = Constant <value_ints = [2]> ()
  each_scale = Unsqueeze (scales, last)
  each_minimum = Unsqueeze (minima, last)
  pairs = Constant <value_ints = [-1, 4, 1, 32]> ()
  groups = Constant <value_ints = [-1, 8, 32]> ()
  lows = Reshape (low, pairs)
  highs = Reshape (high, pairs)
  both = Concat <axis = 2> (lows, highs)
  codes = Reshape (both, groups)
  numbers = Cast <to = 1> (codes)
  products = Mul (numbers, each_scale)
  weights = Sub (products, each_minimum)
"""

_BODIES: Mapping[str, str] = MappingProxyType(
    {
        "q4_0": _scale(0) + _piece("packed", 2, 18) + _NIBBLES + _CODES + _minus(8),
        "q4_1": _SCALE_AND_MINIMUM + _piece("packed", 4, 20) + _NIBBLES + _CODES
        + _PLUS_MINIMUM,
        "q5_0": _scale(0) + _piece("fifths", 2, 6) + _piece("packed", 6, 22) + _NIBBLES
        + _FIFTH + _minus(16),
        "q5_1": _SCALE_AND_MINIMUM + _piece("fifths", 4, 8) + _piece("packed", 8, 24)
        + _NIBBLES + _FIFTH + _PLUS_MINIMUM,
        "q8_0": _scale(0) + _piece("packed", 2, 34) + _SIGNED,
        "iq4_nl": _scale(0) + _piece("packed", 2, 18) + _NIBBLES + _CODES + _LOOKUP,
        "q4_k": _SCALE_AND_MINIMUM + _piece("first", 4, 8) + _piece("second", 8, 12)
        + _piece("third", 12, 16) + _piece("packed", 16, 144) + _NIBBLES + _AFFINE_GROUPS,
        "q6_k": _piece("packed", 0, 128) + _piece("upper", 128, 192) + _piece("scales", 192, 208)
        + _scale(208) + _NIBBLES + _SIX_BITS,
    }
)  # fmt: skip
"""Format -> how `flat` [blocks, bytes] becomes `weights` [blocks, ...]."""

FORMATS_WITH_FUNCTIONS = tuple(_BODIES)
"""Quantized formats that can stay as they are in an ONNX file."""


def block_functions(formats: set[str], opset: int) -> list[FunctionProto]:
    """The functions that these formats need, helpers first.

    Args:
        formats: names among `FORMATS_WITH_FUNCTIONS`.
        opset: version of the standard operators that the bodies are written in, at least 21.
    """
    if not formats:
        return []
    texts = [_HALF]
    for name in sorted(formats):
        texts += [_dequantize(name), _linear(name), _embedding(name)]
    return [_parse(text, opset) for text in texts]


def _dequantize(name: str) -> str:
    return f"""
Dequantize_{name} (blocks) => (y) {{
  one = Constant <value_ints = [1]> ()
  lead = Shape <start = 0, end = -1> (blocks)
  rest = Constant <value_ints = [-1]> ()
  block = Constant <value_ints = [-1, {FORMATS[name].block_bytes}]> ()
  flat = Reshape (blocks, block)
{_BODIES[name]}
  shape = Concat <axis = 0> (lead, rest)
  y = Reshape (weights, shape)
}}
"""


def _linear(name: str) -> str:
    return f"""
Linear_{name} (x, blocks) => (y) {{
  weights = {DOMAIN}.Dequantize_{name} (blocks)
  turned = Transpose <perm = [1, 0]> (weights)
  y = MatMul (x, turned)
}}
"""


def _embedding(name: str) -> str:
    return f"""
Embedding_{name} (ids, blocks) => (y) {{
  rows = Gather <axis = 0> (blocks, ids)
  y = {DOMAIN}.Dequantize_{name} (rows)
}}
"""


def _parse(text: str, opset: int) -> FunctionProto:
    from onnx import parser

    head = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {VERSION}]>'
    return parser.parse_function(head + text)
