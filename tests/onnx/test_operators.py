"""Our bodies of ONNX's operators against ONNX's own reference, on drawn shapes and values."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import defs, helper
from onnx.reference import ReferenceEvaluator

from perfxlm_core import ops
from perfxlm_core.errors import PerfxlmError
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.onnx import load_onnx
from perfxlm_core.ops.tensor import OPERATORS

OPSET = 25
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)


def floats(shape, bound=8.0, width=32):
    kind = np.dtype(f"float{width}")
    return hnp.arrays(kind, shape, elements=st.floats(-bound, bound, width=width))


def model_of(kind, inputs, outputs=1, **attrs):
    names = [f"x{i}" if v is not None else "" for i, v in enumerate(inputs)]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, inputs, strict=True)
        if v is not None
    ]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, results, **attrs)
    graph = helper.make_graph(
        [node], "one", infos, [helper.make_tensor_value_info(r, 1, None) for r in results]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11)


def agree(kind, inputs, outputs=1, tolerance=1e-5, **attrs):
    model = model_of(kind, inputs, outputs, **attrs)
    feeds = {f"x{i}": v for i, v in enumerate(inputs) if v is not None}
    with np.errstate(all="ignore"):
        want = ReferenceEvaluator(model).run(None, feeds)
    have = interpret(load_onnx(model), feeds)
    for h, w in zip(have, want, strict=True):
        w = np.asarray(w)
        assert h.dtype == w.dtype
        assert h.shape == w.shape
        exact = w.dtype.kind in "biu"
        bound = (
            0 if exact else tolerance * max(1.0, float(np.abs(w[np.isfinite(w)]).max(initial=0)))
        )
        np.testing.assert_allclose(
            h.astype(np.float64), w.astype(np.float64), rtol=0, atol=bound, equal_nan=True
        )


UNARY = (
    "Abs Neg Sign Ceil Floor Round Exp Erf Sigmoid Relu Sin Cos Tan Atan Sinh Cosh Tanh Asinh Sqrt "
    "Log Reciprocal Gelu Softmax LogSoftmax Hardmax"
).split()


@pytest.mark.parametrize("kind", UNARY)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_unary(kind, data):
    agree(kind, [data.draw(floats(data.draw(SHAPES)))])


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod", "Pow"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_binary_broadcasts(kind, data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_side=4))
    a, b = (data.draw(floats(s)) for s in shapes.input_shapes)
    if kind == "Pow":
        a = np.abs(a) + 1
    agree(kind, [a, b], **({"fmod": 1} if kind == "Mod" else {}))


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Mod"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_whole_numbers(kind, data):
    small = st.integers(-100, 100)
    a = data.draw(hnp.arrays(np.int64, (3, 4), elements=small))
    b = data.draw(hnp.arrays(np.int64, (1, 4), elements=small.filter(bool)))
    if kind == "Div":  # the reference divides downward where the definition says toward zero
        want = np.trunc(a / b).astype(np.int64)
        model = model_of(kind, [a, b])
        np.testing.assert_array_equal(interpret(load_onnx(model), {"x0": a, "x1": b})[0], want)
    else:
        agree(kind, [a, b])


REDUCTIONS = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL2 ReduceLogSumExp".split()


@pytest.mark.parametrize("kind", REDUCTIONS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_reduction(kind, data):
    x = data.draw(floats(data.draw(SHAPES), bound=3))
    axes = data.draw(st.none() | st.sets(st.integers(-x.ndim, -1)).map(sorted))
    given_axes = None if axes is None else np.array(axes, np.int64)
    keepdims, noop = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    if noop and not axes:
        noop = int(kind not in ("ReduceL2", "ReduceLogSumExp"))  # the reference applies them whole
    inputs = [x] if given_axes is None else [x, given_axes]
    agree(kind, inputs, keepdims=keepdims, noop_with_empty_axes=noop)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_slice(data):
    x = data.draw(floats(data.draw(SHAPES)))
    bound = st.integers(-7, 7)
    axes = data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1).map(sorted))
    # before the first element, the definition and the reference differ for steps backwards
    starts = [data.draw(st.integers(-x.shape[a], 7)) for a in axes]
    ends = [data.draw(bound) for _ in axes]
    steps = [data.draw(bound.filter(bool)) for _ in axes]
    agree("Slice", [x, *(np.array(v, np.int64) for v in (starts, ends, axes, steps))])


@pytest.mark.parametrize("kind", ["Gather", "GatherElements"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_gather(kind, data):
    x = data.draw(floats(data.draw(SHAPES)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    length = x.shape[axis]
    shape = data.draw(SHAPES) if kind == "Gather" else x.shape
    where = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-length, length - 1)))
    agree(kind, [x, where], axis=axis)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_top_k(data):
    x = data.draw(floats(data.draw(SHAPES)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.integers(1, x.shape[axis]))
    largest = data.draw(st.integers(0, 1))
    agree("TopK", [x, np.array([k], np.int64)], outputs=2, axis=axis, largest=largest)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_matmul(data):
    batch, (m, k, n) = data.draw(SHAPES), (data.draw(st.integers(1, 6)) for _ in range(3))
    a, b = data.draw(floats((*batch, m, k))), data.draw(floats((k, n)))
    agree("MatMul", [a, b], tolerance=1e-5)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(trans_a, trans_b):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 5), (5, 4)))
    c = rng.standard_normal((1, 4)).astype(np.float32)
    a, b = (a.T.copy() if trans_a else a), (b.T.copy() if trans_b else b)
    agree("Gemm", [a, b, c], transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_attention(data):
    pick = data.draw
    batch, kv_heads, group = (pick(st.integers(1, 3)) for _ in range(3))
    queries, keys, past = pick(st.integers(1, 4)), pick(st.integers(1, 5)), pick(st.integers(0, 3))
    size = 4
    rng = np.random.default_rng(pick(st.integers(0, 1000)))

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    q = normal(batch, kv_heads * group, queries, size)
    k, v = normal(batch, kv_heads, keys, size), normal(batch, kv_heads, keys, size)
    inputs = [q, k, v, None, None, None, None]
    cached = pick(st.sampled_from(["none", "past", "lengths"]))
    if cached == "past":
        inputs[4:6] = normal(batch, kv_heads, past, size), normal(batch, kv_heads, past, size)
    elif cached == "lengths":
        inputs[6] = rng.integers(1, keys + 1, batch)
    total = keys + (past if cached == "past" else 0)
    if pick(st.booleans()):
        inputs[3] = rng.random((queries, total)) > 0.3
    attrs = {"is_causal": pick(st.integers(0, 1)), "softcap": pick(st.sampled_from([0.0, 2.0]))}
    if pick(st.booleans()):
        attrs["left_window_size"] = pick(st.integers(0, 3))
    if pick(st.booleans()):
        attrs["scale"] = 0.3
    while inputs[-1] is None:
        inputs.pop()
    agree("Attention", inputs, **attrs)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("turned", [0, 4])
def test_rotary_embedding(interleaved, turned):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 5, 8)).astype(np.float32)
    cos, sin = (rng.standard_normal((9, (turned or 8) // 2)).astype(np.float32) for _ in range(2))
    positions = rng.integers(0, 9, (2, 5))
    agree(
        "RotaryEmbedding", [x, cos, sin, positions], interleaved=interleaved,
        rotary_embedding_dim=turned,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int32"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_cast(target, data):
    x = data.draw(floats((7,), bound=1e4))
    kind = getattr(ml_dtypes, target, None)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(kind if kind is not None else target))
    agree("Cast", [x], to=to)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, ml_dtypes.int4, ml_dtypes.uint4])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_quantize_and_back(kind, data):
    x = data.draw(floats((3, 8)))
    scale = data.draw(hnp.arrays(np.float32, (3, 2), elements=st.floats(0.5, 2, width=32)))
    zero = np.zeros((3, 2), kind)
    agree("QuantizeLinear", [x, scale, zero], axis=1, block_size=4)
    low, high = (int(n) for n in (ml_dtypes.iinfo(kind).min, ml_dtypes.iinfo(kind).max))
    codes = data.draw(hnp.arrays(np.int64, (3, 8), elements=st.integers(low, high))).astype(kind)
    agree("DequantizeLinear", [codes, scale, zero], axis=1, block_size=4)


def test_cumulative_sum_in_both_directions():
    x = np.arange(12, dtype=np.float64).reshape(3, 4)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            agree("CumSum", [x, np.array(1)], exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("kind", ["Erf", "Gelu", "Sigmoid", "Tanh"])
def test_scalars(kind):
    agree(kind, [np.array(0.5, np.float32)])


@pytest.mark.parametrize("width", [16, 64])
def test_other_widths(width):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 3, 8)).astype(f"float{width}")
    scale = rng.standard_normal(8).astype(x.dtype)
    tolerance = 2e-3 if width == 16 else 1e-6
    agree("RMSNormalization", [x, scale], tolerance=tolerance)
    agree("LayerNormalization", [x, scale, scale], tolerance=tolerance)
    agree("Softmax", [x], tolerance=tolerance)


def test_every_mapping_agrees_with_the_schema():
    for name, op in OPERATORS.items():
        schema = defs.get_schema(name, 28)
        assert op.onnx is not None
        assert op.onnx.since == schema.since_version, name
        assert len(op.params) == len(schema.inputs), name
        ours = {op.onnx.attributes.get(a, a) for a in op.attributes}
        assert set(schema.attributes) <= ours, name
        assert op.__doc__, name


def test_names_are_unique():
    """Kernels are found by name, so an engine's operator and ONNX's may not share one."""
    everything = {*(getattr(ops, n) for n in ops.__all__), *OPERATORS.values()}
    assert len({op.name for op in everything}) == len(everything)


def test_wrong_shapes_are_refused():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(PerfxlmError, match="inner lengths"):
        load_onnx(model_of("MatMul", [x, x]))
