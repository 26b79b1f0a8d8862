"""Writing models: what ONNX Runtime and our own importer make of them."""

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from perfxlm_core import ops
from perfxlm_core.errors import ArgumentError, GraphError
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.onnx import as_recipe, load_onnx, save_onnx
from perfxlm_core.graph.onnx.block_functions import (
    DOMAIN,
    FORMATS_WITH_FUNCTIONS,
    VERSION,
    block_functions,
)
from perfxlm_core.ops.formats import FORMATS
from perfxlm_core.ops.types import numpy_dtype

from .conftest import HEADS, HIDDEN, KV_HEADS, LAYERS, SIZE, decoder

ort = pytest.importorskip("onnxruntime")

TOKENS = np.array([[5, 9, 2, 71, 33, 8], [3, 3, 90, 1, 0, 44]], np.int64)
TOLERANCE = 2e-5


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def expected(graph, ids):
    """The recipe graph's own logits of each sequence."""
    rows = []
    for sequence in ids:
        positions = np.arange(len(sequence), dtype=np.int32)
        feeds = {"token_ids": sequence.astype(np.int32), "positions": positions}
        rows.append(interpret(graph, feeds)[0])
    return np.stack(rows)


def past(batch, length=0, dtype="float32"):
    shape = (batch, KV_HEADS, length, SIZE)
    return {
        f"past_key_values.{i}.{kind}": np.zeros(shape, numpy_dtype(dtype))
        for i in range(LAYERS)
        for kind in ("key", "value")
    }


def feeds_of(ids, cache, start=0):
    positions = np.broadcast_to(np.arange(start, start + ids.shape[1]), ids.shape)
    return {"input_ids": ids, "position_ids": positions.copy(), **cache}


def run_in_two_steps(run, names, ids, split):
    """Logits of a prompt and then of the rest, the cache carried along."""
    first = dict(zip(names, run(feeds_of(ids[:, :split], past(len(ids)))), strict=True))
    cache = {n.replace("present", "past_key_values"): v for n, v in first.items() if n != "logits"}
    second = dict(zip(names, run(feeds_of(ids[:, split:], cache, split)), strict=True))
    return np.concatenate([first["logits"], second["logits"]], axis=1)


OUTPUTS = ["logits", *(f"present.{i}.{k}" for i in range(LAYERS) for k in ("key", "value"))]


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "float16", "q4_0", "q4_1", "q8_0"])
def test_runs_in_onnxruntime_and_here(tmp_path, weight_file, weights, form):
    graph = decoder(weight_file(weights))
    saved = save_onnx(graph, tmp_path / "out", form=form)
    want = expected(graph, TOKENS)
    one = session(saved.path)
    assert [o.name for o in one.get_outputs()] == OUTPUTS
    have = run_in_two_steps(lambda f: one.run(None, f), OUTPUTS, TOKENS, 4)
    np.testing.assert_allclose(have, want, atol=TOLERANCE)
    np.testing.assert_array_equal(have.argmax(-1), want.argmax(-1))
    again = load_onnx(saved.path)
    ours = run_in_two_steps(lambda f: interpret(again, f), OUTPUTS, TOKENS, 4)
    np.testing.assert_allclose(ours, want, atol=TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        {"norm_heads": True},
        {"turned": SIZE // 2},
        {"soft_cap": 3.0},
        {"window": 3},
    ],
)
def test_variants_of_models(tmp_path, weight_file, options):
    graph = decoder(weight_file("float32"), **options)
    saved = save_onnx(graph, tmp_path / "out")
    want = expected(graph, TOKENS)
    model = onnx.load(saved.path, load_external_data=False)
    assert model.opset_import[0].version == (25 if "window" in options else 24)
    one = session(saved.path)
    have = run_in_two_steps(lambda f: one.run(None, f), OUTPUTS, TOKENS, 3)
    np.testing.assert_allclose(have, want, atol=TOLERANCE)
    again = load_onnx(saved.path)
    ours = run_in_two_steps(lambda f: interpret(again, f), OUTPUTS, TOKENS, 3)
    np.testing.assert_allclose(ours, want, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "q4_1"])
def test_narrow_activations(tmp_path, weight_file, weights, dtype):
    graph = decoder(weight_file(weights), dtype=dtype)
    again = load_onnx(save_onnx(graph, tmp_path / "out").path)
    want = expected(graph, TOKENS)
    have = interpret(again, feeds_of(TOKENS, past(2, dtype=dtype)))[0]
    assert have.dtype == numpy_dtype(dtype)
    bound = {"float16": 4e-3, "bfloat16": 3e-2}[dtype] * np.abs(want.astype(np.float32)).max()
    recipe = expected(as_recipe(again), TOKENS)
    for one in (have, recipe):
        np.testing.assert_allclose(one.astype(np.float32), want.astype(np.float32), atol=bound)


def test_weights_are_not_copied(tmp_path, weight_file):
    weights = weight_file("q4_1")
    saved = save_onnx(decoder(weights), tmp_path / "out")
    link = tmp_path / "out" / "weights.bin"
    assert saved.linked == (link,)
    assert link.samefile(weights.path)
    assert not saved.copied
    assert saved.written_bytes == 0
    assert saved.referenced_bytes == sum(t.nbytes for t in weights.tensors.values())
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.onnx", "weights.bin"}


