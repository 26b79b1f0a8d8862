"""The GGUF reader: equal to what the format's own writer wrote, and never fooled by damage."""

from __future__ import annotations

import struct
import time

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.checkpoints.gguf import GGUFFile
from perfxlm_core.errors import CheckpointError
from perfxlm_core.ops.formats import FORMATS

SCALARS = {
    "uint8": st.integers(0, 2**8 - 1),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
}
PAIRS = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda name: st.tuples(st.just(name), SCALARS[name])
)
ARRAYS = st.one_of(
    st.lists(SCALARS["string"], min_size=1, max_size=5),
    st.lists(SCALARS["int32"], min_size=1, max_size=5),
    st.lists(SCALARS["float32"], min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.lists(st.lists(SCALARS["int32"], min_size=1, max_size=3), min_size=1, max_size=3),
)
KINDS = ["F32", "F16", "F64", "I8", "I16", "I32", "I64", "BF16", *(f.upper() for f in FORMATS)]
TENSORS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 3)),
    max_size=5,
)
FILES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def plain(value):
    """Metadata as lists and Python numbers."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, int | float | str):
        return value
    return [plain(item) for item in value]


@FILES
@given(
    pairs=st.lists(PAIRS, max_size=6),
    arrays=st.lists(ARRAYS, max_size=4),
    tensors=TENSORS,
    alignment=st.sampled_from([None, 8, 64, 256]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_was_written_is_read(tmp_path, pairs, arrays, tensors, alignment, seed):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "anything")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for i, (kind, value) in enumerate(pairs):
        getattr(writer, f"add_{kind}")(f"pair.{i}", value)
    for i, values in enumerate(arrays):
        writer.add_array(f"array.{i}", values)
    rng = np.random.default_rng(seed)
    written = []
    for i, (kind, lead, blocks) in enumerate(tensors):
        raw = gguf.GGMLQuantizationType[kind]
        _, block_bytes = gguf.GGML_QUANT_SIZES[raw]
        data = rng.integers(0, 256, (*lead, blocks * block_bytes), np.uint8)
        writer.add_tensor(f"tensor.{i}", data, raw_dtype=raw)
        written.append(data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = GGUFFile(path)
    for i, (_, value) in enumerate(pairs):
        assert file.metadata[f"pair.{i}"] == value
        assert type(file.metadata[f"pair.{i}"]) is type(value)
    for i, values in enumerate(arrays):
        assert plain(file.metadata[f"array.{i}"]) == values
    assert list(file.tensors) == [f"tensor.{i}" for i in range(len(tensors))]
    reader = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for i, data in enumerate(written):
        tensor = file.tensor(f"tensor.{i}")
        np.testing.assert_array_equal(tensor.data, data.reshape(-1))
        assert list(tensor.shape) == [int(n) for n in reader[tensor.name].shape][::-1]
        assert tensor.source.offset == reader[tensor.name].data_offset
        assert path.read_bytes()[tensor.source.offset :][: tensor.nbytes] == data.tobytes()


def touch_everything(path) -> None:
    """What a user's run reads: configuration, generation defaults, tokenizer, all tensors."""
    checkpoint = open_checkpoint(path)
    for value in checkpoint.gguf_metadata.values():
        plain(value)
    for name in checkpoint.names():
        checkpoint.tensor(name).float32()
    assert isinstance(checkpoint.generation_config, dict)
    checkpoint.tokenizer().encode("ab a<s>")


def error_of(run) -> str | None:
    """The message of the `CheckpointError` that `run` ends in; any other error passes through."""
    try:
        run()
    except CheckpointError as error:
        return str(error)
    return None


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:.*pre-tokenizer:UserWarning")
@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_damage_ends_in_one_kind_of_error(tmp_path, make_gguf, data):
    path = tmp_path / "x.gguf"
    content = bytearray(make_gguf(path).read_bytes())
    header = len(content) - sum(t.nbytes for t in GGUFFile(path).tensors.values())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1))
        width = data.draw(st.sampled_from([1, 1, 4, 8]))
        content[at : at + width] = data.draw(
            st.one_of(
                st.binary(min_size=width, max_size=width),
                st.just(b"\xff" * width),
                st.just(b"\x00" * width),
            )
        )
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    begin = time.monotonic()
    message = error_of(lambda: touch_everything(path))
    assert message is None or str(path) in message
    assert time.monotonic() - begin < 5


def test_every_truncation_is_noticed(tmp_path, make_gguf):
    path = make_gguf(tmp_path / "whole.gguf")
    content = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    last = GGUFFile(path).tensors["blk.0.ffn_down.weight"]
    for size in range(0, last.offset + last.nbytes, 37):
        cut.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            GGUFFile(cut)


class Header:
    """A GGUF file written byte by byte, for lies that no writer tells."""

    def __init__(self, version: int = 3, magic: bytes = b"GGUF") -> None:
        self.version, self.magic = version, magic
        self.pairs: list[bytes] = []
        self.tensors: list[bytes] = []
        self.tail = b""
        self.counts: tuple[int, int] | None = None

    @staticmethod
    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    def pair(self, key: bytes, kind: int, value: bytes) -> Header:
        self.pairs.append(self.string(key) + struct.pack("<I", kind) + value)
        return self

    def tensor(self, name: bytes, shape: list[int], kind: int = 0, offset: int = 0) -> Header:
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        self.tensors.append(self.string(name) + dims + struct.pack("<IQ", kind, offset))
        return self

    def data(self, nbytes: int) -> Header:
        self.tail = bytes(nbytes)
        return self

    def write(self, path):
        counts = self.counts or (len(self.tensors), len(self.pairs))
        head = self.magic + struct.pack("<IQQ", self.version, *counts)
        body = head + b"".join(self.pairs) + b"".join(self.tensors)
        body += bytes(-len(body) % 32)
        path.write_bytes(body + self.tail)
        return path


