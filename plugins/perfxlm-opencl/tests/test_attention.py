"""Attention: tiles of queries, pieces of contexts, and how few programs that takes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dim, Site
from perfxlm_opencl.kernels.attention import PIECE, local_bytes, paged_attention

from .operands import TOKENS, place, read

SEQS = Dim.symbol("seqs")
BLOCK = 16
LONGEST = 3 * PIECE
HEAD_SIZES = (1, 3, 16, 31, 64, 80, 128)
PLAIN = {"scale": None, "soft_cap": None, "window": None}
RUNS = (("intel", "cpu"), ("intel", "generic"), ("pocl", "cpu"))


@dataclass(frozen=True)
class Case:
    """A step: context and new tokens of each sequence, and the shape of heads.

    Attributes:
        batch: `(context, new tokens)` of each sequence.
        group: query heads of each of the two key heads.
        size: of keys, `v_size` of values.
    """

    batch: tuple[tuple[int, int], ...]
    group: int = 3
    size: int = 64
    v_size: int = 64
    cache: str = "float32"
    attrs: tuple[tuple[str, float | int], ...] = ()
    sinks: bool = False

    def arrays(self):
        """Inputs in the order of the operator; slots that no sequence uses hold NaN."""
        rng = np.random.default_rng(1)
        counts = [-(-n // BLOCK) for n, _ in self.batch]
        order = iter(rng.permutation(sum(counts) + 1))
        nowhere = next(order)
        tables = np.full((len(counts), LONGEST // BLOCK), nowhere, np.int32)
        caches = [
            np.full((sum(counts) + 1, BLOCK, 2, size), np.nan, self.cache)
            for size in (self.size, self.v_size)
        ]
        for s, (n, _) in enumerate(self.batch):
            tables[s, : counts[s]] = [next(order) for _ in range(counts[s])]
            for j in range(n):
                for cache in caches:
                    at = tables[s, j // BLOCK], j % BLOCK
                    cache[at] = rng.standard_normal(cache.shape[2:])
        starts = np.cumsum([0, *(m for _, m in self.batch)]).astype(np.int32)
        heads = 2 * self.group
        q = rng.standard_normal((starts[-1], heads, self.size)).astype(np.float32)
        lens = np.array([n for n, _ in self.batch], np.int32)
        sinks = rng.standard_normal(heads).astype(np.float32) if self.sinks else None
        return [q, *caches, tables, lens, starts, sinks]

    @property
    def attributes(self):
        return {**PLAIN, **dict(self.attrs)}


def attend(device, case, arrays, dims=(TOKENS, SEQS)):
    """The launch, and its result."""
    q, keys, values, tables, lens, starts, sinks = arrays
    tokens, seqs = dims
    shape = (*q.shape[:2], values.shape[-1])
    out = place(device, np.zeros(shape, np.float32), (tokens, *shape[1:]))
    given = {
        "out": out, "q": place(device, q, (tokens, *q.shape[1:])),
        "k_cache": place(device, keys, keys.shape), "v_cache": place(device, values, values.shape),
        "block_tables": place(device, tables, (seqs, tables.shape[1])),
        "seq_lens": place(device, lens, (seqs,)),
        "query_starts": place(device, starts, (seqs + 1,)),
        "sinks": None if sinks is None else place(device, sinks, sinks.shape),
    }  # fmt: skip
    nbytes = 4 * 4 * shape[1] * (LONGEST // PIECE) * (shape[2] + 2)
    scratch = place(device, np.zeros(nbytes, np.uint8), (nbytes,))
    site = Site(
        ops.paged_attention, Attributes(**case.attributes), given, scratch, device, device.allocate
    )
    launch = paged_attention(site)
    launch({"tokens": len(q), "seqs": len(lens)})
    return launch, read(device, out, shape)


def one_row(arrays, case, s, row):
    """The inputs of a step that computes one new token of one sequence."""
    q, keys, values, tables, lens, starts, sinks = arrays
    behind = case.batch[s][1] - 1 - row
    at = starts[s] + row
    return [
        q[at : at + 1], keys, values, tables[s : s + 1], lens[s : s + 1] - np.int32(behind),
        np.array([0, 1], np.int32), sinks,
    ]  # fmt: skip


@st.composite
def cases(draw):
    """Ragged batches: prompts, chunks behind long contexts, single tokens, sequences that wait."""

    def sequence(n):
        return st.tuples(st.just(n), st.sampled_from(sorted({0, 1, n // 3, min(n, 40)})))

    lengths = st.one_of(
        st.integers(1, 70), st.sampled_from([PIECE, PIECE + 1, 2 * PIECE - 1, LONGEST])
    )
    batch = draw(st.lists(lengths.flatmap(sequence), min_size=1, max_size=4))
    if not any(m for _, m in batch):
        batch.append((40, 40))
    attrs = {
        "window": draw(st.sampled_from([None, None, 1, 9, PIECE])),
        "soft_cap": draw(st.sampled_from([None, None, 5.0])),
    }
    return Case(
        tuple(batch),
        draw(st.sampled_from([1, 2, 3, 5, 9])),
        draw(st.sampled_from(HEAD_SIZES)),
        draw(st.sampled_from(HEAD_SIZES)),
        draw(st.sampled_from(["float32", "float16"])),
        tuple(attrs.items()),
        draw(st.booleans()),
    )


@pytest.mark.parametrize(("runtime", "profile"), RUNS)
@given(data=st.data())
def test_tiles_give_what_the_definition_does(open_device, runtime, profile, data):
    """And a token gets the same bits alone as among others, in tiles and pieces of any kind."""
    device, case = open_device(runtime, profile), data.draw(cases())
    arrays = case.arrays()
    _, got = attend(device, case, arrays)
    want = ops.paged_attention(*arrays, **case.attributes)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
    s = data.draw(st.sampled_from([s for s, (_, m) in enumerate(case.batch) if m]))
    row = data.draw(st.integers(0, case.batch[s][1] - 1))
    _, alone = attend(device, case, one_row(arrays, case, s, row))
    np.testing.assert_array_equal(alone[0], got[arrays[5][s] + row])


@pytest.mark.parametrize("profile", ["intel", "adreno", "mali"])
def test_all_kinds_of_launches_agree(open_device, profile):
    """Pieces side by side, small tiles and large ones."""
    device = open_device("intel", profile)
    case = Case(((LONGEST, 7), (50, 50)), attrs=(("window", 200),))
    arrays = case.arrays()
    _, got = attend(device, case, arrays)
    np.testing.assert_allclose(
        got, ops.paged_attention(*arrays, **case.attributes), rtol=0, atol=2e-5
    )
    for row in (0, 6):
        launch, alone = attend(device, case, one_row(arrays, case, 0, row))
        sizes = {"tokens": 1, "seqs": 1}
        ran = [p.kernel for p in launch.parts if p.global_size(sizes) is not None]
        assert ran == ["paged_attention", "merge_pieces"]
        np.testing.assert_array_equal(alone[0], got[row])
    decoded = Case(((LONGEST, 1),) * 6)
    arrays = decoded.arrays()
    _, got = attend(device, decoded, arrays)
    np.testing.assert_allclose(got, ops.paged_attention(*arrays), rtol=0, atol=2e-5)


def test_values_of_a_token_to_come_do_not_matter(open_device):
    """On processors: what a later token of the same prompt holds, be it infinite."""
    device, case = open_device("intel", "cpu"), Case(((20, 20),))
    arrays = case.arrays()
    _, before = attend(device, case, arrays)
    tables, values = arrays[3], arrays[2]
    values[tables[0, 1], 3] = np.inf
    _, after = attend(device, case, arrays)
    np.testing.assert_array_equal(after[:19], before[:19])
    assert not np.isfinite(after[19]).any()


def read_keys(device, case):
    """Work-groups that a step launches, for each of which keys are read once."""
    arrays = case.arrays()
    launch, _ = attend(device, case, arrays)
    parts = getattr(launch, "parts", (launch,))
    sizes = {"tokens": len(arrays[0]), "seqs": len(case.batch)}
    groups = [
        np.prod([t.count(sizes) for t in p.groups])
        for p in parts
        if p.global_size(sizes) is not None
    ]
    return int(sum(groups))


@pytest.mark.parametrize("profile", ["cpu", "generic"])
def test_a_prompt_reads_keys_once_for_many_queries(open_device, profile):
    """Of 96 tokens and 6 heads, 16 queries share what a work-group reads."""
    device = open_device("intel", profile)
    assert read_keys(device, Case(((96, 96),))) <= 96 * 6 // 16 + 2 * 2


@pytest.mark.parametrize("profile", ["cpu", "generic"])
def test_head_sizes_share_programs(open_device, profile):
    device = open_device("intel", profile)
    programs = set()
    for size, v_size in ((64, 64), (1, 64), (33, 7), (48, 64), (17, 17)):
        launch, _ = attend(device, Case(((5, 5),), size=size, v_size=v_size), Case(
            ((5, 5),), size=size, v_size=v_size).arrays())  # fmt: skip
        programs |= {p.program for p in getattr(launch, "parts", (launch,))}
    assert len(programs) == (1 if profile == "cpu" else 3)


@pytest.mark.parametrize("size", [8, 64, 128, 256, 512, 1024])
def test_a_group_has_local_memory_enough(size):
    """The least that OpenCL 1.2 asks of a device: 32 KiB."""
    assert local_bytes(size) <= 32 << 10


@pytest.mark.parametrize("size", [256, 300])
def test_large_heads(open_device, size):
    for profile in ("cpu", "generic"):
        device, case = open_device("intel", profile), Case(((40, 40),), size=size, v_size=size)
        arrays = case.arrays()
        _, got = attend(device, case, arrays)
        np.testing.assert_allclose(got, ops.paged_attention(*arrays), rtol=0, atol=2e-5)


def test_fewer_work_items_than_value_elements(open_device):
    """Where a kernel may have small groups only."""
    device = open_device("intel", "generic")
    device.profile = replace(device.profile, max_items=32)
    case = Case(((PIECE + 2, PIECE + 2),), size=80, v_size=80)
    arrays = case.arrays()
    _, got = attend(device, case, arrays)
    np.testing.assert_allclose(got, ops.paged_attention(*arrays), rtol=0, atol=2e-5)
