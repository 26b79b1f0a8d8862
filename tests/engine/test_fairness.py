"""Clients share the engine: nobody waits behind somebody else's flood."""

from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.engine import fairness
from perfxlm_core.engine.blocks import KVBlocks
from perfxlm_core.engine.fairness import FairQueue
from perfxlm_core.engine.request import Request
from perfxlm_core.engine.scheduler import Scheduler


def make_scheduler():
    blocks = KVBlocks(64, 4, max_num_seqs=2, max_model_len=128, enable_prefix_caching=False)
    return Scheduler(blocks, max_num_seqs=2, max_num_batched_tokens=32, max_rows=2)


def order_of_service(scheduler, requests):
    """Ids in the order in which requests start, each ending with its first token."""
    for request in requests:
        scheduler.add(request)
    started = []
    while (batch := scheduler.schedule()).requests:
        scheduler.computed(batch)
        for request in batch.requests:
            if request.num_computed_tokens == request.num_tokens:
                started.append(request.request_id)
                scheduler.finish(request)
    return started


def request(order, client, length=8):
    return Request(f"{client}{order}", [1] * length, order=order, client=client)


def test_one_request_does_not_wait_behind_another_clients_flood():
    flood = [request(i, "a") for i in range(1000)]
    served = order_of_service(make_scheduler(), [*flood, request(1000, "b")])
    assert served.index("b1000") <= 2
    assert [s for s in served if s.startswith("a")] == [r.request_id for r in flood]


def test_a_late_client_gets_its_share_and_no_more():
    scheduler = make_scheduler()
    early = [request(i, "a") for i in range(40)]
    order_of_service(scheduler, early)
    mixed = [request(100 + i, "a") for i in range(20)] + [request(200 + i, "b") for i in range(20)]
    served = order_of_service(scheduler, mixed)
    first = [s[0] for s in served[:20]]
    assert 8 <= first.count("b") <= 12


def test_long_prompts_count_for_more():
    long = [request(i, "a", length=24) for i in range(20)]
    short = [request(100 + i, "b", length=8) for i in range(20)]
    served = order_of_service(make_scheduler(), [*long, *short])
    assert 2 <= [s[0] for s in served[:12]].count("a") <= 4


@given(st.lists(st.integers(1, 50), max_size=30))
def test_one_client_is_served_by_arrival(lengths):
    requests = [request(i, "a", length=min(n, 30)) for i, n in enumerate(lengths)]
    scheduler = make_scheduler()
    for one in requests:
        scheduler.add(one)
    tags = [one.tag for one in requests]
    assert tags == sorted(set(tags))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), min_size=1, max_size=60),
    st.integers(0, 60),
)
def test_backlogged_clients_differ_by_one_request_at_most(arrivals, served):
    """The bound of the paper: of two clients that both wait, neither is ahead by more than the
    largest request of each."""
    queue = FairQueue()
    waiting = sorted((queue.tag(c, cost), i, c, cost) for i, (c, cost) in enumerate(arrivals))
    done = dict.fromkeys("abc", 0)
    for tag, _, client, cost in waiting[:served]:
        queue.serve(tag)
        done[client] += cost
    left = {client for _, _, client, _ in waiting[served:]}
    largest = {c: max((n for d, n in arrivals if d == c), default=0) for c in "abc"}
    for one in left:
        for other in left:
            assert done[one] - done[other] <= largest[one] + largest[other]


def test_clients_are_forgotten(monkeypatch):
    monkeypatch.setattr(fairness, "_KEPT", 8)
    queue = FairQueue()
    for i in range(100):
        queue.serve(queue.tag(str(i), 1) + 1)
    assert len(queue._ends) <= 9
