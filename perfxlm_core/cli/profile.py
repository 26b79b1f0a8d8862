"""`perfxlm profile`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import click

from perfxlm_core.cli.options import DEFAULT_MODEL, engine_arguments, engine_options, fetch
from perfxlm_core.cli.tables import table

if TYPE_CHECKING:
    from perfxlm_core.engine.engine import Engine
    from perfxlm_core.graph.profile import Recorder, Run, Summary


@dataclass(frozen=True)
class StepTime:
    """One step of the engine: when, and the program's run in it, if that was recorded."""

    start: int
    end: int
    run: Run | None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start) / 1e9


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a trace that Perfetto (ui.perfetto.dev) opens.")  # fmt: skip
@click.option("--prompt", type=click.IntRange(1), default=128, show_default=True,
              help="Tokens of each prompt.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(2), default=32, show_default=True,
              help="Tokens to generate for each.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True,
              help="Requests at once.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The tables as JSON.")
@engine_options
def profile(
    model: str,
    output: Path | None,
    prompt: int,
    tokens: int,
    batch: int,
    as_json: bool,
    **given: Any,  # noqa: ANN401 - options of the engine
) -> None:
    """Show where the time of MODEL's steps goes, operator by operator.

    Random prompts are computed and continued twice: once as always, once with every launch timed.
    The roofline is what the device's limits, measured in the same run, allow an operator: the
    reading of its weights and caches, or its arithmetic, whichever takes longer. More than 100 %
    means that the processor's caches held some of them, or that other processes disturbed the run.
    """
    from perfxlm_core.engine.llm import LLM
    from perfxlm_core.graph.profile import Recorder
    from perfxlm_core.graph.runner import ModelRunner

    arguments = engine_arguments(given)
    arguments.setdefault("max_model_len", prompt + tokens)
    path = fetch(model, arguments)
    llm = LLM(str(path), max_num_seqs=batch, enable_prefix_caching=False, **arguments)
    engine = llm.llm_engine
    runner = engine.runner
    assert isinstance(runner, ModelRunner)
    _run(engine, None, batch, prompt, min(tokens, 4))  # pages, caches and clocks warm up
    plain = _run(engine, None, batch, prompt, tokens)
    recorder = Recorder(runner)
    runner.watch(recorder.watch)
    steps = _run(engine, recorder, batch, prompt, tokens)
    device = runner.bound.plan.device
    measure = getattr(device, "limits", None)
    limits: Mapping[str, float] = measure() if callable(measure) else {}
    report = _report(recorder, steps, plain, limits)
    if output is not None:
        from perfxlm_core.cli.inspect import write_whole

        write_whole(output, json.dumps(_trace(recorder, steps)))
        click.echo(f"wrote {output}", err=True)
    click.echo(json.dumps(report, indent=1) if as_json else _text(report))


def _run(
    engine: Engine, recorder: Recorder | None, batch: int, prompt: int, tokens: int
) -> list[StepTime]:
    """Answer random prompts; the time of each step."""
    import random

    from perfxlm_core.engine.params import SamplingParams

    draw = random.Random(0)
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    for number in range(batch):
        ids = [draw.randrange(engine.runner.vocab_size) for _ in range(prompt)]
        engine.add_request(f"profile-{number}", {"prompt_token_ids": ids}, params)
    steps = []
    while engine.has_unfinished_requests():
        start = perf_counter_ns()
        engine.step()
        end = perf_counter_ns()
        steps.append(StepTime(start, end, recorder.runs[-1] if recorder else None))
    return steps


def _report(
    recorder: Recorder, steps: list[StepTime], plain: list[StepTime], limits: Mapping[str, float]
) -> dict[str, Any]:
    """Tables for prompts and for decoding, JSON-able."""
    from perfxlm_core.graph.profile import summarize

    phases = {}
    numbers: dict[str, list[int]] = {"prefill": [], "decode": []}
    for number, step in enumerate(steps):
        assert step.run is not None
        kind = "decode" if max(step.run.batch.counts) == 1 else "prefill"
        numbers[kind].append(number)
    for kind, which in numbers.items():
        if which:
            chosen = [steps[n] for n in which]
            summary = summarize(recorder, [s.run for s in chosen if s.run], limits)
            whole = sum(s.seconds for s in chosen)
            unprofiled = statistics.median(plain[n].seconds for n in which)
            phases[kind] = _phase(summary, whole, unprofiled)
    return {"device": recorder.runner.bound.plan.device.describe().description,
            "limits": dict(limits), "phases": phases}  # fmt: skip


