"""Which requests get how many tokens of the next step."""

from __future__ import annotations

import heapq
from bisect import insort
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perfxlm_core.engine.fairness import FairQueue
from perfxlm_core.engine.request import Request, RequestStatus

if TYPE_CHECKING:
    from perfxlm_core.engine.blocks import KVBlocks


@dataclass(slots=True)
class Batch:
    """One step's work.

    `counts[i]` tokens of `requests[i]`, from its `num_computed_tokens` on, are computed; the last
    `rows[i]` of them need logits.
    """

    requests: list[Request] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, request: Request, count: int, rows: int) -> None:
        """Add a request."""
        self.requests.append(request)
        self.counts.append(count)
        self.rows.append(rows)


class Scheduler:
    """Continuous batching with chunked prefill and preemption by recomputation.

    There is no prefill phase and no decode phase. Each request has tokens, and some of them are
    computed; each step hands out a budget of tokens so that the second number catches up with the
    first: to running requests first, then to waiting ones. When a running request finds no block,
    the last one in order of service gives its blocks back and waits again; it will recompute what
    the prefix cache has lost.

    Requests are served by arrival, or by priority (smaller is sooner) and then arrival; those of
    several clients in turns, see `FairQueue`. The first in that order can always take every block,
    so every request ends.

    Args:
        max_rows: Rows of logits that one step can produce; at least `max_num_seqs`.
        enable_chunked_prefill: Whether a prompt may be computed in several steps; without it
            `max_num_batched_tokens` must hold the longest request.

    Source:
        The rule of vLLM's V1 scheduler; Agrawal et al. 2023, arXiv:2308.16369 (chunked prefill).
    """

    def __init__(
        self,
        blocks: KVBlocks,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_rows: int,
        by_priority: bool = False,
        enable_chunked_prefill: bool = True,
    ) -> None:
        self.blocks = blocks
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_rows = max_rows
        self.by_priority = by_priority
        self.enable_chunked_prefill = enable_chunked_prefill
        self.running: list[Request] = []
        self._waiting: list[tuple[tuple[int, int, int], Request]] = []
        self._num_waiting = 0
        self._fair = FairQueue()

    @property
    def num_waiting(self) -> int:
        """Requests that hold no blocks yet, or no longer."""
        return self._num_waiting

    def add(self, request: Request) -> None:
        """Queue a new request."""
        if request.tag is None:
            request.tag = self._fair.tag(request.client, request.num_tokens)
        self._enqueue(request)
        self._num_waiting += 1

    def finish(self, request: Request) -> None:
        """Take a request out, whatever its state, and give its blocks back."""
        if request.status is RequestStatus.RUNNING:
            with suppress(ValueError):  # an interrupt may have come between two changes
                self.running.remove(request)
        elif request.status is RequestStatus.WAITING:
            self._num_waiting -= 1  # its place in the heap is skipped when it comes up
        self.blocks.release(request)
        request.status = RequestStatus.FINISHED

    def schedule(self) -> Batch:
        """The next step's batch; empty only when there is nothing to do."""
        batch = Batch()
        budget = self._continue_running(batch)
        if len(batch.requests) == len(self.running):
            self._admit_waiting(batch, budget)
        return batch

    def computed(self, batch: Batch) -> None:
        """Record that the batch has run, and let others find the blocks that it filled."""
        for request, count in zip(batch.requests, batch.counts, strict=True):
            request.num_computed_tokens += count
            self.blocks.publish(request)

    def preempt_all(self) -> None:
        """Take every running request's blocks; all of them wait, to be computed again."""
        while self.running:
            self._preempt(self.running.pop())

    # -- running ------------------------------------------------------------------------------

    def _continue_running(self, batch: Batch) -> int:
        budget, rows, i = self.max_num_batched_tokens, self.max_rows, 0
        while i < len(self.running) and budget > 0:
            request = self.running[i]
            others = len(self.running) - i - 1
            count = self._chunk(request, budget, rows - others)
            if count == 0 or not self._make_room(request, count):
                break
            wanted = request.logit_rows(count)
            batch.add(request, count, wanted)
            budget -= count
            rows -= wanted
            i += 1
        return budget

    def _chunk(self, request: Request, budget: int, rows: int) -> int:
        """How many tokens the request gets: what it lacks, within the budget and the rows."""
        left = request.num_tokens - request.num_computed_tokens
        count = min(left, budget)
        if count < left and not self.enable_chunked_prefill:
            return 0
        surplus = request.logit_rows(count) - rows
        return count if surplus <= 0 else max(0, count - surplus)

    def _make_room(self, request: Request, count: int) -> bool:
        """Find blocks for the request, preempting from the end; False if it was the last itself."""
        while not self.blocks.extend(request, request.num_computed_tokens + count):
            victim = self.running.pop()
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.blocks.release(request)
        request.num_preemptions += 1
        self.add(request)

    # -- waiting ------------------------------------------------------------------------------

    def _admit_waiting(self, batch: Batch, budget: int) -> None:
        rows = self.max_rows - sum(batch.rows)
        being_filled = self._being_filled(batch)
        postponed: list[Request] = []
        while budget > 0 and rows > 0 and len(self.running) < self.max_num_seqs:
            request = self._first_waiting()
            if request is None or len(postponed) == self.max_num_seqs:
                break
            prefix = self.blocks.cached_prefix(request)
            if self._prefix_is_coming(request, len(prefix), being_filled):
                heapq.heappop(self._waiting)
                postponed.append(request)
                continue
            request.num_computed_tokens = len(prefix) * self.blocks.block_size
            count = self._chunk(request, budget, rows)
            if count == 0 or not self.blocks.admit(
                request, prefix, request.num_computed_tokens + count
            ):
                request.num_computed_tokens = 0
                break
            self._start(request)
            wanted = request.logit_rows(count)
            batch.add(request, count, wanted)
            self._note_filling(request, count, being_filled)
            budget -= count
            rows -= wanted
        for request in postponed:
            self._enqueue(request)

    def _start(self, request: Request) -> None:
        heapq.heappop(self._waiting)
        self._num_waiting -= 1
        request.status = RequestStatus.RUNNING
        self._fair.serve(request.tag or 0)
        if request.num_cached_tokens is None:
            request.num_cached_tokens = request.num_computed_tokens
        insort(self.running, request, key=self._key)

    def _being_filled(self, batch: Batch) -> set[bytes]:
        """Digests of the blocks that this step will fill, for whoever could wait for them."""
        digests: set[bytes] = set()
        if self._num_waiting and self.blocks.enable_prefix_caching:
            for request, count in zip(batch.requests, batch.counts, strict=True):
                self._note_filling(request, count, digests)
        return digests

    def _note_filling(self, request: Request, count: int, digests: set[bytes]) -> None:
        if self.blocks.enable_prefix_caching:
            size = self.blocks.block_size
            first = request.num_computed_tokens // size
            last = (request.num_computed_tokens + count) // size
            if last > first:
                digests.update(self.blocks.hashes(request, last)[first:])

    def _prefix_is_coming(self, request: Request, num_found: int, filling: set[bytes]) -> bool:
        """Whether a running request is about to fill the block that this one lacks.

        Blocks can be read only from the next step on; waiting for it costs a step and saves
        computing a shared prefix twice.
        """
        if request.skip_reading_prefix_cache or not filling:
            return False
        known = request.block_hashes  # cached_prefix has made those that may be shared
        return num_found < len(known) and known[num_found] in filling

    def _first_waiting(self) -> Request | None:
        while self._waiting:
            request = self._waiting[0][1]
            if request.status is RequestStatus.WAITING:
                return request
            heapq.heappop(self._waiting)
        return None

    def _enqueue(self, request: Request) -> None:
        request.status = RequestStatus.WAITING
        heapq.heappush(self._waiting, (self._key(request), request))

    def _key(self, request: Request) -> tuple[int, int, int]:
        return (request.priority if self.by_priority else 0, request.tag or 0, request.order)
