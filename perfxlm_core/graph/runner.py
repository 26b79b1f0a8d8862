"""A model ready to run steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxlm_core.graph.plan import Bound

Int32s = npt.NDArray[np.int32]

INPUTS = (
    "token_ids", "positions", "slot_mapping", "block_tables", "query_starts", "seq_lens",
    "logit_rows",
)  # fmt: skip


@dataclass(frozen=True)
class StepInputs:
    """One step's inputs, int32, allocated once and filled in place.

    Attributes:
        token_ids: [max_num_batched_tokens].
        positions: [max_num_batched_tokens], of each token in its sequence.
        slot_mapping: [max_num_batched_tokens], `block * block_size + offset` for each token.
        block_tables: [max_num_seqs, max_blocks].
        query_starts: [max_num_seqs + 1], prefix sums of tokens per sequence.
        seq_lens: [max_num_seqs], context length, this step's tokens included.
        logit_rows: [max_num_seqs], tokens whose logits are wanted.
    """

    token_ids: Int32s
    positions: Int32s
    slot_mapping: Int32s
    block_tables: Int32s
    query_starts: Int32s
    seq_lens: Int32s
    logit_rows: Int32s


@dataclass
class Limits:
    """What a runner is planned for.

    Attributes:
        max_model_len: tokens of the longest sequence.
        block_size: tokens of a KV block.
        num_blocks: KV blocks of each layer.
        max_num_seqs: sequences of a step, and rows of logits.
        max_num_batched_tokens: tokens of a step.
    """

    max_model_len: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int


class ModelRunner:
    """Runs steps of one planned model: fill `inputs`, call `run`, read the logits."""

    def __init__(self, bound: Bound, limits: Limits) -> None:
        self.bound = bound
        self.limits = limits
        self.vocab_size = int(bound.plan.graph.outputs[0].shape[-1])
        self.max_model_len = limits.max_model_len
        self.block_size = limits.block_size
        self.num_blocks = limits.num_blocks
        self.max_num_seqs = limits.max_num_seqs
        self.max_num_batched_tokens = limits.max_num_batched_tokens
        self._device = bound.plan.device
        self._program = bound.program
        self._sizes = dict(bound.plan.sizes)
        self._staged = not self._device.host_visible
        self.inputs = StepInputs(**{n: self._input(n) for n in INPUTS})
        self._output = bound.plan.graph.outputs[0].name
        self._logits = self._whole_output()

    def _input(self, name: str) -> Int32s:
        if name in self.bound.operands and not self._staged:
            view: Int32s = self.bound.view(name)
            return view
        return np.zeros(self._shape(name), np.int32)

    def _shape(self, name: str) -> tuple[int, ...]:
        seqs, tokens = self.max_num_seqs, self.max_num_batched_tokens
        if name == "block_tables":
            return seqs, -(-self.max_model_len // self.block_size)
        if name == "query_starts":
            return (seqs + 1,)
        return (tokens,) if name in ("token_ids", "positions", "slot_mapping") else (seqs,)

    def _whole_output(self) -> npt.NDArray[np.float32]:
        if self._staged or self.bound.operands[self._output].dtype != "float32":
            return np.zeros((self.max_num_seqs, self.vocab_size), np.float32)
        view: npt.NDArray[np.float32] = self.bound.view(self._output)
        return view

    def run(self, tokens: int, seqs: int, rows: int) -> npt.NDArray[np.float32]:
        """Run one step on what `inputs` holds.

        Args:
            tokens: tokens of the step.
            seqs: sequences that they belong to.
            rows: entries of `inputs.logit_rows`.

        Returns:
            [rows, vocab] float32 logits, valid until the next run.
        """
        sizes = self._sizes
        sizes["tokens"], sizes["seqs"], sizes["rows"] = tokens, seqs, rows
        if self._staged:
            self._send()
        self._program(sizes)
        self._receive(rows)
        return self._logits[:rows]

    def _send(self) -> None:
        for name in INPUTS:
            if name in self.bound.operands:
                host: Any = getattr(self.inputs, name)
                view = self.bound.view(name, self._sizes)
                self._device.copy_in(view, host[tuple(slice(n) for n in view.shape)])

    def _receive(self, rows: int) -> None:
        if self._staged:
            self._device.copy_out(self._logits[:rows], self.bound.view(self._output, self._sizes))
        elif self.bound.operands[self._output].dtype != "float32":
            self._logits[:rows] = self.bound.view(self._output, self._sizes)