def _phase(summary: Summary, seconds: float, unprofiled: float) -> dict[str, Any]:
    return {
        "steps": summary.runs,
        "seconds": seconds,
        "program_seconds": summary.seconds,
        "python_seconds": seconds - summary.seconds,
        "waiting_seconds": summary.waiting,
        "median_step_seconds_unprofiled": unprofiled,
        "operators": {
            name: {
                "seconds": total.seconds,
                "calls": total.calls,
                "bytes": total.nbytes,
                "operations": total.operations,
                "roofline": None if total.ideal is None else total.ideal / total.seconds,
            }
            for name, total in summary.totals.items()
        },
    }


def _trace(recorder: Recorder, steps: list[StepTime]) -> dict[str, Any]:
    from perfxlm_core.graph.profile import trace_events

    origin = steps[0].start
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 0, "args": {"name": "engine"}}
    ]
    for number, step in enumerate(steps):
        assert step.run is not None
        about = {"tokens": sum(step.run.batch.counts), "seqs": len(step.run.batch.counts)}
        for name, start, end in (
            (f"step {number}", step.start, step.end),
            ("program", step.run.start, step.run.end),
        ):
            times = {"ts": (start - origin) / 1e3, "dur": (end - start) / 1e3}
            events.append({"ph": "X", "name": name, "cat": "step", "pid": 1, "tid": 0, **times,
                           "args": about})  # fmt: skip
    events += trace_events(recorder, recorder.runs, origin)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _text(report: dict[str, Any]) -> str:
    units = {"read": ("GB/s", 1e9), "float32": ("GFLOP/s", 1e9), "int8": ("GOP/s", 1e9)}
    reached = ", ".join(
        f"{name} {value / units[name][1]:.1f} {units[name][0]}"
        for name, value in report["limits"].items()
        if name in units
    )
    lines = [report["device"], f"limits measured: {reached or 'none, the device offers none'}"]
    for kind, phase in report["phases"].items():
        lines += ["", _heading(kind, phase), _table(phase)]
    return "\n".join(lines)


def _heading(kind: str, phase: dict[str, Any]) -> str:
    each = 1e3 * phase["seconds"] / phase["steps"]
    plain = 1e3 * phase["median_step_seconds_unprofiled"]
    return f"{kind}: {phase['steps']} steps of {each:.3f} ms (median without profiling {plain:.3f})"


def _table(phase: dict[str, Any]) -> str:
    whole, steps = phase["seconds"], phase["steps"]

    def row(name: str, seconds: float, *rest: str) -> list[str]:
        cells = [name, f"{1e3 * seconds / steps:9.3f}", f"{seconds / whole:6.1%}", *rest]
        return [*cells, *[""] * (8 - len(cells))]

    rows = []
    for name, one in phase["operators"].items():
        seconds, roofline = one["seconds"], one["roofline"]
        rows.append(
            row(
                name,
                seconds,
                f"{one['calls'] / steps:g}",
                f"{one['bytes'] / steps / 1e6:.3f}",
                f"{one['bytes'] / seconds / 1e9:.2f}",
                f"{one['operations'] / seconds / 1e9:.1f}" if one["operations"] else "-",
                "-" if roofline is None else f"{roofline:.0%}",
            )
        )
    rows.append(row("(lanes waiting)", phase["waiting_seconds"]))
    rows.append(row("(Python)", phase["python_seconds"]))
    rows.append(row("step", whole))
    header = ["operator", "ms a step", "share", "calls", "MB", "GB/s", "GFLOP/s", "roofline"]
    return table(header, rows)
