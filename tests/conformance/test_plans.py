"""Whole plans: right ones pass, planted bugs are found and named."""

import contextlib
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from perfxlm_core.conformance import Failure, Target
from perfxlm_core.conformance.plans import (
    GraphCase,
    ModelCase,
    architectures,
    composites,
    graph_cases,
    jobs,
    model_cases,
    run_plan_case,
    untried,
)
from perfxlm_core.conformance.plans.batches import Batch, batches, pages
from perfxlm_core.conformance.plans.jobs import prepare
from perfxlm_core.conformance.plans.reference import expect
from perfxlm_core.conformance.plans.weights import RandomModel
from perfxlm_core.graph import plan as planning
from perfxlm_core.graph.recipe import find_recipe
from perfxlm_core.plugin import loop

from ..registry import distributions
from . import numpy_kernels, plan_mutants
from .plan_mutants import KERNELS, MEMORY, PROGRAMS, Device, right_fusion, through_scratch

ARCHITECTURES = architectures()
MODEL = "Qwen3ForCausalLM"
CALLS = tuple(f"{o.__module__}:{o.name}" for o in (plan_mutants.add_rms_norm, plan_mutants.gated))


def target(kernels=tuple(numpy_kernels.kernels), program=loop):
    return Target.of("numpy", Device(program), kernels)


def attempt(subject, strategy, examples, start=0, phases=(Phase.generate,)):
    """Outcomes, the last case that failed, and its failure."""
    outcomes, failed = [], []

    @seed(start)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=phases, print_blob=False,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(strategy)
    def one(case):
        try:
            outcomes.append(run_plan_case(subject, case))
        except Failure as failure:
            failed.append((case, failure))
            raise

    with contextlib.suppress(Failure):
        one()
    return outcomes, *(failed[-1] if failed else (None, None))


