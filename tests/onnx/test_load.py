"""Reading models: constants in other files, functions, branches, and files that lie."""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from perfxlm_core.errors import ArgumentError, CheckpointError, GraphError, PerfxlmError
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.onnx import load_onnx
from perfxlm_core.ops.types import Dim


def read(text):
    return parser.parse_model(text)


HEAD = '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>\n'


def test_inputs_keep_their_names_and_symbols():
    graph = load_onnx(
        read(HEAD + "g (float[N, 3] x) => (float[N, 3] y) { z = Relu(x) y = Add(z, x) }")
    )
    assert graph.inputs["x"].shape == (Dim.symbol("N"), 3)
    assert graph.outputs[0].shape == (Dim.symbol("N"), 3)
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_array_equal(interpret(graph, {"x": x})[0], [[-1, 0, 4]])


def test_feeds_are_checked():
    graph = load_onnx(
        read(HEAD + "g (float[N, 3] x, float[N] z) => (float[N, 3] y) { y = Relu(x) }")
    )
    x, z = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ArgumentError, match="missing: z"):
        interpret(graph, {"x": x})
    with pytest.raises(ArgumentError, match="unknown: w"):
        interpret(graph, {"x": x, "z": z, "w": z})
    with pytest.raises(ArgumentError, match="want float32"):
        interpret(graph, {"x": x.astype(np.float64), "z": z})
    with pytest.raises(ArgumentError, match="shape"):
        interpret(graph, {"x": x[:1], "z": z})


LOCAL = (
    HEAD
    + """g (float[N] x) => (float[N] y) { y = local.twice <by = 3.0> (x) }
<domain: "local", opset_import: ["" : 21]>
twice <by> (a) => (c) { f = Constant <value_float: float = @by> () b = Mul(a, f) c = Add(b, a) }
"""
)


def test_a_models_own_function_is_expanded():
    graph = load_onnx(read(LOCAL))
    assert [n.op.name for n in graph.nodes] == ["multiply", "broadcast_add"]
    np.testing.assert_array_equal(interpret(graph, {"x": np.ones(2, np.float32)})[0], [4, 4])


def test_functions_that_call_themselves_are_refused():
    model = read(LOCAL.replace("b = Mul(a, f)", "b = local.twice <by = 1.0> (a)"))
    model.functions[0].opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(GraphError, match="nested"):
        load_onnx(model)


def test_standard_functions_without_an_operator_are_expanded():
    graph = load_onnx(read(HEAD + "g (float[N] x) => (float[N] y) { y = Celu <alpha=2.0> (x) }"))
    x = np.array([-1, 2], np.float32)
    want = np.maximum(x, 0) + np.minimum(0, 2 * (np.exp(x / 2) - 1))
    np.testing.assert_allclose(interpret(graph, {"x": x})[0], want, rtol=1e-6)


def test_shapes_are_calculated_while_reading():
    text = """g (float[2, 3] x) => (float[6] y) {
        s = Shape(x) n = ReduceProd <keepdims = 1> (s) y = Reshape(x, n) }"""
    graph = load_onnx(read(HEAD + text))
    assert [n.op.name for n in graph.nodes] == ["reshape_to"]


def test_a_branch_known_beforehand_is_taken():
    text = """g (float[N] x) => (float[N] y) {
        c = Constant <value_int = 1> () t = Cast <to = 9> (c)
        y = If (t) <
            then_branch = a () => (float[N] p) { p = Neg(x) },
            else_branch = b () => (float[N] q) { q = Abs(x) }
        > }"""
    graph = load_onnx(read(HEAD + text))
    assert [n.op.name for n in graph.nodes] == ["negative"]


def test_a_branch_that_depends_on_an_input_is_refused():
    text = """g (float[N] x, bool t) => (float[N] y) {
        y = If (t) <
            then_branch = a () => (float[N] p) { p = Neg(x) },
            else_branch = b () => (float[N] q) { q = Abs(x) }
        > }"""
    with pytest.raises(GraphError, match="which branch"):
        load_onnx(read(HEAD + text))


