"""From a case to what a trial needs: the graph to be planned, the same graph untouched, inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.plans.batches import Batch, Pages, batches, largest, pages
from perfxlm_core.conformance.plans.case import GraphCase, ModelCase, PlanCase
from perfxlm_core.conformance.plans.random_graph import VOCAB, build_random
from perfxlm_core.conformance.plans.reference import Arrays
from perfxlm_core.conformance.plans.weights import RandomModel
from perfxlm_core.conformance.values import floats, generator
from perfxlm_core.errors import ArgumentError, MemoryPlanError, NoKernelError
from perfxlm_core.graph.ir import Graph
from perfxlm_core.graph.loading import LoadOptions, build_graph, plan_model
from perfxlm_core.graph.memory import Placement
from perfxlm_core.graph.passes import allow_rounding, page_attention, select_rows
from perfxlm_core.graph.plan import Plan, decide
from perfxlm_core.graph.recipe import find_recipe
from perfxlm_core.graph.runner import Limits
from perfxlm_core.ops.types import concrete
from perfxlm_core.registry.kernels import Registry

if TYPE_CHECKING:
    from perfxlm_core.conformance.target import Target

MARGIN = 1024
"""Bytes of canaries on either side of the arena; a multiple of 64."""


class DeclinedError(Exception):
    """The device does not take the case; the message says why."""


@dataclass(frozen=True)
class Job:
    """A case ready to be tried.

    Attributes:
        plan: makes a new plan, laid out between margins.
        graph: as it was before planning, with the same names of values.
        steps: the batches.
        feeds: inputs of each step, by name.
        cache: where sequences lie.
        limits: of the model's runner; None for a graph, which has none.
    """

    plan: Callable[[], Plan]
    graph: Graph
    steps: list[Batch]
    feeds: list[Arrays]
    cache: Pages
    limits: Limits | None


def prepare(target: Target, case: PlanCase) -> Job:
    """Make a job of a case.

    Raises:
        DeclinedError: the device has not the dtype, the memory or a kernel that it cannot do
            without.
        Failure: planning breaks.
    """
    offered = list(target.device.dtypes())
    dtype = case.dtype or offered[0]
    if dtype not in offered:
        raise DeclinedError(f"{target.device.name} computes in {', '.join(offered)}")
    try:
        if isinstance(case, ModelCase):
            return _model(target, case, dtype)
        assert isinstance(case, GraphCase)
        return _graph(target, case, dtype)
    except (ArgumentError, MemoryPlanError, NoKernelError) as error:
        raise DeclinedError(str(error)) from error
    except Failure:
        raise
    except Exception as error:
        raise Failure("smoke", f"planning raises {type(error).__name__}: {error}") from error


def _registry(target: Target) -> Registry:
    registry = Registry()
    registry.extend(target.kernels)
    return registry


def _guarded(plan: Plan) -> Plan:
    """The same plan with canaries before and behind its arena."""
    offsets = tuple(at + MARGIN for at in plan.arena.offsets)
    plan.arena = Placement(offsets, plan.arena.nbytes + 2 * MARGIN)
    return plan


def _model(target: Target, case: ModelCase, dtype: str) -> Job:
    shapes = {
        n: v.shape
        for n, v in find_recipe([case.architecture]).graph(case.config).constants.items()
        if v.constant is None
    }
    source = RandomModel(case, case.architecture, case.config, shapes)
    vocab, cache = _vocab(case, shapes), pages(case)
    steps = batches(case, vocab)
    sizes, rounding = largest(steps), case.rounding and case.dtype is None
    options = LoadOptions(
        dtype="auto" if rounding else dtype,
        kv_cache_dtype=case.cache_dtype or "auto",
        max_model_len=cache.longest,
        max_num_seqs=max(sizes["seqs"], sizes["rows"]),
        max_num_batched_tokens=sizes["tokens"],
        block_size=case.block_size,
        num_gpu_blocks_override=cache.blocks,
    )
    registry = _registry(target)

    def plan() -> Plan:
        return _guarded(plan_model(source, target.device, registry, options)[0])

    first, limits = plan_model(source, target.device, registry, options)
    caches = {s.dtype for s in first.graph.states.values()} or {dtype}
    graph = build_graph(source, dtype, {"max_model_len": cache.longest})
    if rounding:
        allow_rounding(graph)
    _page(graph, case, cache, caches.pop())
    select_rows(graph)
    return Job(plan, graph, steps, [_restricted(graph, b) for b in steps], cache, limits)


def _vocab(case: ModelCase, shapes: dict[str, tuple[int, ...]]) -> int:
    """Tokens that every table of the model has."""
    vocab = case.config.get("vocab_size")
    return int(vocab) if vocab is not None else min(s[0] for s in shapes.values() if len(s) == 2)


def _page(graph: Graph, case: PlanCase, cache: Pages, dtype: str) -> None:
    page_attention(
        graph, block_size=case.block_size, max_blocks=cache.max_blocks, cache_dtype=dtype,
        blocks=cache.blocks,
    )  # fmt: skip


def _restricted(graph: Graph, batch: Batch) -> Arrays:
    return {n: a for n, a in batch.feeds.items() if n in graph.inputs}


def _graph(target: Target, case: GraphCase, dtype: str) -> Job:
    cache, steps = pages(case), batches(case, VOCAB)
    registry, sizes = _registry(target), largest(steps)

    def build() -> Graph:
        graph = build_random(case, dtype)
        if case.rounding:
            allow_rounding(graph)
        _page(graph, case, cache, case.cache_dtype or dtype)
        return graph

    def plan() -> Plan:
        made = decide(build(), target.device, registry, sizes)
        made.lay_out()
        return _guarded(made)

    graph = build()
    feeds = [
        {**_activations(graph, case, i, b), **_restricted(graph, b)} for i, b in enumerate(steps)
    ]
    plan()  # what is declined is declined here
    return Job(plan, graph, steps, feeds, cache, None)


def _activations(graph: Graph, case: GraphCase, index: int, batch: Batch) -> Arrays:
    return {
        name: floats(
            generator(case.seed, name, index), concrete(value.shape, batch.sizes), value.dtype,
            "normal",
        )
        for name, value in graph.inputs.items()
        if value.dtype != "int32"
    }  # fmt: skip
