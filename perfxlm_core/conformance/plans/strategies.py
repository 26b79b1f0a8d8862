"""Strategies: models of every recipe, random graphs, and the steps that they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from perfxlm_core.conformance.plans.case import GraphCase, Instruction, ModelCase
from perfxlm_core.conformance.plans.configs import make_config
from perfxlm_core.conformance.plans.random_graph import callable_composite
from perfxlm_core.graph.recipe import find_recipe
from perfxlm_core.ops.formats import FORMATS

if TYPE_CHECKING:
    from perfxlm_core.conformance.target import Target

WIDTHS = (32, 8, 16, 64, 256)
"""Lengths of rows in random graphs; a multiple of 256 takes blocks of every format."""
LARGE_WIDTHS = (1024, 576, 2048)
COUNTS = (1, 0, 2, 3, 4, 7, 9, 17)
"""New tokens of a sequence in a step."""
LARGE_COUNTS = (1, 0, 65, 130, 300)
PLAIN = ("float32", "float16", "bfloat16")
COMMON = ("q8_0", "q4_0", "q4_k", "q6_k")
"""Formats that come more often than others."""
MAX_NODES = 16
SIMPLE = ("silu", "gelu", "soft_cap")


def model_cases(architecture: str, large: bool = False) -> st.SearchStrategy[ModelCase]:
    """Small models of an installed recipe, with steps; `large` ones have real sizes.

    Raises:
        ModelError: no installed recipe has this name.
    """
    recipe = find_recipe([architecture])

    @st.composite
    def cases(draw: st.DrawFn) -> ModelCase:
        def choose(options: Sequence[Any]) -> Any:  # noqa: ANN401
            return draw(st.sampled_from(list(options)))

        config = make_config(recipe, choose, large)
        steps = [s for s in draw(_steps(large)) if any(s)] or [(1,)]
        share = draw(st.booleans())
        return ModelCase(
            architecture=architecture, config=config, steps=_in_turn(steps, share), share=share,
            **_common(draw),
        )  # fmt: skip

    return cases()


def graph_cases(
    large: bool = False, composites: Sequence[str] = ()
) -> st.SearchStrategy[GraphCase]:
    """Random graphs of the core's operators, with steps.

    Args:
        large: widths and batches of real models.
        composites: further operators, by "module:name"; see `composites` for a plugin's.
    """

    @st.composite
    def cases(draw: st.DrawFn) -> GraphCase:
        nodes = st.lists(_instructions(large, composites), min_size=1, max_size=MAX_NODES)
        share = draw(st.booleans())
        return GraphCase(
            nodes=tuple(draw(nodes)),
            share=share,
            outputs=tuple(draw(st.lists(st.integers(0, 6), max_size=3))),
            drop=draw(st.booleans()),
            steps=_in_turn(draw(_steps(large)), share),
            **_common(draw),
        )

    return cases()


def composites(target: Target) -> tuple[str, ...]:
    """Composite operators that a plugin has kernels for and random graphs can hold."""
    found = {k.op for k in target.kernels if callable_composite(k.op)}
    return tuple(sorted(f"{op.__module__}:{op.name}" for op in found))


def _steps(large: bool) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """Steps, at times the last one twice: what is recorded for some sizes is then replayed."""
    count = st.sampled_from(LARGE_COUNTS if large else COUNTS)
    longest = 2 if large else 4

    def lists(sequences: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
        made = st.lists(st.tuples(*[count] * sequences), min_size=1, max_size=longest)
        return st.tuples(made, st.booleans()).map(lambda m: [*m[0], m[0][-1]] if m[1] else m[0])

    return st.integers(1, 3).flatmap(lists)


def _in_turn(steps: Sequence[tuple[int, ...]], share: bool) -> tuple[tuple[int, ...], ...]:
    """The steps; if blocks are to be shared, the first sequence begins one step before them."""
    first = max((1, *(step[0] for step in steps)))
    return ((first, *(0 for _ in steps[0][1:])), *steps) if share else tuple(steps)


def _common(draw: st.DrawFn) -> dict[str, Any]:
    """What models and graphs have in common, but for the steps."""
    plain = draw(st.sampled_from((True, False)))
    format_names = PLAIN if plain else (*COMMON * 3, *FORMATS, *PLAIN)
    formats = st.lists(st.sampled_from(format_names), min_size=1, max_size=3)
    return {
        "formats": tuple(draw(formats)),
        "dtype": draw(st.sampled_from((*[None] * 9, *PLAIN))),
        "cache_dtype": draw(st.sampled_from((None, None, *PLAIN))),
        "rounding": False if plain else draw(st.booleans()),
        "every_row": draw(st.booleans()),
        "block_size": draw(st.sampled_from((4, 1, 2, 8, 16))),
        "seed": draw(st.integers(0, 2**16)),
    }


def _instructions(large: bool, calls: Sequence[str]) -> st.SearchStrategy[Instruction]:
    """One line; words that make the most of a graph come more often."""
    back = st.integers(0, 5)
    width = st.sampled_from(LARGE_WIDTHS if large else WIDTHS)
    few = st.integers(0, 2)
    kinds: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
        **{word: (back, back) for word in ("add", "mul", "silu_and_mul", "gelu_and_mul")},
        **{word: (back,) for word in SIMPLE},
        "input": (width,),
        "embed": (width, few),
        "head": (back, few),
        "scale": (back, few),
        "rms_norm": (back, few),
        "layer_norm": (back, few),
        "linear": (back, width, few),
        "reshape": (back, few),
        "concat": (back, back),
        "rows": (back,),
        "attention": (back, back, back, st.integers(0, 3)),
    }
    more = ["add", "add", "linear", "linear", "attention", "rms_norm", "reshape", "embed"]
    lines = [st.tuples(st.just(word), *kinds[word]) for word in [*kinds, *more]]
    called = [st.tuples(st.just("call"), st.just(c), back, back, back) for c in calls]
    return st.one_of(*lines, *called * 4)
