"""Forms of operators that quantize: codes and scales, casts, products of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.shapes import Shape, axis, between, positive, shape
from perfxlm_core.conformance.tensor import Facts, Form
from perfxlm_core.conformance.values import FINITE, floats


def _scaled(at: Draws) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tensor, and scales of one of the three kinds."""
    made = shape(at, 1)
    where, kind = axis(at, len(made)), at.one_of(["one", "axis", "blocks"])
    sizes: dict[str, Any] = {"x": made, "scale": ()}
    attrs: dict[str, Any] = {"axis": where}
    if kind == "axis":
        sizes["scale"] = (made[where],)
    elif kind == "blocks":
        attrs["block_size"] = block = at.one_of([2, 4, 16])
        scales = list(made)
        scales[where] = -(-made[where] // block)
        sizes["scale"] = tuple(scales)
    return sizes, attrs


def _dequantize(at: Draws) -> Facts:
    sizes, attrs = _scaled(at)
    dtypes = {"x": at.variant.dtype, "scale": at.one_of(["float32", "float16"])}
    if at.flag():
        sizes["zero_point"] = sizes["scale"]
    return {**sizes, "dtypes": dtypes}, attrs


def _quantize(at: Draws) -> Facts:
    sizes, attrs = _scaled(at)
    target = at.one_of(["uint8", "int8", "int16"])
    if at.flag():
        sizes["zero_point"] = sizes["scale"]
        return {**sizes, "dtypes": {"zero_point": target, "scale": at.variant.dtype}}, attrs
    return {**sizes, "dtypes": {"scale": at.variant.dtype}}, {**attrs, "output_dtype": target}


def _powers(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Scales by which division is exact."""
    return 2.0 ** rng.integers(-3, 2, shape)


def _halves(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Multiples of 1/64: quotients on the border of rounding, some of them out of range."""
    made = rng.integers(-640, 640, shape) / 64
    return np.where(rng.random(shape) < 0.1, made * 60, made)


def _dynamic(at: Draws) -> Facts:
    return {"x": shape(at, 1)}, {}


def _spread(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Numbers whose range is 255 quarters, in eighths: the scale is a power of two."""
    low = int(rng.integers(0, 256))
    made = rng.integers(-2 * low, 2 * (255 - low) + 1, shape).reshape(-1) / 8
    made[:1] = -low / 4
    made[1:2] = (255 - low) / 4
    return np.asarray(rng.permutation(made)).reshape(shape)


def _cast(at: Draws) -> Facts:
    targets = [
        "float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool",
        "float8_e4m3fn", "float8_e5m2",
    ]  # fmt: skip
    return {"x": shape(at, empty=True)}, {"to": at.one_of(targets)}


def _castable(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """In range of every target; fractions and ties among them."""
    low = 0 if "uint8" in (case.attrs["to"], dtype) else -100
    made = rng.integers(low, 101, shape)
    if dtype == "bool":
        return np.asarray(made % 2)
    return np.asarray(made + rng.choice([0, 0.5, 0.25, -0.25], shape) * (made > 0))


SAME_WIDTH = (
    ("float32", "int32", "uint32"),
    ("float16", "int16", "uint16", "bfloat16"),
    ("float64", "int64", "uint64"),
    ("int8", "uint8"),
)


def _bit_cast(at: Draws) -> Facts:
    group = next(g for g in SAME_WIDTH if at.variant.dtype in g)
    return {"x": shape(at, empty=True)}, {"to": at.one_of(group)}


BYTES = ("int8", "uint8")


def _byte_matrices(at: Draws) -> Facts:
    m, k, n = (at.one_of([1, 2, 3, 8, 17, 65]) for _ in range(3))
    lead = shape(at, 0, 1)
    sizes: dict[str, Any] = {"a": (*lead, m, k), "b": (k, n)}
    sizes["dtypes"] = {x: at.one_of(BYTES) for x in ("b",)}
    sizes["dtypes"]["b_zero"] = sizes["dtypes"]["b"]
    if at.op.name == "quantized_matmul":
        sizes["dtypes"]["y_zero"] = at.variant.dtype
        names = ("a_scale", "a_zero", "b_scale", "b_zero", "y_scale", "y_zero")
        return {**sizes, **dict.fromkeys(names, ())}, {}
    if at.flag():
        sizes["a_zero"] = () if lead or at.flag() else (m,)
    if at.flag():
        sizes["b_zero"] = () if at.flag() else (n,)
    return sizes, {}


def _packed(at: Draws) -> Facts:
    rows, blocks = at.one_of([1, 2, 5]), at.one_of([1, 2, 3])
    bits, block = at.one_of([2, 4, 8]), at.one_of([8, 16, 32])
    columns = blocks * block - at.one_of([0, 1, 3])
    sizes: dict[str, Any] = {
        "codes": (rows, blocks, block * bits // 8),
        "scales": (rows, blocks) if at.flag() else (rows * blocks,),
    }
    zeros = at.one_of(["none", "packed", "floats"])
    if zeros == "packed":
        sizes["zero_points"] = (rows, -(-blocks * bits // 8))
        sizes["dtypes"] = {"zero_points": "uint8"}
    elif zeros == "floats":
        sizes["zero_points"] = (rows, blocks)
    return sizes, {"bits": bits, "block_size": block, "columns": columns}


def _any_byte(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    if dtype != "uint8":
        return floats(rng, shape, dtype, "normal")
    return rng.choice(np.array([*range(256), *[0, 255] * 32]), shape)


def _code(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Codes over the whole range, both ends often."""
    info = np.iinfo(dtype)
    made = rng.integers(info.min, info.max, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.2, rng.choice([info.min, info.max], shape), made)


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "dequantize_linear": Form(
            _dequantize, dtypes=("int8", "uint8", "int16", "int32"),
            numbers={"zero_point": between(0, 9), "scale": positive},
        ),
        "quantize_linear": Form(
            _quantize, exact=True, dtypes=("float32",),
            numbers={"x": _halves, "scale": _powers, "zero_point": between(0, 9)},
        ),
        "dynamic_quantize_linear": Form(
            _dynamic, exact=True, tolerance=1e-6, dtypes=("float32",), numbers={"x": _spread}
        ),
        "cast": Form(
            _cast, copies=True, numbers={"x": _castable}, kinds=("normal",),
            dtypes=("float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"),
        ),
        "bit_cast": Form(
            _bit_cast, copies=True, kinds=FINITE, dtypes=tuple(d for g in SAME_WIDTH for d in g)
        ),
        "matmul_integer": Form(
            _byte_matrices, copies=True, dtypes=BYTES,
            numbers={n: _code for n in ("a", "b", "a_zero", "b_zero")},
        ),
        "quantized_matmul": Form(
            _byte_matrices, copies=True, dtypes=BYTES,
            numbers={
                **{n: _code for n in ("a", "b", "a_zero", "b_zero", "y_zero")},
                **{n: _powers for n in ("a_scale", "b_scale")},
                "y_scale": lambda *_: np.array(64.0),
            },
        ),
        "dequantize_bits": Form(
            _packed, dtypes=("float32", "float16"),
            numbers={"codes": _any_byte, "zero_points": _any_byte},
        ),
    }
)  # fmt: skip
"""Operator -> its form."""
