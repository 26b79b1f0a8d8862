"""A model ready to run steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxlm_core.graph.plan import Bound
from perfxlm_core.ops.formats import format_nbytes
from perfxlm_core.ops.types import concrete, numpy_dtype
from perfxlm_core.registry.device import Operand, Program

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
        self._placed = {n: bound.operands[n] for n in INPUTS if n in bound.operands}
        self._front = min((o.offset for o in self._placed.values()), default=0)
        self._block = np.zeros(self._block_bytes() if self._staged else 0, np.uint8)
        self._sent: tuple[tuple[int, int, int], Any, npt.NDArray[np.uint8]] | None = None
        self.inputs = StepInputs(**{n: self._input(n) for n in INPUTS})
        self._output = bound.plan.graph.outputs[0].name
        self._logits = self._whole_output()
        kind = numpy_dtype(bound.operands[self._output].dtype)
        same = not self._staged or kind == self._logits.dtype
        self._landed = self._logits if same else np.empty(self._logits.shape, kind)

    def _block_bytes(self) -> int:
        """Bytes from the first to the last of the inputs, which the plan places side by side."""
        ends = [o.offset + _nbytes(o, self._sizes) for o in self._placed.values()]
        return max(ends, default=self._front) - self._front

    def _input(self, name: str) -> Int32s:
        if name not in self._placed:
            return np.zeros(self._shape(name), np.int32)
        if not self._staged:
            view: Int32s = self.bound.view(name)
            return view
        operand = self._placed[name]
        start, nbytes = operand.offset - self._front, _nbytes(operand, self._sizes)
        part: Int32s = self._block[start : start + nbytes].view(np.int32)
        return part.reshape(self._shape(name))

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
            self._send(tokens, seqs, rows)
        self._program(sizes)
        self._receive(rows)
        return self._logits[:rows]

    def watch(self, watcher: Callable[[Program], Program]) -> None:
        """Run what `watcher` makes of the program from now on, to look on or to time it."""
        self._program = watcher(self._program)

    def _send(self, tokens: int, seqs: int, rows: int) -> None:
        """Copy the inputs to the device, all in one."""
        if not self._placed:
            return
        if self._sent is None or self._sent[0] != (tokens, seqs, rows):
            used, first = self._block_bytes(), next(iter(self._placed.values()))
            view = self._device.view(first.buffer, self._front, (used,), "uint8")
            self._sent = (tokens, seqs, rows), view, self._block[:used]
        self._device.copy_in(self._sent[1], self._sent[2])

    def _receive(self, rows: int) -> None:
        if self._staged:
            landed = self._landed[:rows]
            self._device.copy_out(landed, self.bound.view(self._output, self._sizes))
            if self._landed is not self._logits:
                self._logits[:rows] = landed
        elif self.bound.operands[self._output].dtype != "float32":
            self._logits[:rows] = self.bound.view(self._output, self._sizes)


def _nbytes(operand: Operand, sizes: Mapping[str, int]) -> int:
    return format_nbytes(operand.dtype, concrete(operand.shape, sizes))
