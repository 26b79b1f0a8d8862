"""Quantized formats, against the format's own Python library."""

from __future__ import annotations

import warnings

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core.errors import ArgumentError
from perfxlm_core.ops.formats import (
    FORMATS,
    Tensor,
    TensorSource,
    format_nbytes,
    is_quantized,
)

SIMPLE = [name for name, f in FORMATS.items() if f.encode is not None]
PLAIN = ["float64", "float32", "float16", "bfloat16", "int8", "int32", "int64"]


def kind(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_are_the_formats_own(name):
    assert gguf.GGML_QUANT_SIZES[kind(name)] == (
        FORMATS[name].block_size,
        FORMATS[name].block_bytes,
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_any_bytes_dequantize_as_the_reference_does(name, rows, blocks, seed):
    f = FORMATS[name]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, blocks * f.block_bytes), np.uint8)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scales of random bits may be inf or nan
        expected = gguf.quants.dequantize(data, kind(name))
    got = f.dequantize(data, (rows, blocks * f.block_size))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize("name", SIMPLE)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_quantize_as_the_reference_does(name, rows, blocks, seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((rows, blocks * 32)).astype(np.float32)
    weights[0, :32] = rng.choice([0.0, 1.0, -3.5])
    data = FORMATS[name].quantize(weights)
    np.testing.assert_array_equal(data, gguf.quants.quantize(weights, kind(name)))
    step = 2 * np.abs(weights).max() / (2 ** FORMATS[name].bits - 1)
    assert np.abs(FORMATS[name].dequantize(data, weights.shape) - weights).max() <= 1.1 * step


def test_tensors_larger_than_a_chunk_are_decoded_whole():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 1 << 19)).astype(np.float32)
    f = FORMATS["q8_0"]
    data = f.quantize(weights)
    np.testing.assert_array_equal(
        f.dequantize(data, weights.shape), gguf.quants.dequantize(data, kind("q8_0"))
    )
    half = f.dequantize(data, weights.shape, np.float16)
    np.testing.assert_array_equal(half, f.dequantize(data, weights.shape).astype(np.float16))


def test_rows_that_are_not_whole_blocks_are_refused():
    with pytest.raises(ArgumentError, match="multiple of 256"):
        FORMATS["q4_k"].nbytes((4, 320))
    with pytest.raises(ArgumentError, match="takes 36 bytes, but 18"):
        FORMATS["q4_0"].dequantize(np.zeros(18, np.uint8), (2, 32))
    with pytest.raises(ArgumentError, match="use one of"):
        FORMATS["q6_k"].quantize(np.zeros((1, 256), np.float32))


def test_super_blocks_are_told_from_plain_ones():
    assert FORMATS["q4_k"].super_block == 256
    assert FORMATS["q4_1"].super_block is None
    assert FORMATS["q4_1"].bits_per_weight == 5
    assert is_quantized("iq4_xs")
    assert not is_quantized("bfloat16")


@pytest.mark.parametrize("dtype", PLAIN)
def test_plain_tensors_are_views(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(Tensor.from_array("x", np.zeros(1)).array().dtype)
    tensor = Tensor.from_array("x", array).cast(dtype)
    assert tensor.format == dtype
    assert tensor.nbytes == format_nbytes(dtype, (2, 3, 4))
    assert np.shares_memory(tensor.array(), tensor.data)
    np.testing.assert_array_equal(tensor.float32(), array.astype(np.float32))
    assert tensor.cast(dtype) is tensor


def test_quantized_tensors_become_floats_only_on_request():
    weights = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    data = FORMATS["q4_1"].quantize(weights).reshape(-1)
    tensor = Tensor("w", (4, 64), "q4_1", data)
    assert tensor.nbytes == 4 * 2 * 20
    with pytest.raises(ArgumentError, match=r"w is stored as q4_1.*float32\(\)"):
        tensor.array()
    cast = tensor.cast("float16")
    np.testing.assert_array_equal(cast.array(), tensor.float32().astype(np.float16))


def test_scalars_and_empty_tensors():
    scalar = Tensor.from_array("s", np.float32(3))
    assert scalar.array() == 3
    assert scalar.shape == ()
    assert Tensor.from_array("e", np.zeros((0, 4), np.int32)).array().shape == (0, 4)


def test_released_pages_come_back(tmp_path):
    import mmap

    path = tmp_path / "weights"
    content = np.random.default_rng(0).integers(0, 256, 3 * mmap.PAGESIZE + 100, np.uint8)
    path.write_bytes(content.tobytes())
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapping, np.uint8)[100:9000]
    source = TensorSource(path, 100, 8900)
    tensor = Tensor("x", (8900,), "uint8", data, source, mapping)
    tensor.release()
    np.testing.assert_array_equal(tensor.array(), content[100:9000])
    Tensor.from_array("y", content).release()  # not mapped: nothing to do
