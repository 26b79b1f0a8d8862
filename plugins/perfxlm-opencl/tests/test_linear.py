"""Linear layers and tables of every profile: packed, shared, in parts; and their parameters."""

from dataclasses import replace

import numpy as np
import pyopencl as cl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.plugin import FORMATS, Attributes, Site, itemsize
from perfxlm_opencl.kernels.linear import linear
from perfxlm_opencl.kernels.packing import CUTS, Layout, Packed, pieces, unpack
from perfxlm_opencl.kernels.parameters import TABLES, candidates, fitted, valid
from perfxlm_opencl.kernels.tables import embedding
from perfxlm_opencl.profiles import choose

from .operands import MOST, TOKENS, decoded, place, read, weight

PACKED = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k", "float16")
LAYOUTS = sorted({(t.layout.lanes, t.layout.words) for t in TABLES.values() if t.layout})


class Node:
    """A linear layer on a device."""

    def __init__(self, device, tensor, rng):
        rows, columns = tensor.shape
        self.device, self.rows = device, rows
        self.x = rng.standard_normal((MOST, columns)).astype(np.float32)
        self.out = place(device, np.zeros((MOST, rows), np.float32), (TOKENS, rows))
        x = place(device, self.x, (TOKENS, columns))
        operands = {"out": self.out, "x": x, "weight": tensor, "bias": None}
        attrs = Attributes(exact=True)
        site = Site(ops.linear, attrs, operands, None, device, device.allocate)
        self.launch = linear(site)
        self.parts = getattr(self.launch, "parts", [self.launch])

    def run(self, tokens):
        self.launch({"tokens": tokens})
        return read(self.device, self.out, (MOST, self.rows))[:tokens]


def rows_of(device, tensor, ids):
    shape = (len(ids), tensor.shape[1])
    out = place(device, np.zeros(shape, np.float32), shape)
    token_ids = place(device, np.array(ids, np.int32), (len(ids),))
    operands = {"out": out, "token_ids": token_ids, "table": tensor}
    attrs = Attributes(dtype="float32")
    launch = embedding(Site(ops.embedding, attrs, operands, None, device, device.allocate))
    launch({})
    return read(device, out, shape), launch


@given(
    name=st.sampled_from(sorted(CUTS)),
    layout=st.sampled_from([Layout(*found) for found in LAYOUTS]),
    rows=st.integers(1, 150),
    blocks=st.integers(1, 3),
    size=st.sampled_from([1, 20_000, 1 << 24]),
    seed=st.integers(0, 99),
)
def test_packing_can_be_undone(name, layout, rows, blocks, size, seed):
    packed = Packed(layout, CUTS[name], rows, blocks * CUTS[name].weights)
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * CUTS[name].size), np.uint8)
    made = np.full(packed.nbytes, 99, np.uint8)
    for at, piece in pieces(packed, data.reshape(-1), size):
        made[at : at + piece.nbytes] = piece
    np.testing.assert_array_equal(unpack(packed, made), data)


def test_cuts_cover_their_blocks():
    for name, cut in CUTS.items():
        block = (
            (FORMATS[name].block_size, FORMATS[name].block_bytes)
            if name in FORMATS
            else (32, 32 * itemsize(name))
        )
        assert (cut.weights, cut.size) == block
        assert sorted([*range(*cut.units), *range(*cut.extra)]) == list(range(cut.size))


@pytest.mark.parametrize("profile", list(TABLES))
@pytest.mark.parametrize("name", PACKED)
def test_products_and_rows_of_every_profile(open_device, profile, name):
    rng = np.random.default_rng(1)
    device = open_device("intel", profile)
    tensor = weight(name, 70, 512, rng)
    numbers = decoded(tensor)
    node = Node(device, tensor, rng)
    for tokens in (1, 3, MOST):
        expected = node.x[:tokens] @ numbers.T
        np.testing.assert_allclose(
            node.run(tokens), expected, rtol=0, atol=2e-5 * abs(expected).max()
        )
    ids = [0, 69, 17, 17]
    found, _ = rows_of(device, tensor, ids)
    np.testing.assert_array_equal(found, numbers[ids])


