"""How keys are read: by subgroups on the profile whose devices have them, else by work-items."""

import numpy as np
import pyopencl as cl
import pytest

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dim, Site
from perfxlm_opencl.kernels.attention import paged_attention

from .operands import TOKENS, place, read

SEQS = Dim.symbol("seqs")
HEADS, KV_HEADS, SIZE = 6, 2, 64
CONTEXT, BLOCK = 75, 16
NEW = 5
"""Tokens of the only sequence that a step computes, at most."""


class Node:
    """Attention of the last tokens of one sequence, its blocks out of order."""

    def __init__(self, device):
        rng = np.random.default_rng(1)
        self.device, blocks = device, -(-CONTEXT // BLOCK)
        self.table = rng.permutation(blocks).astype(np.int32)
        self.keys, self.values = (
            rng.standard_normal((blocks, BLOCK, KV_HEADS, SIZE)).astype(np.float32) for _ in "kv"
        )
        self.q = rng.standard_normal((NEW, HEADS, SIZE)).astype(np.float32)

    def run(self, tokens):
        """The launch, and its result for this many tokens."""
        device, shape = self.device, (TOKENS, HEADS, SIZE)
        out = place(device, np.zeros((NEW, HEADS, SIZE), np.float32), shape)
        starts, lens = np.array([0, tokens], np.int32), np.array([CONTEXT], np.int32)
        given = {
            "out": out, "q": place(device, self.q, shape), "sinks": None,
            "k_cache": place(device, self.keys, self.keys.shape),
            "v_cache": place(device, self.values, self.values.shape),
            "block_tables": place(device, self.table[None], (SEQS, len(self.table))),
            "seq_lens": place(device, lens, (SEQS,)),
            "query_starts": place(device, starts, (SEQS + 1,)),
        }  # fmt: skip
        attrs = Attributes(scale=None, soft_cap=None, window=None)
        site = Site(ops.paged_attention, attrs, given, None, device, device.allocate)
        launch = paged_attention(site)
        launch({"tokens": tokens, "seqs": 1})
        return launch, read(device, out, (NEW, HEADS, SIZE))[:tokens]

    def expected(self, tokens):
        keys, values = (a[self.table].reshape(-1, KV_HEADS, SIZE) for a in (self.keys, self.values))
        made = np.empty((tokens, HEADS, SIZE))
        for t in range(tokens):
            seen = CONTEXT - tokens + t + 1
            for h in range(HEADS):
                group = h // (HEADS // KV_HEADS)
                scores = keys[:seen, group] @ self.q[t, h] * SIZE**-0.5
                weights = np.exp(scores - scores.max())
                made[t, h] = weights @ values[:seen, group] / weights.sum()
        return made


def options_of(device, launch):
    return launch.program.get_build_info(device.device, cl.program_build_info.OPTIONS)


@pytest.mark.parametrize(("profile", "size"), [("intel", 16), ("adreno", 0), ("generic", 0)])
def test_keys_are_read_as_suits_the_profile(open_device, profile, size):
    """Adreno's drivers may end where they compile a subgroup's reduction: never asked for there."""
    device = open_device("intel", profile)
    node = Node(device)
    for tokens in (1, NEW):
        launch, got = node.run(tokens)
        assert f"-DSUBGROUPS={size} " in options_of(device, launch) + " "
        np.testing.assert_allclose(got, node.expected(tokens), rtol=0, atol=1e-5)


def test_a_driver_without_reductions_gets_the_plain_kernel(open_device, caplog):
    device = open_device("intel", "intel")
    attempt = device.programs.attempt
    device.programs.attempt = lambda source, defines: attempt(
        source, {**defines, "KEYS": "nonsense("}
    )
    node = Node(device)
    launch, got = node.run(1)
    assert "does not compile" in caplog.text
    assert "-DSUBGROUPS=0 " in options_of(device, launch) + " "
    np.testing.assert_allclose(got, node.expected(1), rtol=0, atol=1e-5)
