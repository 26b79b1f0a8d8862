"""The scheduler and its blocks, driven at random, with the KV cache's contents simulated."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perfxlm_core.engine.blocks import BlockPool, KVBlocks
from perfxlm_core.engine.request import Request, RequestStatus
from perfxlm_core.engine.scheduler import Scheduler


class Machine(RuleBasedStateMachine):
    """Requests come, run, end and are aborted; what a slot holds is the prefix written there."""

    @initialize(
        num_blocks=st.integers(6, 20),
        block_size=st.integers(1, 5),
        max_num_seqs=st.integers(1, 5),
        budget=st.integers(5, 30),
        caching=st.booleans(),
        by_priority=st.booleans(),
    )
    def start(self, num_blocks, block_size, max_num_seqs, budget, caching, by_priority):
        self.blocks = KVBlocks(
            num_blocks,
            block_size,
            max_num_seqs=max_num_seqs,
            max_model_len=40,
            enable_prefix_caching=caching,
        )
        self.scheduler = Scheduler(
            self.blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_rows=max_num_seqs,
            by_priority=by_priority,
        )
        self.slots = {}
        self.wanted = {}
        self.order = 0

    @rule(
        family=st.integers(0, 1),
        length=st.one_of(st.sampled_from([4, 6, 12]), st.integers(1, 30)),
        own=st.one_of(st.just([]), st.lists(st.integers(0, 3), max_size=3)),
        output=st.integers(1, 12),
        priority=st.integers(0, 2),
        client=st.sampled_from(["", "", "a", "b"]),
        salt=st.sampled_from(["", "", "s"]),
        skip=st.sampled_from([False, False, False, True]),
        logits=st.sampled_from([False, False, False, True]),
    )
    def add(self, family, length, own, output, priority, client, salt, skip, logits):
        prompt = [family + i % 3 for i in range(length)] + own
        prompt = prompt[: self.blocks.capacity - 1] or [0]
        request = Request(
            str(self.order),
            prompt,
            order=self.order,
            priority=priority,
            client=client,
            cache_salt=salt,
            skip_reading_prefix_cache=skip or logits,
            needs_prompt_logits=logits,
        )
        self.order += 1
        self.wanted[request] = min(len(prompt) + output, self.blocks.capacity)
        self.scheduler.add(request)

    @precondition(lambda self: self.wanted)
    @rule(which=st.integers(0, 100))
    def abort(self, which):
        request = list(self.wanted)[which % len(self.wanted)]
        self.scheduler.finish(request)
        del self.wanted[request]

    @rule()
    def forget(self):
        self.blocks.pool.forget_all()

    @precondition(lambda self: self.wanted)
    @rule()
    def step(self):
        scheduler = self.scheduler
        batch = scheduler.schedule()
        assert batch.requests, "requests wait and nothing runs"
        assert sum(batch.counts) <= scheduler.max_num_batched_tokens
        assert sum(batch.rows) <= scheduler.max_rows
        assert len(set(batch.requests)) == len(batch.requests)
        assert min(batch.counts) > 0
        keys = [
            (r.priority if scheduler.by_priority else 0, r.tag, r.order) for r in scheduler.running
        ]
        assert keys == sorted(keys)
        for request, count in zip(batch.requests, batch.counts, strict=True):
            self.check_reads(request)
            self.write(request, count)
        for request, count, rows in zip(batch.requests, batch.counts, batch.rows, strict=True):
            self.note_rows(request, count, rows)
        scheduler.computed(batch)
        for request in batch.requests:
            assert request.num_computed_tokens <= request.num_tokens
            if request.num_computed_tokens == request.num_tokens:
                self.grow(request)

    def slot(self, request, place):
        size = self.blocks.block_size
        return self.blocks.tables[request.row, place // size] * size + place % size

    def contents(self, request, place):
        return request.cache_salt, *request.token_ids[: place + 1].tolist()

    def check_reads(self, request):
        for place in range(request.num_computed_tokens):
            assert self.slots[self.slot(request, place)] == self.contents(request, place)

    def write(self, request, count):
        start = request.num_computed_tokens
        for place in range(start, start + count):
            block = request.block_ids[place // self.blocks.block_size]
            assert self.blocks.pool.ref_counts[block] == 1, "a shared block is written"
            self.slots[self.slot(request, place)] = self.contents(request, place)

    def note_rows(self, request, count, rows):
        end = request.num_computed_tokens + count
        completes = end == request.num_tokens
        if not request.needs_prompt_logits or request.num_output_tokens:
            assert rows == completes
            return
        assert rows >= completes
        assert end - rows <= max(request.num_prompt_logits, request.num_computed_tokens)
        if rows:
            assert end - rows == request.num_prompt_logits, "prompt logits leave a gap"
            request.num_prompt_logits = end

    def grow(self, request):
        request.append(request.num_tokens % 4)
        if request.num_tokens >= self.wanted[request]:
            self.scheduler.finish(request)
            del self.wanted[request]

    @invariant()
    def blocks_are_accounted_for(self):
        if not hasattr(self, "blocks"):
            return
        pool, running = self.blocks.pool, self.scheduler.running
        owners = Counter(b for r in running for b in r.block_ids)
        for block in range(pool.num_blocks):
            assert pool.ref_counts[block] == owners[block]
            assert pool.is_free(block) == (owners[block] == 0)
        assert pool.num_free + len(owners) == pool.num_blocks
        assert len(running) <= self.scheduler.max_num_seqs
        assert len({r.row for r in running}) == len(running)
        waiting = [r for r in self.wanted if r.status is RequestStatus.WAITING]
        assert len(waiting) == self.scheduler.num_waiting
        assert len(waiting) + len(running) == len(self.wanted)
        assert all(not r.block_ids and r.row is None for r in waiting)

    @invariant()
    def only_full_equal_prefixes_are_shared(self):
        if not hasattr(self, "blocks"):
            return
        size, held = self.blocks.block_size, {}
        for request in self.scheduler.running:
            table = self.blocks.tables[request.row, : len(request.block_ids)]
            assert table.tolist() == request.block_ids
            for i, block in enumerate(request.block_ids):
                end = (i + 1) * size
                prefix = (request.cache_salt, *request.token_ids[:end].tolist())
                full = request.num_computed_tokens >= end
                if block in held:
                    assert held[block] == (prefix, True)
                    assert full
                held[block] = prefix, full

    def teardown(self):
        if not hasattr(self, "blocks"):
            return
        for _ in range(10_000):
            if not self.wanted:
                break
            self.step()
        assert not self.wanted, "a request starves"
        assert self.blocks.pool.num_free == self.blocks.pool.num_blocks


TestScheduler = Machine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def make(num_blocks=8, block_size=4, **kwargs):
    blocks = KVBlocks(num_blocks, block_size, max_num_seqs=4, max_model_len=32)
    given = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_rows": 4, **kwargs}
    return blocks, Scheduler(blocks, **given)


def request(order, tokens, **kwargs):
    return Request(str(order), tokens, order=order, **kwargs)


def step(scheduler):
    batch = scheduler.schedule()
    scheduler.computed(batch)
    for r in batch.requests:
        if r.num_computed_tokens == r.num_tokens:
            r.append(9)
    return {r.request_id: n for r, n in zip(batch.requests, batch.counts, strict=True)}


def test_decodes_run_beside_the_chunks_of_a_long_prompt():
    _, scheduler = make(num_blocks=16)
    scheduler.add(request(0, [1, 2]))
    assert step(scheduler) == {"0": 2}
    scheduler.add(request(1, list(range(24))))
    assert [step(scheduler) for _ in range(3)] == [
        {"0": 1, "1": 15},
        {"0": 1, "1": 9},
        {"0": 1, "1": 1},
    ]


def test_the_latest_gives_way_and_comes_back_first():
    _, scheduler = make(num_blocks=6)
    for i in range(3):
        scheduler.add(request(i, [i] * 5))
    assert step(scheduler) == {"0": 5, "1": 5, "2": 5}
    scheduler.add(request(3, [3]))
    seen = [step(scheduler) for _ in range(5)]
    assert seen[:3] == [{"0": 1, "1": 1, "2": 1}] * 3
    assert seen[3] == {"0": 1, "1": 1}
    assert scheduler.num_waiting == 2
    scheduler.finish(scheduler.running[0])
    assert "2" in step(scheduler)


@pytest.mark.parametrize("moment", ["_preempt", "_start"])
def test_an_interrupt_in_its_midst_leaks_nothing(moment, monkeypatch):
    blocks, scheduler = make(num_blocks=4)
    requests = [request(i, [i] * 7) for i in range(3)]
    for one in requests:
        scheduler.add(one)

    def interrupt(self, victim):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scheduler, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        [step(scheduler) for _ in range(4)]
    for one in requests:
        scheduler.finish(one)
    assert (scheduler.running, scheduler.num_waiting, blocks.usage) == ([], 0, 0)
    monkeypatch.undo()
    scheduler.add(request(9, [9] * 7))
    assert [r.order for r in scheduler.schedule().requests] == [9]


def test_priority_protects_from_preemption():
    _, scheduler = make(num_blocks=4, by_priority=True)
    for i, priority in enumerate((2, 0)):
        scheduler.add(request(i, [i] * 7, priority=priority))
    step(scheduler)
    step(scheduler)
    assert step(scheduler) == {"1": 1}


def test_blocks_are_reused_least_recently_freed_first_and_useless_ones_before():
    pool = BlockPool(4)
    a, b, c, d = pool.take(4)
    for block, digest in ((a, b"a"), (b, b"b"), (c, b"c")):
        pool.publish(block, digest)
    pool.release([b])
    pool.release([a])
    pool.release([d])
    assert pool.take(1) == [d]
    assert pool.find(b"a") == a
    assert pool.find(b"b") == b
    assert pool.take(1) == [b]
    assert pool.find(b"b") is None
    pool.share(a)
    assert pool.num_free == 0
    pool.release([a, c])
    assert pool.num_free == 2


def test_equal_contents_are_published_once():
    pool = BlockPool(2)
    a, b = pool.take(2)
    pool.publish(a, b"x")
    pool.publish(b, b"x")
    assert pool.find(b"x") == a
    pool.release([b])
    assert pool.take(1) == [b]
    assert pool.find(b"x") == a


@pytest.mark.parametrize("count", [1, 63, 64, 65, 500])
def test_tokens_survive_growth(count):
    r = request(0, [7, 8])
    for i in range(count):
        r.append(i)
    assert r.num_output_tokens == count
    assert np.array_equal(r.token_ids[: r.num_tokens], [7, 8, *range(count)])
