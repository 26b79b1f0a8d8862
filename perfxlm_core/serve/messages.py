"""What the two processes say to each other: MessagePack arrays, a batch of outputs a step.

The front process sends commands, the engine process sends events. Both run the same code, so there
are no versions; a request is known by a number that the front gives it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.engine.structured_params import StructuredOutputsParams

_NOT_SENT = frozenset({"output_kind", "skip_clone", "flat_logprobs"})
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(SamplingParams)}

TokenEntry = tuple[int, float, int | None, str | None]
"""Token id, log-probability, rank, text."""
Entries = list[TokenEntry]


class Add(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """Queue a request."""

    number: int
    token_ids: list[int]
    params: dict[str, Any]
    priority: int
    cache_salt: str
    arrival_time: float
    client: str


class Abort(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """End requests; nothing more is said of them."""

    numbers: list[int]


class Call(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """Ask for something between two steps; `Answer` or `Refused` has the same number."""

    number: int
    name: str
    arguments: list[Any]


class Stop(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """End the process."""


Command = Add | Abort | Call | Stop


class Facts(msgspec.Struct, array_like=True, frozen=True):
    """What the front process must know of the model that was loaded."""

    vocab_size: int
    max_model_len: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    generation_config: dict[str, Any]
    seconds: float


class Delta(msgspec.Struct, array_like=True, frozen=True):
    """What a step added to one completion of a request.

    Attributes:
        index: Which completion; -1 says that the request as a whole has nothing but an error.
        logprobs: One list a token, the token itself first.
        finished: Whether this was the last delta of the request, not only of the completion.
        prompt_logprobs: Only with a request's first delta.
        engine_failed: Whether the engine is to blame for `error`.
        times: Of a finished request: scheduled, first token, last token, on the monotonic clock.
    """

    number: int
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    finished: bool = False
    logprobs: list[Entries] | None = None
    cumulative_logprob: float | None = None
    num_cached_tokens: int | None = None
    prompt_logprobs: list[Entries | None] | None = None
    error: str | None = None
    times: tuple[float, float, float] | None = None
    num_preemptions: int = 0
    engine_failed: bool = False


class StepStats(msgspec.Struct, array_like=True, frozen=True):
    """The engine after a step, and where the step's time went, in seconds.

    Attributes:
        num_tokens: Tokens that the step computed; 0 says that there was none.
        sleeping: Whether the engine sleeps.
    """

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    num_tokens: int
    schedule: float
    run: float
    sample: float
    sleeping: bool = False


class Ready(msgspec.Struct, array_like=True, tag=10, frozen=True):
    """The model is loaded."""

    facts: Facts


class Failed(msgspec.Struct, array_like=True, tag=11, frozen=True):
    """The process ends: what was raised, by the name of its class, and where."""

    kind: str
    text: str
    traceback: str


class Step(msgspec.Struct, array_like=True, tag=12, frozen=True):
    """Everything that a step gave."""

    deltas: list[Delta]
    stats: StepStats


class Refused(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """A request or a call that the engine would not take.

    Attributes:
        parameter: The field that is wrong, if it is one.
    """

    number: int
    kind: str
    text: str
    parameter: str | None = None


class Answer(msgspec.Struct, array_like=True, tag=14, frozen=True):
    """The result of a `Call`."""

    number: int
    value: Any


Event = Ready | Failed | Step | Refused | Answer

encoder = msgspec.msgpack.Encoder()
command_decoder = msgspec.msgpack.Decoder(Command)
event_decoder = msgspec.msgpack.Decoder(Event)


def packed(params: SamplingParams) -> dict[str, Any]:
    """The fields that differ from their defaults, as plain values."""
    found: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(params, name)
        if name in _NOT_SENT or value is None or value == default:
            continue
        found[name] = (
            dataclasses.asdict(value) if isinstance(value, StructuredOutputsParams) else value
        )
    if params.max_tokens is None:
        found["max_tokens"] = None
    return found


def unpacked(fields: dict[str, Any]) -> SamplingParams:
    """Parameters from `packed`; their outputs are deltas."""
    return SamplingParams(**fields, output_kind=RequestOutputKind.DELTA)
