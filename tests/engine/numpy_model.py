"""A small decoder in float64 NumPy that reads exactly the engine's step inputs.

Two layers of grouped-query attention over a paged cache. Blocks that nobody wrote hold NaN, and a
block's old contents stay until they are overwritten, so that a wrong block table, slot, position or
length changes the logits.
"""

from dataclasses import dataclass

import numpy as np

LAYERS, HEADS, HEAD_DIM = 2, 2, 8
WIDTH = HEADS * HEAD_DIM


@dataclass
class Inputs:
    token_ids: np.ndarray
    positions: np.ndarray
    slot_mapping: np.ndarray
    block_tables: np.ndarray
    query_starts: np.ndarray
    seq_lens: np.ndarray
    logit_rows: np.ndarray


class NumpyModel:
    """Satisfies the engine's `Runner`."""

    def __init__(
        self,
        vocab_size=64,
        max_model_len=64,
        block_size=4,
        num_blocks=64,
        max_num_seqs=8,
        max_num_batched_tokens=32,
        max_rows=None,
        seed=0,
    ):
        rng = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.embedding = rng.normal(size=(vocab_size, WIDTH))
        self.place = rng.normal(size=(max_model_len, WIDTH)) * 0.5
        self.projections = rng.normal(size=(LAYERS, 4, WIDTH, WIDTH)) * 0.4
        self.head = rng.normal(size=(vocab_size, WIDTH)) * 2
        self.keys = np.full((LAYERS, num_blocks * block_size, HEADS, HEAD_DIM), np.nan)
        self.values = self.keys.copy()
        self.steps = []
        self.inputs = Inputs(
            *(np.full(max_num_batched_tokens, -(2**30), np.int32) for _ in range(3)),
            np.full((max_num_seqs, -(-max_model_len // block_size)), -(2**30), np.int32),
            *(np.full(max_num_seqs + extra, -(2**30), np.int32) for extra in (1, 0)),
            np.full(max_num_seqs if max_rows is None else max_rows, -(2**30), np.int32),
        )

    def run(self, tokens, seqs, rows):
        i = self.inputs
        assert 0 < tokens <= self.max_num_batched_tokens
        assert 0 < seqs <= self.max_num_seqs
        assert rows <= len(i.logit_rows)
        assert i.query_starts[seqs] == tokens
        self.steps.append((tokens, seqs, rows))
        x = self.embedding[i.token_ids[:tokens]] + self.place[i.positions[:tokens]]
        for layer in range(LAYERS):
            x = x + self.attend(layer, x, tokens, seqs)
        logits = x[i.logit_rows[:rows]] @ self.head.T
        return logits.astype(np.float32)

    def attend(self, layer, x, tokens, seqs):
        i = self.inputs
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
        q, k, v = (
            (x @ self.projections[layer, n]).reshape(tokens, HEADS, HEAD_DIM) for n in range(3)
        )
        slots = i.slot_mapping[:tokens]
        assert len(set(slots.tolist())) == tokens, "two tokens write one slot"
        self.keys[layer, slots], self.values[layer, slots] = k, v
        out = np.empty_like(q)
        for s in range(seqs):
            first, last, n = i.query_starts[s], i.query_starts[s + 1], i.seq_lens[s]
            at = np.arange(n)
            table = i.block_tables[s][at // self.block_size]
            where = table * self.block_size + at % self.block_size
            keys, values = self.keys[layer, where], self.values[layer, where]
            scores = np.einsum("thd,jhd->htj", q[first:last], keys) / np.sqrt(HEAD_DIM)
            hidden = at > np.arange(n - (last - first), n)[:, None]
            scores = np.where(hidden, -np.inf, scores)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[first:last] = np.einsum("htj,jhd->thd", weights, values)
        return out.reshape(tokens, WIDTH) @ self.projections[layer, 3]


def alone(prompt, count, **kwargs):
    """Greedy continuation and its logits, computed from scratch for every token."""
    ids, all_logits = list(prompt), []
    model = NumpyModel(**{**kwargs, "num_blocks": 64, "max_num_batched_tokens": 512})
    for _ in range(count):
        all_logits.append(logits_of(model, ids)[-1])
        ids.append(int(all_logits[-1].argmax()))
    return ids[len(prompt) :], np.array(all_logits)


def logits_of(model, ids):
    """[tokens, vocab] logits of a whole sequence in one step."""
    n, i = len(ids), model.inputs
    i.logit_rows = np.arange(n, dtype=np.int32)
    i.token_ids[:n], i.positions[:n], i.slot_mapping[:n] = ids, range(n), range(n)
    i.block_tables[0] = range(i.block_tables.shape[1])
    i.query_starts[:2], i.seq_lens[0] = (0, n), n
    return model.run(n, 1, n)
