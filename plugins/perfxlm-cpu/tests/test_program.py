"""Programs: many nodes in one call give what the nodes give one by one."""

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dim, Operand, Site

HIDDEN = 24
MOST = 40
TOKENS = Dim.symbol("tokens")


class Chain:
    """A random list of nodes over one arena of arrays `[tokens, HIDDEN]`, reused all the time."""

    def __init__(self, bench, steps, tokens=TOKENS):
        self.bench = bench
        self.arena = bench.device.allocate(8 * MOST * HIDDEN * 4)
        self.tokens = tokens
        self.launches = [self._launch(*step) for step in steps]

    def operand(self, slot: int) -> Operand:
        # places overlap in part, as those of a planner that reuses memory may
        offset = slot * (MOST * HIDDEN * 4 // 2) // 64 * 64
        return Operand(f"a{slot}", (self.tokens, HIDDEN), "float32", self.arena, offset)

    def _launch(self, op, out, first, second):
        values = {p.name: self.operand(s) for p, s in zip(op.params, (first, second), strict=False)}
        attrs = {}
        if op is ops.rms_norm:
            values["weight"] = self.bench.place("weight", np.ones(HIDDEN, np.float32))
            attrs = {"eps": 1e-6}
        if op is ops.linear:
            rng = np.random.default_rng(out)
            matrix = rng.standard_normal((HIDDEN, HIDDEN)).astype(np.float32)
            values |= {"weight": self.bench.place("weight", matrix), "bias": None}
            attrs = {"exact": True}
        values["out"] = self.operand(out)
        kernel = next(k for k in self.bench.registry.kernels[op.name] if k.priority == 0)
        return kernel.function(Site(op, Attributes(**attrs), values, None, self.bench.device, None))

    def fill(self):
        data = np.random.default_rng(5).standard_normal(8 * MOST * HIDDEN).astype(np.float32)
        self.arena.handle[...] = data.view(np.uint8)

    def contents(self):
        return self.arena.handle.view(np.float32).copy()


@st.composite
def steps(draw):
    made = []
    for _ in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from([ops.add, ops.mul, ops.silu_and_mul, ops.rms_norm, ops.linear]))
        out = draw(st.integers(0, 13))
        # an output never overlaps an input of its own node
        inputs = [s for s in range(14) if abs(s - out) > 1]
        made.append((op, out, draw(st.sampled_from(inputs)), draw(st.sampled_from(inputs))))
    return made


@settings(max_examples=60)
@given(
    steps=steps(),
    sizes=st.lists(st.sampled_from([0, 1, 2, 5, 17, MOST]), min_size=1, max_size=4),
)
def test_same_as_node_by_node(crew_of, steps, sizes):
    alone = Chain(crew_of(1), steps)
    crew = Chain(crew_of(3), steps)
    program = crew.bench.device.program(crew.launches, ("tokens",))
    for tokens in sizes:
        alone.fill()
        crew.fill()
        for launch in alone.launches:
            launch({"tokens": tokens})
        program({"tokens": tokens})
        np.testing.assert_array_equal(crew.contents(), alone.contents())


def test_barriers_only_where_needed(crew_of):
    bench = crew_of(2)
    steps = [
        (ops.add, 0, 8, 10),  # rows
        (ops.rms_norm, 2, 0, 0),  # the same rows: no barrier
        (ops.linear, 4, 2, 2),  # reads all: barrier
        (ops.linear, 6, 2, 2),  # independent of the one before
        (ops.silu_and_mul, 12, 4, 6),  # barrier
    ]
    chain = Chain(bench, steps)
    nodes = [one.node for one in chain.launches]
    from perfxlm_cpu import _native

    program = _native.Program(bench.device.pool, bench.device.variant, nodes, ["tokens"])
    program.run(7)
    assert program.barriers == 2


def test_host_launches_in_between(bench):
    chain = Chain(bench, [(ops.add, 0, 4, 6), (ops.add, 2, 0, 6)], tokens=3)
    seen = []
    launches = [chain.launches[0], lambda sizes: seen.append(dict(sizes)), chain.launches[1]]
    chain.fill()
    for launch in chain.launches:
        launch({})
    want = chain.contents()
    chain.fill()
    bench.device.program(launches, ("tokens",))({"tokens": 3})
    np.testing.assert_array_equal(chain.contents(), want)
    assert seen == [{"tokens": 3}]
    bench.device.program([], ("tokens",))({"tokens": 1})


def test_profile_runs_the_same_and_accounts_for_every_launch(crew_of):
    bench = crew_of(2)
    chain = Chain(bench, [(ops.linear, 0, 4, 6), (ops.add, 2, 0, 6), (ops.rms_norm, 8, 2, 2)])
    launches = [chain.launches[0], lambda sizes: None, *chain.launches[1:]]
    program = bench.device.program(launches, ("tokens",))
    chain.fill()
    program({"tokens": MOST})
    want = chain.contents()
    chain.fill()
    before = time.perf_counter_ns()
    spans = program.profile({"tokens": MOST})
    after = time.perf_counter_ns()
    np.testing.assert_array_equal(chain.contents(), want)
    assert sorted((s.launch, s.lane) for s in spans) == [
        (0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1),
    ]  # fmt: skip
    for lane in (0, 1):
        times = [t for s in spans if s.lane == lane for t in (s.arrived, s.start, s.end)]
        assert [before, *times, after] == sorted([before, *times, after])


def test_two_python_threads(crew_of):
    """Programs that share a device take turns."""
    bench = crew_of(2)
    nodes = [(ops.linear, 0, 4, 4), (ops.rms_norm, 2, 0, 0)]
    chains = [Chain(bench, nodes, tokens=MOST) for _ in range(2)]
    programs = [bench.device.program(c.launches, ()) for c in chains]
    for chain in chains:
        chain.fill()
    workers = [threading.Thread(target=lambda p=p: [p({}) for _ in range(50)]) for p in programs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    np.testing.assert_array_equal(chains[0].contents(), chains[1].contents())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_starts_its_own_threads(crew_of):
    bench = crew_of(2)
    chain = Chain(bench, [(ops.linear, 0, 4, 4)], tokens=MOST)
    program = bench.device.program(chain.launches, ())
    chain.fill()
    program({})
    want = chain.contents()
    child = os.fork()
    if child == 0:
        chain.fill()
        program({})
        os._exit(0 if (chain.contents() == want).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    program({})


def test_wrong_sizes_are_refused(bench):
    from perfxlm_cpu import _native

    node = _native.Node("add", [0, 0, 0], [(0, [("tokens", 1)])], [1], [], [])
    with pytest.raises(ValueError, match="no symbol called tokens"):
        _native.Program(bench.device.pool, bench.device.variant, [node], ["seqs"])
    program = _native.Program(bench.device.pool, bench.device.variant, [node], ["tokens"])
    program.run(0)
    with pytest.raises(ValueError, match="one size for each"):
        program.run(0, 0)
    strange = _native.Node("no_such_kernel", [], [], [], [], [])
    with pytest.raises(ValueError, match="no_such_kernel"):
        _native.Program(bench.device.pool, bench.device.variant, [strange], [])