def test_reductions_with_axes_in_an_attribute():
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2, 3] x) => (float[2] y) {'
    graph = load_onnx(read(text + "y = ReduceMean <axes = [1], keepdims = 0> (x) }"))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(interpret(graph, {"x": x})[0], [1, 4])


def test_a_newer_form_of_an_operator_is_refused_by_its_attribute():
    text = HEAD + "g (float[N] x) => (float[N] y) { y = Relu <slope = 2.0> (x) }"
    with pytest.raises(GraphError, match="slope"):
        load_onnx(read(text))


def test_newer_operator_sets_are_refused():
    model = read(HEAD + "g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.opset_import[0].version = 99
    with pytest.raises(GraphError, match="99"):
        load_onnx(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.node[0].input.append("nowhere"),
        lambda m: m.graph.output[0].MergeFrom(onnx.ValueInfoProto(name="nothing")),
        lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.STRING),
        lambda m: m.graph.node[0].__setattr__("op_type", "Nonsense"),
        lambda m: m.graph.initializer[0].dims.__setitem__(0, -4),
        lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 40),
        lambda m: m.graph.initializer[0].__setattr__("raw_data", b"12"),
        lambda m: m.graph.initializer[0].__setattr__("data_type", 77),
        lambda m: m.opset_import.pop(),
    ],
)
def test_damaged_models_are_refused(change):
    model = read(HEAD + "g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    model.opset_import.pop()
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    model.graph.initializer.append(weight)
    change(model)
    with pytest.raises(PerfxlmError):
        load_onnx(model)


LARGE = {
    "full": "y = ConstantOfShape(n)",
    "expand_to": "y = Expand(one, n)",
    "tile": "y = Tile(one, n)",
    "arange": "a = Constant <value_int = 0> () b = Constant <value_int = 9000000000> () "
    "c = Constant <value_int = 1> () y = Range(a, b, c)",
    "one_hot": "d = Constant <value_int = 9000000000> () v = Constant <value_ints = [0, 1]> () "
    "y = OneHot(n, d, v)",
    "pad": "p = Constant <value_ints = [9000000000, 0, 0, 0]> () y = Pad(one, p)",
    "einsum": 'r = Range(z, k, u) y = Einsum <equation="a,b,c,d,e->abcde"> (r, r, r, r, r)',
    "broadcast_add": "r = Range(z, k, u) i = Constant <value_ints = [1]> () q = Unsqueeze(r, i) "
    "y = Add(r, q)",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_results_are_not_calculated_while_reading(name):
    text = """g (float[N] x) => (float[M] y) {
        n = Constant <value_ints = [1000000, 1000000]> ()
        one = Constant <value = float[1, 1] {1.0}> ()
        z = Constant <value_int = 0> () u = Constant <value_int = 1> ()
        k = Constant <value_int = 800> () """
    graph = load_onnx(read(HEAD + text + LARGE[name] + "}"))
    assert [n.op.name for n in graph.nodes] == [name]


# Constants in other files


def external(array, location, **entries):
    tensor = TensorProto(
        name="w",
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


WEIGHT = np.arange(4, dtype=np.float32)


def write(folder, **entries):
    model = read(HEAD + "g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    entries.setdefault("location", "weights.bin")
    model.graph.initializer.append(external(WEIGHT, **entries))
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(b"head" + WEIGHT.tobytes())
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_constants_in_other_files_are_mapped(tmp_path):
    graph = load_onnx(write(tmp_path, offset=4, length=16))
    value = graph.used_constants()[0].constant
    assert value.source.path == (tmp_path / "weights.bin").resolve()
    assert (value.source.offset, value.source.nbytes) == (4, 16)
    x = np.ones(4, np.float32)
    np.testing.assert_array_equal(interpret(graph, {"x": x})[0], WEIGHT + 1)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 8, "length": 16},
        {"offset": -4, "length": 16},
        {"offset": 4, "length": 15},
        {"offset": "four"},
        {"location": "missing.bin"},
        {"location": "../weights.bin"},
        {"location": "/etc/hostname"},
        {"location": "C:\\weights.bin"},
        {"location": ""},
    ],
)
def test_places_that_lie_are_refused(tmp_path, entries):
    with pytest.raises(CheckpointError):
        load_onnx(write(tmp_path / "inner", **entries))


def test_links_may_not_leave_the_folder(tmp_path):
    path = write(tmp_path / "inner", offset=4)
    weights = path.parent / "weights.bin"
    weights.rename(tmp_path / "outside.bin")
    weights.symlink_to(tmp_path / "outside.bin")
    with pytest.raises(CheckpointError, match="outside"):
        load_onnx(path)


def test_links_of_a_hubs_cache_are_followed(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    path = write(snapshot, offset=4)
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    (snapshot / "weights.bin").rename(blobs / "1234")
    (snapshot / "weights.bin").symlink_to(blobs / "1234")
    assert load_onnx(path).used_constants()[0].constant.source.path == (blobs / "1234").resolve()


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "uint2"])
def test_packed_constants_are_unpacked(tmp_path, name):
    import ml_dtypes

    kind = getattr(ml_dtypes, name)
    low, high = int(ml_dtypes.iinfo(kind).min), int(ml_dtypes.iinfo(kind).max)
    codes = np.arange(low, high + 1).astype(kind)[: 4 if high < 4 else 15]
    packed = numpy_helper.from_array(codes, "w")
    (tmp_path / "weights.bin").write_bytes(packed.raw_data)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["w"], ["y"], to=1)],
            "g",
            [],
            [helper.make_tensor_value_info("y", 1, [len(codes)])],
            [external(codes, "weights.bin")],
        ),
        opset_imports=[helper.make_opsetid("", 25)],
        ir_version=13,
    )
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    have = interpret(load_onnx(tmp_path / "model.onnx"), {})[0]
    np.testing.assert_array_equal(have, codes.astype(np.float32))


@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(-1, 255)), min_size=1, max_size=4
    )
)
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_give_our_errors_only(changes):
    damaged = bytearray(read(LOCAL).SerializeToString())
    for place, byte in changes:
        index = int(place * len(damaged))
        if byte < 0:
            del damaged[index]
        else:
            damaged[index] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(damaged)
        with contextlib.suppress(PerfxlmError):
            load_onnx(path)


def test_onnx_is_imported_only_to_read_and_write():
    code = (
        "import sys, perfxlm_core.graph.interpret, perfxlm_core.graph.onnx;"
        "import perfxlm_core.ops.tensor; sys.exit('onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_not_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        load_onnx(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("certainly not a model")
    with pytest.raises(CheckpointError, match="not an ONNX model"):
        load_onnx(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not an ONNX model"):
        load_onnx(tmp_path / "empty.onnx")
