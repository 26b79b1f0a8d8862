"""The safetensors reader: equal to what the format's own library wrote, and never fooled."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from perfxlm_core.checkpoints.safetensors import INDEX, SafetensorsFile, open_shards
from perfxlm_core.errors import CheckpointError

DTYPES = [
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool"),
]
QUICK = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


@QUICK
@given(
    entries=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_was_written_is_read(tmp_path, entries, seed):
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in entries.items()
    }
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    file = SafetensorsFile(path)
    assert set(file.names()) == set(arrays)
    assert file.metadata == {"format": "pt"}
    assert file.total_bytes == sum(array.nbytes for array in arrays.values())
    content = path.read_bytes()
    for name, array in arrays.items():
        tensor = file.tensor(name)
        np.testing.assert_array_equal(tensor.array(), array, strict=True)
        assert not array.size or np.shares_memory(tensor.array(), tensor.data)
        assert content[tensor.source.offset :][: tensor.source.nbytes] == array.tobytes()


def write(path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + raw + data)
    return path


def test_bfloat16_and_small_floats(tmp_path):
    values = np.array([1.5, -2, 0, 448], np.float32)
    data = values.astype(ml_dtypes.bfloat16).tobytes()
    data += values.astype(ml_dtypes.float8_e4m3fn).tobytes()
    header = {
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
        "e": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [8, 12]},
    }
    file = SafetensorsFile(write(tmp_path / "x.safetensors", header, data))
    np.testing.assert_array_equal(file.tensor("b").float32(), values)
    np.testing.assert_array_equal(file.tensor("e").float32(), values.reshape(2, 2))


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "dtype": ({"t": entry("F4")}, b"12345678", "dtype 'F4' is not supported"),
    "shape": ({"t": entry(shape=(-2,))}, b"12345678", "not a list of sizes"),
    "float shape": ({"t": entry(shape=(2.0,))}, b"12345678", "not a list of sizes"),
    "bool shape": ({"t": entry(shape=(True, 2))}, b"12345678", "not a list of sizes"),
    "overflow": ({"t": entry(shape=(2**61, 2**61))}, b"12345678", "bytes are needed"),
    "offsets": ({"t": entry(offsets=(8, 0))}, b"12345678", r"are not \[begin, end\]"),
    "three offsets": ({"t": entry(offsets=(0, 4, 8))}, b"12345678", r"are not \[begin, end\]"),
    "size": ({"t": entry(shape=(3,))}, b"12345678", "12 bytes are needed for F32"),
    "beyond": ({"t": entry()}, b"1234", "tensors end at byte"),
    "rest": ({"t": entry()}, b"123456789", "tensors end at byte"),
    "gap": ({"t": entry(offsets=(4, 12))}, b"x" * 12, "without gaps or overlaps"),
    "overlap": (
        {"t": entry(), "u": entry(offsets=(4, 12))},
        b"x" * 12,
        "without gaps or overlaps",
    ),
    "no entry": ({"t": 3}, b"", "an object with dtype, shape and data_offsets"),
    "missing key": ({"t": {"dtype": "F32"}}, b"", "an object with dtype"),
    "twice": (
        b'{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
        b'"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b"",
        "'t' is there twice",
    ),
    "no json": (b"{]", b"", "header: .*; the file is damaged"),
    "no object": (b"[1]", b"", "no JSON object of tensors"),
    "not utf-8": (b'{"\xff": 1}', b"", "header"),
    "deep": (b"[" * 100_000, b"", "header"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(tmp_path, lie):
    header, data, message = LIES[lie]
    path = write(tmp_path / "lie.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


def test_header_length_is_checked_first(tmp_path):
    path = write(tmp_path / "x.safetensors", {}, length=2**63)
    with pytest.raises(CheckpointError, match="header length: 9223372036854775808 bytes"):
        SafetensorsFile(path)
    path.write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="4 bytes are too few"):
        SafetensorsFile(path)
    with pytest.raises(CheckpointError, match="No such file"):
        SafetensorsFile(tmp_path / "none.safetensors")


@QUICK
@given(data=st.data())
def test_damage_ends_in_one_kind_of_error(tmp_path, data):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.zeros((2, 3), np.int8)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    message = None
    try:
        file = SafetensorsFile(path)
        for name in file.names():
            file.tensor(name).float32()
    except CheckpointError as error:
        message = str(error)
    assert message is None or str(path) in message


def shards(folder, placed=None):
    save_file({"a": np.zeros(2, np.float32)}, folder / "one.safetensors")
    save_file({"b": np.ones(2, np.float32)}, folder / "two.safetensors")
    weight_map = placed or {"a": "one.safetensors", "b": "two.safetensors"}
    folder.joinpath(INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_found_by_the_index(tmp_path):
    shards(tmp_path)
    save_file({"c": np.ones(2, np.float32)}, tmp_path / "unrelated.safetensors")
    files = open_shards(tmp_path)
    assert set(files) == {"a", "b"}
    assert files["b"].tensor("b").array().tolist() == [1, 1]


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/secret.safetensors", "a/../b.safetensors", "a.bin", 3]
)
def test_the_index_cannot_leave_the_folder(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "secret.safetensors")
    shards(folder, {"a": name})
    with pytest.raises(CheckpointError, match="is refused"):
        open_shards(folder)


def test_the_index_must_be_true(tmp_path):
    shards(tmp_path, {"a": "two.safetensors"})
    with pytest.raises(CheckpointError, match=r"a is in two\.safetensors, but that file lacks it"):
        open_shards(tmp_path)
    shards(tmp_path, {"a": "three.safetensors"})
    with pytest.raises(CheckpointError, match=r"three\.safetensors: cannot be opened"):
        open_shards(tmp_path)
    tmp_path.joinpath(INDEX).write_text("[]")
    with pytest.raises(CheckpointError, match="no index with a weight_map"):
        open_shards(tmp_path)


def test_without_an_index_names_must_be_unique(tmp_path):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "one.safetensors")
    save_file({"b": np.zeros(2, np.float32)}, tmp_path / "two.safetensors")
    assert set(open_shards(tmp_path)) == {"a", "b"}
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"a is in one\.safetensors and in two\.safetensors"):
        open_shards(tmp_path)


def test_links_as_in_hub_caches_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    save_file({"a": np.zeros(2, np.float32)}, blobs / "abc123")
    snapshot.joinpath("model.safetensors").symlink_to(blobs / "abc123")
    assert set(open_shards(snapshot)) == {"a"}