@pytest.mark.parametrize(
    ("profile", "name", "wanted"),
    [
        ("adreno", "q4_0", "-DIMAGE=1"),
        ("intel", "q4_k", "-DBLOCK_READS=1"),
        ("mali", "q6_k", "-DWORDS=4"),
    ],
)
def test_profiles_read_weights_as_suits_them(open_device, profile, name, wanted):
    rng = np.random.default_rng(2)
    device = open_device("intel", profile)
    node = Node(device, weight(name, 40, 512, rng), rng)
    info = cl.program_build_info.OPTIONS
    options = [p.program.get_build_info(device.device, info) for p in node.parts]
    assert all(wanted in found for found in options)
    if profile == "adreno":
        assert all(any(isinstance(a, cl.Image) for a in p.arguments) for p in node.parts)


def test_a_refused_program_falls_back(open_device, caplog):
    rng = np.random.default_rng(3)
    device = open_device("intel", "intel")
    attempt = device.programs.attempt
    device.programs.attempt = lambda source, defines, std: attempt(
        source, {**defines, "LANES": "nonsense("}, std
    )
    node = Node(device, weight("q4_0", 20, 64, rng), rng)
    assert "does not compile" in caplog.text
    assert np.isfinite(node.run(2)).all()


@pytest.mark.parametrize("profile", ["intel", "generic"])
def test_a_tied_weight_is_packed_once(open_device, profile):
    rng = np.random.default_rng(4)
    device = open_device("intel", profile)
    tensor = weight("q8_0", 4096, 1024, rng)
    node = Node(device, tensor, rng)
    before = device.pool.used
    found, launch = rows_of(device, tensor, [5])
    assert launch.arguments[4] == node.parts[0].arguments[4]
    assert device.pool.used - before < tensor.nbytes // 10
    np.testing.assert_array_equal(found, decoded(tensor)[[5]])


@pytest.mark.parametrize("profile", ["cpu", "adreno"])
def test_a_weight_that_no_buffer_holds_is_kept_in_parts(open_device, profile):
    rng = np.random.default_rng(5)
    device = open_device("intel", profile)
    tensor = weight("q4_1", 500, 512, rng)
    device.facts = replace(device.facts, max_allocation=1 << 16)
    device.pool.facts = device.facts
    node = Node(device, tensor, rng)
    numbers = decoded(tensor)
    firsts = {p.arguments[-3 if profile == "cpu" else -4] for p in node.parts}
    assert len(firsts) > 2
    for tokens in (1, 6):
        expected = node.x[:tokens] @ numbers.T
        np.testing.assert_allclose(
            node.run(tokens), expected, rtol=0, atol=2e-5 * abs(expected).max()
        )
    ids = [0, 499, 250, 63, 64]
    np.testing.assert_array_equal(rows_of(device, tensor, ids)[0], numbers[ids])


PUBLISHED = {
    "intel": {"max_work_group": 256, "local_memory": 64 << 10},
    "adreno": {"max_work_group": 1024, "local_memory": 32 << 10},
    "mali": {"max_work_group": 256, "local_memory": 32 << 10},
    "generic": {"max_work_group": 128, "local_memory": 16 << 10},
    "cpu": {"max_work_group": 1024, "local_memory": 32 << 10},
}


@pytest.mark.parametrize("profile", list(TABLES))
def test_tables_keep_to_published_limits(open_device, profile):
    facts = replace(open_device("intel").facts, is_cpu=profile == "cpu", **PUBLISHED[profile])
    chosen = choose(facts, profile)
    for _, shape in TABLES[profile].shapes:
        assert valid(fitted(shape, chosen, facts), chosen, facts)


@given(
    profile=st.sampled_from(sorted(TABLES)),
    columns=st.sampled_from([32, 576, 8192]),
    tokens=st.integers(1, 64),
)
def test_a_tuner_is_given_valid_shapes_only(open_device, profile, columns, tokens):
    facts = replace(open_device("intel").facts, **PUBLISHED[profile])
    chosen = choose(facts, profile)
    found = list(candidates(chosen, facts, columns, tokens))
    assert found
    assert len(set(found)) == len(found)
    for shape in found:
        assert shape.items * shape.split <= facts.max_work_group
        assert shape.tokens < 2 * tokens
