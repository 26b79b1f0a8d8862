"""What the engine needs of a loaded model and of a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfxlm_core.checkpoints.detokenize import DecodeStream
    from perfxlm_core.engine.blocks import KVBlocks
    from perfxlm_core.engine.scheduler import Batch

Int32s = npt.NDArray[np.int32]


class StepInputs(Protocol):
    """One step's inputs, int32, allocated once and filled in place.

    The batch is ragged: sequence `s` owns the tokens `query_starts[s]:query_starts[s + 1]`, which
    are the last of its `seq_lens[s]` tokens.

    Attributes:
        token_ids: [max_num_batched_tokens].
        positions: [max_num_batched_tokens], of each token in its sequence.
        slot_mapping: [max_num_batched_tokens], `block * block_size + offset` for each token.
        block_tables: [max_num_seqs, max_blocks]; what lies past a sequence's blocks is not read.
        query_starts: [max_num_seqs + 1].
        seq_lens: [max_num_seqs], this step's tokens included.
        logit_rows: [max_rows], places in `token_ids` whose logits are wanted.
    """

    @property
    def token_ids(self) -> Int32s:
        """The tokens to compute."""
        ...

    @property
    def positions(self) -> Int32s:
        """Each token's position."""
        ...

    @property
    def slot_mapping(self) -> Int32s:
        """Where each token's key and value go."""
        ...

    @property
    def block_tables(self) -> Int32s:
        """Each sequence's blocks."""
        ...

    @property
    def query_starts(self) -> Int32s:
        """Where each sequence begins among the tokens."""
        ...

    @property
    def seq_lens(self) -> Int32s:
        """Each sequence's length."""
        ...

    @property
    def logit_rows(self) -> Int32s:
        """Which tokens need logits."""
        ...


class Runner(Protocol):
    """A model, loaded and planned for given limits."""

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows."""
        ...

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest sequence."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens of a KV block."""
        ...

    @property
    def num_blocks(self) -> int:
        """KV blocks."""
        ...

    @property
    def max_num_seqs(self) -> int:
        """Sequences of a step, at most."""
        ...

    @property
    def max_num_batched_tokens(self) -> int:
        """Tokens of a step, at most."""
        ...

    @property
    def inputs(self) -> StepInputs:
        """The step's inputs."""
        ...

    def run(self, tokens: int, seqs: int, rows: int) -> npt.NDArray[np.float32]:
        """Run one step on what `inputs` holds.

        Returns:
            [rows, vocab] float32 logits, valid until the next run.
        """
        ...


class Tokenizer(Protocol):
    """What the engine asks of a tokenizer."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        ...

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """Every token that does."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        ...

    def decode_stream(
        self, context: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> DecodeStream:
        """Text a token at a time, after the tokens of `context`."""
        ...

    def apply_chat_template(self, messages: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """A conversation as the model's prompt."""
        ...


def fill(inputs: StepInputs, batch: Batch, blocks: KVBlocks) -> tuple[int, int, int]:
    """Write a batch into the step's inputs; its numbers of tokens, sequences and logit rows."""
    requests, n = batch.requests, len(batch.requests)
    counts = np.array(batch.counts, np.int32)
    starts = np.array([r.num_computed_tokens for r in requests], np.int32)
    ends = starts + counts
    query_starts = inputs.query_starts
    query_starts[0] = 0
    np.cumsum(counts, out=query_starts[1 : n + 1])
    tokens = int(query_starts[n])
    inputs.seq_lens[:n] = ends

    used = -(-int(ends.max()) // blocks.block_size)
    tables = inputs.block_tables[:n, :used]
    tables[...] = blocks.tables[np.array([r.row for r in requests]), :used]

    seq = np.repeat(np.arange(n), counts)
    positions = inputs.positions[:tokens]
    np.add(np.arange(tokens, dtype=np.int32), (starts - query_starts[:n])[seq], out=positions)
    block, offset = np.divmod(positions, blocks.block_size)
    np.add(tables[seq, block] * blocks.block_size, offset, out=inputs.slot_mapping[:tokens])

    at = 0
    for request, count in zip(requests, batch.counts, strict=True):
        start = request.num_computed_tokens
        inputs.token_ids[at : at + count] = request.token_ids[start : start + count]
        at += count
    return tokens, n, _fill_logit_rows(inputs, batch, n)


def _fill_logit_rows(inputs: StepInputs, batch: Batch, n: int) -> int:
    rows = np.array(batch.rows, np.int32)
    total = int(rows.sum())
    ends = inputs.query_starts[1 : n + 1]
    firsts = ends - np.cumsum(rows, dtype=np.int32)
    np.add(np.repeat(firsts, rows), np.arange(total, dtype=np.int32), out=inputs.logit_rows[:total])
    return total