def examples(strategy, count, start=0):
    found = []

    @seed(start)
    @settings(
        max_examples=count, database=None, phases=(Phase.generate,), deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def one(case):
        found.append(case)

    one()
    return found


def graphs(subject, count=30, **more):
    return attempt(subject, graph_cases(composites=CALLS), count, **more)


# What is right passes


def passes(found):
    outcomes, case, failure = found
    assert failure is None, f"{failure}\n{case!r}"
    ran = [o.worst for o in outcomes if o.declined is None]
    assert len(ran) >= len(outcomes) // 3
    assert 0 < max(ran) <= 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recipes_pass_on_the_cpu(architecture):
    passes(attempt(Target.load("cpu"), model_cases(architecture), 6))


@pytest.mark.parametrize("start", range(3))
def test_random_graphs_pass_on_the_cpu(start):
    passes(attempt(Target.load("cpu"), graph_cases(), 30, start))


@pytest.mark.parametrize("start", range(3))
def test_random_graphs_pass_on_right_kernels(start):
    passes(graphs(target(right_fusion), start=start))


def test_models_pass_on_right_kernels_and_on_the_reference_alone():
    passes(attempt(target(), model_cases(MODEL), 4))
    passes(attempt(target([]), model_cases(MODEL), 4))


class Remote(Device):
    """A device whose memory is its own."""

    host_visible = False


def test_plans_pass_behind_copies():
    subject = Target.of("numpy", Remote(loop), numpy_kernels.kernels)
    passes(attempt(subject, model_cases(MODEL), 5))
    passes(graphs(subject, 25))


def test_large_cases_have_real_sizes():
    (case,) = examples(model_cases(MODEL, large=True), 1)
    assert case.config["hidden_size"] >= 576
    assert case.config["vocab_size"] >= 1000
    assert run_plan_case(Target.load("cpu"), case).declined is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_expected_is_the_recipe_on_whole_sequences(architecture):
    """Paging, chunks and selected rows are in the graph that is compared; not in this one."""
    for case in examples(model_cases(architecture), 4):
        job = prepare(target([]), without_types(case))
        expected = expect(job.graph, job.steps, job.feeds, 0)
        recipe = find_recipe([architecture])
        shapes = {n: v.shape for n, v in recipe.graph(case.config).constants.items()}
        model = RandomModel(case, architecture, case.config, shapes)
        settings = {**case.config, "max_model_len": job.cache.longest}
        whole = recipe.graph(settings, model.tensor)
        (output,) = job.graph.outputs
        known = sequences(job)
        for index, batch in enumerate(job.steps):
            logits = expected.values[index][output.name]
            for row, token in enumerate(batch.feeds["logit_rows"]):
                ids, at = known[index][token]
                feeds = {"token_ids": ids, "positions": np.arange(len(ids), dtype=np.int32)}
                step = Batch({"tokens": len(ids)}, feeds)
                want = expect(whole, [step], [feeds], 0).values[0][whole.outputs[0].name]
                np.testing.assert_allclose(logits[row], want[at], rtol=1e-7, atol=1e-7)


def without_types(case):
    few = {**vars(case), "dtype": None, "cache_dtype": None, "rounding": False}
    return type(case)(**few)


def sequences(job):
    """For each step and token: the ids of its sequence so far, and its place in them."""
    slots, found = {}, []
    for batch in job.steps:
        feeds, size = batch.feeds, job.cache.block_size
        slots.update(zip(feeds["slot_mapping"].tolist(), feeds["token_ids"], strict=True))
        here = []
        for s, (a, b) in enumerate(zip(feeds["query_starts"], feeds["query_starts"][1:],
                                       strict=False)):  # fmt: skip
            length = int(feeds["seq_lens"][s])
            where = [int(feeds["block_tables"][s, p // size]) * size + p % size
                     for p in range(length)]  # fmt: skip
            ids = np.array([slots[w] for w in where], np.int32)
            here += [(ids, int(p)) for p in feeds["positions"][a:b]]
        found.append(here)
    return found


def test_cases_print_as_python_and_travel():
    for case in [*examples(graph_cases(), 20), *examples(model_cases(MODEL), 5)]:
        assert eval(repr(case), {"GraphCase": GraphCase, "ModelCase": ModelCase}) == case
        assert pickle.loads(pickle.dumps(case)) == case


def test_sequences_never_share_a_slot():
    for case in examples(graph_cases(), 40):
        slots = [s for b in batches(case, 19) for s in b.feeds["slot_mapping"].tolist()]
        assert len(slots) == len(set(slots)) == sum(map(sum, case.steps))


RECIPE = """
from dataclasses import dataclass
from typing import ClassVar
from perfxlm_core import ops
from perfxlm_core.recipes import Config, embed, linear, recipe

@dataclass(frozen=True, kw_only=True)
class Plain(Config):
    vocab_size: int
    hidden_size: int
    rungs: int

@dataclass(frozen=True, kw_only=True)
class Shown(Plain):
    examples: ClassVar = ({"rungs": 2}, {"rungs": 3, "hidden_size": 24})

def build(g, c):
    x = embed(g, "table", c.vocab_size, c.hidden_size)
    for i in range(c.rungs):
        x = x + ops.silu(linear(g, f"rung.{i}", x, c.hidden_size))
    return linear(g, "head", x, c.vocab_size)

plain = recipe("LadderModel", config=Plain)(build)
shown = recipe("ShownLadderModel", config=Shown)(build)
"""


def test_a_recipe_of_unusual_fields_says_so_or_gives_examples(tmp_path, monkeypatch):
    (tmp_path / "ladder_models.py").write_text(RECIPE)
    points = {"LadderModel": "ladder_models:plain", "ShownLadderModel": "ladder_models:shown"}
    distributions.write(tmp_path, "perfxlm-ladder", "1.0", {"perfxlm.recipes": points})
    monkeypatch.syspath_prepend(tmp_path)
    assert "ShownLadderModel" in architectures()
    assert "lacks rungs" in untried()["LadderModel"]
    drawn = examples(model_cases("ShownLadderModel"), 10)
    assert {c.config["rungs"] for c in drawn} == {2, 3}
    passes(attempt(target(), model_cases("ShownLadderModel"), 5))


def test_composites_are_those_that_kernels_run():
    assert composites(target()) == ()
    assert composites(target(right_fusion)) == CALLS[:1]


def test_sequences_share_the_blocks_that_the_first_had_filled():
    sharing = 0
    for case in [c for start in range(8) for c in examples(graph_cases(), 10, start)]:
        cache = pages(case)
        for s, length in enumerate(cache.shared):
            count = length // case.block_size
            assert (cache.tables[s, :count] == cache.tables[0, :count]).all()
            begins = [i for i, step in enumerate(case.steps) if step[s]]
            if length:
                assert case.share
                assert s > 0
                assert length <= sum(step[0] for step in case.steps[: begins[0]])
                first = batches(case, 19)[begins[0]].feeds
                assert length in first["positions"]
                sharing += 1
    assert sharing > 5


# What is wrong is found


def found(subject, count=100):
    """The first failure, of cases drawn ten at a time as the kit does."""
    for start in range(count // 10):
        _, case, failure = graphs(subject, 10, start=start)
        if failure is not None:
            return case, failure
    pytest.fail(f"not found in {count} cases")


@pytest.mark.parametrize("name", MEMORY)
def test_bugs_of_the_memory_planner_are_found(name, monkeypatch):
    function, mutant = MEMORY[name]
    monkeypatch.setattr(planning, function, mutant)
    _, failure = found(target(through_scratch))
    assert failure.check in ("writes", "inputs", "values", "smoke")


@pytest.mark.parametrize("mutant", PROGRAMS, ids=lambda f: f.__name__)
def test_bugs_of_a_program_are_found(mutant):
    found(target(program=mutant))


def test_an_order_that_only_the_caches_forbid_is_found(monkeypatch):
    monkeypatch.setattr(jobs, "decide", plan_mutants.stored_too_late)
    _, failure = found(target())
    assert "paged_attention by numpy.paged_attention" in str(failure)


@pytest.mark.parametrize("name", KERNELS)
def test_bugs_of_kernels_in_a_graph_are_found_and_named(name):
    _, failure = found(target(KERNELS[name]), 200)
    assert f"acme.{name}" in str(failure) or "no token is mapped" in str(failure)


def test_the_value_in_a_model_that_is_first_wrong_is_named():
    kernels = KERNELS["stores_keys_only_of_prompts"]
    _, _, failure = attempt(target(kernels), model_cases(MODEL), 30)
    assert "the first wrong value is cache." in str(failure)
    assert "store_kv by acme.stores_keys_only_of_prompts" in str(failure)


def test_shrinking_leaves_a_small_graph():
    subject = target(KERNELS["operand_of_the_first_step"])
    _, case, _ = graphs(subject, 200, phases=(Phase.generate, Phase.shrink))
    assert len(case.nodes) == 1
    assert case.steps == ((1,), (1,))
