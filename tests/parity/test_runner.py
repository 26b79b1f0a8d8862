"""Raw logits of hand-made steps: ragged batches over blocks that lie anywhere in the cache."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.graph.loading import LoadOptions, load_runner
from perfxlm_core.registry.plugins import load_plugins

from .tiny import prompt

BLOCK = 4
LIMITS = {
    "max_model_len": 64,
    "max_num_seqs": 64,  # rows of logits as well
    "max_num_batched_tokens": 128,
    "block_size": BLOCK,
    "num_gpu_blocks_override": 64,
}


@pytest.fixture(scope="module")
def runner(tiny):
    """`tiny`, loaded once."""
    plugins = load_plugins()
    options = LoadOptions(dtype="float32", **LIMITS)
    return load_runner(open_checkpoint(tiny.path), plugins.device(), plugins.registry, options)


def step(runner, sequences, tables, spans):
    """Logits of all new tokens, when each sequence computes its tokens of `span`."""
    inputs, at = runner.inputs, 0
    inputs.query_starts[0] = 0
    for s, ((start, end), ids) in enumerate(zip(spans, sequences, strict=True)):
        n, positions = end - start, np.arange(start, end)
        inputs.token_ids[at : at + n] = ids[start:end]
        inputs.positions[at : at + n] = positions
        slots = tables[s][positions // BLOCK] * BLOCK + positions % BLOCK
        inputs.slot_mapping[at : at + n] = slots
        inputs.block_tables[s] = 63  # what lies past the end is not read
        inputs.block_tables[s, : len(tables[s])] = tables[s]
        inputs.query_starts[s + 1] = at = at + n
        inputs.seq_lens[s] = end
    inputs.logit_rows[:at] = np.arange(at)
    logits = runner.run(at, len(sequences), at).copy()
    return np.split(logits, inputs.query_starts[1 : len(sequences)])


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_every_split_into_steps_gives_the_same_logits(tiny, runner, data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4), label="lengths")
    blocks = data.draw(st.permutations(range(63)), label="blocks")
    sequences = [prompt(n, seed) for seed, n in enumerate(lengths)]
    tables = [np.array(blocks[10 * s : 10 * s + 10]) for s in range(len(lengths))]
    done = [0] * len(lengths)
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        active = [s for s, n in enumerate(lengths) if done[s] < n]
        ends = {
            s: data.draw(st.integers(done[s] + 1, min(lengths[s], done[s] + 16))) for s in active
        }
        found = step(
            runner,
            [sequences[s] for s in active],
            [tables[s] for s in active],
            [(done[s], ends[s]) for s in active],
        )
        for s, logits in zip(active, found, strict=True):
            expected = tiny.logits(sequences[s])[done[s] : ends[s]]
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
            done[s] = ends[s]