def lying_counts(tensors: int, pairs: int) -> Header:
    header = Header().data(64)
    header.counts = tensors, pairs
    return header


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQI", 4, 1, 7)


LIES = {
    "magic": (Header(magic=b"PK\x03\x04").data(32), "not a GGUF file"),
    "version 1": (Header(1).data(32), "version 1 is not read"),
    "version 9": (Header(9).data(32), "version 9 is not read"),
    "big-endian": (Header(3 << 24).data(32), "big-endian"),
    "tensor count": (lying_counts(2**63, 0), "number of tensors: 9223372036854775808 items"),
    "pair count": (lying_counts(0, 2**40), "number of metadata pairs"),
    "key length": (Header().pair(b"", 0, b"1").data(64), "'' has 0 characters"),
    "string length": (
        Header().pair(b"k", 8, struct.pack("<Q", 2**62)).data(64),
        "length of k: 4611686018427387904 items cannot fit",
    ),
    "array length": (
        Header().pair(b"k", 9, struct.pack("<IQ", 10, 2**61)).data(64),
        "length of k",
    ),
    "array of strings": (
        Header().pair(b"k", 9, struct.pack("<IQQ", 8, 2, 2**64 - 8)).data(64),
        "string 0 of 2 ends beyond the file",
    ),
    "nesting": (Header().pair(b"k", 9, nested(200)).data(64), "nested deeper than 4"),
    "value type": (Header().pair(b"k", 13, bytes(8)).data(64), "unknown value type 13"),
    "element type": (
        Header().pair(b"k", 9, struct.pack("<IQ", 77, 1)).data(64),
        "unknown element type 77",
    ),
    "bool": (Header().pair(b"k", 7, b"\x02").data(64), "a bool is 0 or 1, not 2"),
    "key twice": (
        Header().pair(b"k", 0, b"1").pair(b"k", 0, b"1").data(64),
        "'k' is there twice",
    ),
    "key not UTF-8": (Header().pair(b"\xff", 0, b"1").data(64), "not UTF-8"),
    "alignment": (
        Header().pair(b"general.alignment", 4, struct.pack("<I", 24)).data(64),
        "general.alignment: 24 is not a power of two",
    ),
    "alignment 0": (
        Header().pair(b"general.alignment", 4, bytes(4)).data(64),
        "general.alignment: 0 is not a power of two",
    ),
    "tensor twice": (
        Header().tensor(b"t", [8]).tensor(b"t", [8], offset=32).data(64),
        "'t' is there twice",
    ),
    "rank": (Header().tensor(b"t", [1] * 5).data(64), "rank of tensor t: 5 is more than 4"),
    "no elements": (Header().tensor(b"t", [4, 0]).data(64), r"\[0, 4\] is out of range"),
    "overflow": (Header().tensor(b"t", [2**40, 2**40]).data(64), "out of range"),
    "offset": (Header().tensor(b"t", [8], offset=2**63).data(64), "offset of tensor t: it ends"),
    "unaligned": (Header().tensor(b"t", [8], offset=4).data(64), "4 is not a multiple of 32"),
    "overlap": (
        Header().tensor(b"t", [16]).tensor(b"u", [16], offset=32).data(128),
        "offset of tensor u: 32 overlaps t",
    ),
    "too short": (Header().tensor(b"t", [17]).data(64), "it ends at byte"),
    "partial block": (Header().tensor(b"t", [48], 2).data(64), "multiple of 32 weights"),
    "known but unread type": (Header().tensor(b"t", [256], 16).data(999), "type IQ2_XXS is not"),
    "unknown type": (Header().tensor(b"t", [256], 99).data(999), "type number 99 is not supported"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(tmp_path, lie):
    header, message = LIES[lie]
    path = header.write(tmp_path / "lie.gguf")
    with pytest.raises(CheckpointError, match=message) as caught:
        GGUFFile(path)
    assert str(path) in str(caught.value)


def test_version_2_and_exact_fit_are_fine(tmp_path):
    path = Header(2).tensor(b"t", [16]).data(64).write(tmp_path / "x.gguf")
    assert GGUFFile(path).version == 2
    np.testing.assert_array_equal(GGUFFile(path).tensor("t").array(), np.zeros(16, np.float32))


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        GGUFFile(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CheckpointError, match="0 bytes are too few"):
        GGUFFile(tmp_path / "empty.gguf")


def test_the_real_model_opens_fast(model_path):
    best = min(_seconds(lambda: open_checkpoint(model_path)) for _ in range(5))
    assert best < 0.06


def _seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def test_strings_behave_as_a_sequence(model):
    tokens = model.gguf_metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 49152
    assert tokens[1] == "<|im_start|>"
    assert tokens[:2] == list(tokens)[:2]
    assert "strings" in repr(tokens)