def test_a_model_beside_its_weights_points_at_them(tmp_path, weight_file):
    weights = weight_file("float32")
    saved = save_onnx(decoder(weights), weights.path.parent)
    assert not saved.linked
    assert saved.path.parent == weights.path.parent
    assert session(saved.path).get_inputs()[0].name == "input_ids"


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, weight_file, monkeypatch, caplog):
    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    weights = weight_file("q8_0")
    saved = save_onnx(decoder(weights), tmp_path / "out")
    assert saved.copied == (tmp_path / "out" / "weights.bin",)
    assert "cannot link" in caplog.text
    assert saved.copied[0].read_bytes() == weights.path.read_bytes()


def test_another_file_of_the_same_name_is_kept(tmp_path, weight_file):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_text("mine")
    saved = save_onnx(decoder(weight_file("float32")), tmp_path / "out")
    assert saved.linked == (tmp_path / "out" / "weights-1.bin",)
    assert (tmp_path / "out" / "weights.bin").read_text() == "mine"


def test_formats_without_a_function_are_decoded_and_named(tmp_path, weight_file, caplog):
    graph = decoder(weight_file("q5_1"))
    saved = save_onnx(graph, tmp_path / "out", form="standard")
    assert any("q5_1" in name for name in saved.decoded)
    assert "written as float32" in caplog.text
    one = session(saved.path)
    have = one.run(["logits"], feeds_of(TOKENS, past(2)))[0]
    np.testing.assert_allclose(have, expected(graph, TOKENS), atol=TOLERANCE)


def test_nothing_is_left_behind_after_a_failure(tmp_path, weight_file):
    graph = decoder(weight_file("float32"))
    sinks = graph.constant("sinks", np.zeros(HEADS, np.float32))
    node = [n for n in graph.nodes if n.op is ops.attention][-1]
    node.inputs["sinks"] = sinks
    with pytest.raises(GraphError, match="sinks"):
        save_onnx(graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(GraphError, match="sinks"):
        save_onnx(graph, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(("module", "name"), [(os, "replace"), (shutil, "copyfile")])
def test_a_full_disk_is_our_error(tmp_path, weight_file, monkeypatch, module, name):
    def full(*_):
        raise OSError(28, "No space left on device")

    weights = weight_file("q4_0")
    monkeypatch.setattr(module, name, full)
    with pytest.raises(ArgumentError, match="No space left"):
        save_onnx(decoder(weights), tmp_path / "out", form="standard", files=[weights.path])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_our_error(tmp_path, weight_file):
    (tmp_path / "out").touch()
    with pytest.raises(ArgumentError, match="cannot write"):
        save_onnx(decoder(weight_file("q4_0")), tmp_path / "out")


def test_graphs_without_weights_are_refused(tmp_path):
    from perfxlm_core.graph.ir import Graph

    graph = Graph()
    table = graph.weight("table", 4, HIDDEN)
    graph.outputs = [ops.linear(ops.embedding(graph.token_ids, table), table)]
    with pytest.raises(GraphError, match="no data"):
        save_onnx(graph, tmp_path)


def test_unknown_form_is_refused(tmp_path, weight_file):
    with pytest.raises(ArgumentError, match="quantized, standard, dequantized"):
        save_onnx(decoder(weight_file("float32")), tmp_path, form="exact")


def test_other_files_go_along(tmp_path, weight_file):
    config = tmp_path / "config.json"
    config.write_text("{}")
    save_onnx(decoder(weight_file("float32")), tmp_path / "out", files=[config])
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_quantized_weights_come_back_as_such(tmp_path, weight_file):
    weights = weight_file("q4_1")
    again = load_onnx(save_onnx(decoder(weights), tmp_path / "out").path)
    found = {v.constant.format for v in again.used_constants() if v.constant.is_quantized}
    assert found == {"q4_1"}
    table = next(v.constant for v in again.used_constants() if v.constant.name == "embed.weight")
    assert table.source.offset == weights.tensors["embed.weight"].source.offset
    names = [n.op.name for n in again.nodes]
    assert names.count("linear") == 7 * LAYERS + 1
    assert names.count("embedding") == 1


@pytest.mark.parametrize("name", FORMATS_WITH_FUNCTIONS)
def test_functions_decode_blocks_exactly(name):
    known = FORMATS[name]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (5, 3 * known.block_bytes), dtype=np.uint8)
    want = known.dequantize(blocks, (5, 3 * known.block_size))
    sound = np.isfinite(want) & (np.abs(want) < 1e5)  # scales that are finite numbers
    assert sound.mean() > 0.5
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(f"Dequantize_{name}", ["b"], ["y"], domain=DOMAIN)],
            "g",
            [helper.make_tensor_value_info("b", 2, ["rows", "bytes"])],
            [helper.make_tensor_value_info("y", 1, ["rows", "columns"])],
        ),
        opset_imports=[helper.make_opsetid("", 24), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=11,
        functions=block_functions({name}, 24),
    )
    onnx.checker.check_model(model)
    runs = {
        "onnxruntime": session_of(model).run(None, {"b": blocks})[0],
        "reference": ReferenceEvaluator(model).run(None, {"b": blocks})[0],
        "ours": interpret(load_onnx(model), {"b": blocks})[0],
    }
    for have in runs.values():
        np.testing.assert_array_equal(have[sound], want[sound])


def session_of(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_file_is_valid_onnx(tmp_path, weight_file):
    saved = save_onnx(decoder(weight_file("q4_0")), tmp_path / "out")
    model = onnx.load(saved.path, load_external_data=False)
    for one in model.graph.initializer:  # the checker would refuse files with two names
        kind = helper.make_tensor_value_info(one.name, one.data_type, list(one.dims))
        model.graph.input.append(kind)
    del model.graph.initializer[:]
    onnx.checker.check_model(model, full_check=True)
    names = [o for n in model.graph.node for o in n.output]
    assert len(names) == len(set(names))
