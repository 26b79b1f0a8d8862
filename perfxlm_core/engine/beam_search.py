"""Beam search over any engine that gives the likeliest tokens of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perfxlm_core.engine.checks import is_int, is_real, require
from perfxlm_core.engine.params import SamplingParams
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.engine.outputs import RequestOutput, TokenLogprobs
    from perfxlm_core.engine.runner import Tokenizer
    from perfxlm_core.engine.structured_params import StructuredOutputsParams

Extend = Callable[[Sequence[list[int]], SamplingParams], "list[RequestOutput]"]
"""One more token for each of the sequences, with log-probabilities."""


@dataclass
class BeamSearchParams:
    """How a beam search goes.

    Args:
        beam_width: Sequences that are kept, and returned.
        max_tokens: Tokens of the longest of them, the prompt not counted.
        ignore_eos: Go on after the end-of-sequence token.
        temperature: Divides the logits before their log-probabilities are taken; only 0, which
            leaves them as they are, is supported.
        length_penalty: A sequence's score is its log-probability divided by its length, prompt
            included, to this power.

    Raises:
        ArgumentError: a value is outside its range, or not supported.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    structured_outputs: StructuredOutputsParams | None = None
    skip_special_tokens: bool = True
    watermarking: bool | None = None
    allowed_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value = getattr(self, name)
            require(is_int(value) and value >= 1, name, "at least 1", value)
        require(is_real(self.length_penalty), "length_penalty", "a number", self.length_penalty)
        for name in ("temperature", "structured_outputs", "watermarking", "allowed_token_ids"):
            value = getattr(self, name)
            if value:
                raise ArgumentError(
                    f"BeamSearchParams.{name}={value!r} is not supported; leave it out",
                    parameter=name,
                )


@dataclass
class BeamSearchSequence:
    """A beam.

    Attributes:
        tokens: The prompt's and those generated.
        logprobs: An entry for each generated token.
        cum_logprob: Their sum.
        text: Of all tokens, the prompt's included.
    """

    tokens: list[int]
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    lora_request: None = None
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class BeamSearchOutput:
    """The best sequences of a prompt, best first."""

    sequences: list[BeamSearchSequence]


class BeamSearch:
    """The search of one prompt.

    Source:
        The candidates of a step are the 2 x beam_width likeliest tokens of each beam, and scores
        are as in vLLM.
    """

    def __init__(self, prompt: list[int], params: BeamSearchParams, eos_id: int | None) -> None:
        self.params = params
        self.eos_id = eos_id
        self.beams = [BeamSearchSequence(list(prompt))]
        self.ended: list[BeamSearchSequence] = []

    def advance(self, outputs: Sequence[RequestOutput]) -> None:
        """Replace the beams by their best continuations."""
        grown: list[BeamSearchSequence] = []
        for beam, output in zip(self.beams, outputs, strict=True):
            [entry] = output.outputs[0].logprobs or [{}]
            self._grow(beam, entry, grown)
        grown.sort(key=self.score, reverse=True)
        self.beams = grown[: self.params.beam_width]

    def _grow(
        self, beam: BeamSearchSequence, entry: TokenLogprobs, grown: list[BeamSearchSequence]
    ) -> None:
        for token, logprob in entry.items():
            longer = BeamSearchSequence(
                [*beam.tokens, token],
                [*beam.logprobs, entry],
                cum_logprob=beam.cum_logprob + logprob.logprob,
            )
            if token == self.eos_id and not self.params.ignore_eos:
                longer.finish_reason = "stop"
                self.ended.append(longer)
            else:
                grown.append(longer)

    def score(self, beam: BeamSearchSequence) -> float:
        """The larger, the better."""
        ended = self.eos_id is not None and beam.tokens[-1] == self.eos_id
        length = len(beam.tokens) - ended
        return beam.cum_logprob / float(max(length, 1) ** self.params.length_penalty)

    def result(self, tokenizer: Tokenizer) -> BeamSearchOutput:
        """The best sequences, those that ended and those that were cut off."""
        for beam in self.beams:
            beam.finish_reason = "length"
        best = sorted((*self.ended, *self.beams), key=self.score, reverse=True)
        sequences = best[: self.params.beam_width]
        for beam in sequences:
            cut = beam.finish_reason == "stop" and not self.params.include_stop_str_in_output
            shown = beam.tokens[:-1] if cut else beam.tokens
            beam.text = tokenizer.decode(shown, skip_special_tokens=self.params.skip_special_tokens)
        return BeamSearchOutput(sequences)


def beam_search(
    prompts: Sequence[list[int]],
    params: BeamSearchParams,
    tokenizer: Tokenizer,
    max_model_len: int,
    extend: Extend,
) -> list[BeamSearchOutput]:
    """Search all prompts together, a token a round.

    Args:
        extend: Asked for one token of every beam of every prompt at once.
    """
    searches = [BeamSearch(p, params, tokenizer.eos_token_id) for p in prompts]
    one = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=2 * params.beam_width,
        detokenize=False,
        ignore_eos=True,
    )
    for _ in range(params.max_tokens):
        running = [s for s in searches if s.beams and len(s.beams[0].tokens) < max_model_len]
        if not running:
            break
        outputs = iter(extend([b.tokens for s in running for b in s.beams], one))
        for search in running:
            search.advance([next(outputs) for _ in search.beams])
    return [search.result(tokenizer) for search in searches]
