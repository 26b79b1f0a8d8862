"""Operators of ONNX Runtime's own domain, against ONNX Runtime itself."""

import numpy as np
import pytest
from onnx import helper

from perfxlm_core.errors import GraphError
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.onnx import load_onnx

ort = pytest.importorskip("onnxruntime")

MICROSOFT = "com.microsoft"


def model(kind, feeds, outputs, **attrs):
    """A model of one node; inputs that are None are left out."""
    names = [n if v is not None else "" for n, v in feeds.items()]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
        if v is not None
    ]
    node = helper.make_node(kind, names, outputs, domain=MICROSOFT, **attrs)
    results = [helper.make_tensor_value_info(n, 1, None) for n in outputs if n]
    return helper.make_model(
        helper.make_graph([node], "one", inputs, results),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=10,
    )


def agree(kind, feeds, outputs=("y",), tolerance=1e-5, **attrs):
    one = model(kind, feeds, outputs, **attrs)
    given = {n: v for n, v in feeds.items() if v is not None}
    have = interpret(load_onnx(one), given)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(one.SerializeToString(), options)
    want = session.run(None, given)
    for h, w in zip(have, want, strict=True):
        np.testing.assert_allclose(h, w, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_skip_rms_norm():
    feeds = {"x": normal(2, 3, 8), "skip": normal(2, 3, 8, seed=1), "gamma": normal(8, seed=2)}
    agree("SkipSimplifiedLayerNormalization", feeds, ["y", "", "", "total"], epsilon=1e-6)


def test_skip_layer_norm():
    names = ("x", "skip", "gamma", "beta", "bias")
    shapes = ((2, 3, 8), (2, 3, 8), (8,), (8,), (8,))
    feeds = {n: normal(*s, seed=i) for i, (n, s) in enumerate(zip(names, shapes, strict=True))}
    agree("SkipLayerNormalization", feeds, ["y", "", "", "total"], epsilon=1e-6)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved):
    feeds = {
        "x": normal(2, 3, 32),
        "positions": np.array([[0, 1, 2], [4, 5, 6]], np.int64),
        "cos": normal(8, 4, seed=1),
        "sin": normal(8, 4, seed=2),
    }
    agree("RotaryEmbedding", feeds, interleaved=interleaved)


@pytest.mark.parametrize(
    ("bits", "zeros"),
    [(4, "none"), (4, "packed"), (4, "float"), (8, "none"), (8, "packed")],
)
def test_matmul_nbits(bits, zeros):
    rows, columns, size = 6, 64, 32
    blocks = columns // size
    rng = np.random.default_rng(bits)
    feeds = {
        "x": normal(2, 3, columns),
        "codes": rng.integers(0, 256, (rows, blocks, size * bits // 8), dtype=np.uint8),
        "scales": normal(rows, blocks, seed=1),
    }
    if zeros == "packed":
        shape = (rows, -(-blocks * bits // 8))
        feeds["zeros"] = rng.integers(0, 256, shape, dtype=np.uint8)
    elif zeros == "float":
        feeds["zeros"] = normal(rows, blocks, seed=2) + 8
    attrs = {"K": columns, "N": rows, "bits": bits, "block_size": size, "accuracy_level": 1}
    agree("MatMulNBits", feeds, tolerance=1e-4, **attrs)


def attention_feeds(past, lengths, count, heads, kv_heads, size):
    batch, total = len(lengths), max(lengths)
    return {
        "q": normal(batch, count, heads * size),
        "k": normal(batch, count, kv_heads * size, seed=1),
        "v": normal(batch, count, kv_heads * size, seed=2),
        "past_key": normal(batch, kv_heads, past, size, seed=3),
        "past_value": normal(batch, kv_heads, past, size, seed=4),
        "last": np.array(lengths, np.int32) - 1,
        "total": np.array(total, np.int32),
    }


@pytest.mark.parametrize("attrs", [{}, {"softcap": 5.0, "scale": 0.3}, {"local_window_size": 3}])
@pytest.mark.parametrize("past", [0, 5])
def test_group_query_attention(attrs, past):
    heads, kv_heads, size, count = 4, 2, 16, 4 if past == 0 else 1
    feeds = attention_feeds(past, [past + count] * 2, count, heads, kv_heads, size)
    feeds |= {"cos": normal(16, size // 2, seed=5), "sin": normal(16, size // 2, seed=6)}
    outputs = ["y", "present_key", "present_value"]
    agree(
        "GroupQueryAttention", feeds, outputs, num_heads=heads, kv_num_heads=kv_heads, do_rotary=1,
        **attrs,
    )  # fmt: skip


def test_group_query_attention_of_sequences_of_different_lengths():
    feeds = attention_feeds(5, [6, 4], 1, 4, 2, 16)
    one = model("GroupQueryAttention", feeds, ["y", "k2", "v2"], num_heads=4, kv_num_heads=2)
    have, *_ = interpret(load_onnx(one), feeds)
    want, *_ = ort.InferenceSession(one.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_group_query_attention_packed_with_sinks():
    heads, kv_heads, size = 4, 2, 16
    feeds = attention_feeds(0, [3, 3], 3, heads, kv_heads, size)
    feeds["q"] = normal(2, 3, (heads + 2 * kv_heads) * size)
    feeds |= {"k": None, "v": None, "cos": None, "sin": None, "positions": None, "bias": None}
    feeds["sinks"] = normal(heads, seed=7)
    outputs = ["y", "present_key", "present_value"]
    agree("GroupQueryAttention", feeds, outputs, num_heads=heads, kv_num_heads=kv_heads)


def test_unknown_attribute_is_refused():
    feeds = {"x": normal(2, 3, 8), "skip": normal(2, 3, 8), "gamma": normal(8)}
    one = model("SkipSimplifiedLayerNormalization", feeds, ["y"], gain=2.0)
    with pytest.raises(GraphError, match="gain"):
        load_onnx(one)


def test_unknown_operator_is_refused():
    with pytest.raises(GraphError, match="NoSuchOperator"):
        load_onnx(model("NoSuchOperator", {"x": normal(2)}, ["y"]))
