"""What is asked in a benchmark."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.checkpoints import Tokenizer

TRIES = 10
"""Text of random tokens often encodes to others; this many corrections are made for the length."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        prompt_tokens: Its length, by the tokenizer that made it.
        max_tokens: How much is to be generated.
    """

    prompt: str
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long random requests are.

    Attributes:
        ratio: Lengths are uniform within this fraction of those given.
        prefix: Tokens that all prompts begin with, in addition.
    """

    prompt: int
    output: int
    ratio: float = 0.0
    prefix: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ArgumentError(f"--random-range-ratio is {self.ratio}; expected from 0 to below 1")


def random_samples(
    tokenizer: Tokenizer, count: int, lengths: Lengths, seed: int = 0
) -> list[Sample]:
    """Prompts of random tokens, each different from its start on."""
    draw = random.Random(seed)
    plain = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.all_special_ids))
    prefix = draw.choices(plain, k=lengths.prefix)
    return [_random_sample(tokenizer, draw, plain, prefix, lengths) for _ in range(count)]


def _random_sample(
    tokenizer: Tokenizer,
    draw: random.Random,
    plain: Sequence[int],
    prefix: Sequence[int],
    lengths: Lengths,
) -> Sample:
    wanted = _vary(draw, lengths.prompt, lengths.ratio)
    ids = [*prefix, *draw.choices(plain, k=wanted)]
    prompt, length = _text_of(tokenizer, draw, plain, ids)
    return Sample(prompt, length, max(1, _vary(draw, lengths.output, lengths.ratio)))


def _vary(draw: random.Random, length: int, ratio: float) -> int:
    return draw.randint(round(length * (1 - ratio)), round(length * (1 + ratio)))


def _text_of(
    tokenizer: Tokenizer, draw: random.Random, plain: Sequence[int], ids: list[int]
) -> tuple[str, int]:
    """Text that encodes to as many tokens, or nearly; and to how many."""
    wanted = len(ids)
    for _ in range(TRIES):
        text = tokenizer.decode(ids, skip_special_tokens=False)
        again = tokenizer.encode(text, add_special_tokens=False)
        if len(again) == wanted:
            break
        ids = [*again[:wanted], *draw.choices(plain, k=max(0, wanted - len(again)))]
    return text, len(again)


def file_samples(path: Path, tokenizer: Tokenizer, count: int, max_tokens: int) -> list[Sample]:
    """Lines of a file: `{"prompt": ..., "output_tokens": ...}`; again from the start if too few.

    Raises:
        ArgumentError: a line is no such object, or there are none.
    """
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise ArgumentError(f'{path} has no lines; expected is JSON such as {{"prompt": "Hi"}}')
    samples = [_line(path, i, line, tokenizer, max_tokens) for i, line in enumerate(lines, 1)]
    return [samples[i % len(samples)] for i in range(count)]


def _line(path: Path, number: int, line: str, tokenizer: Tokenizer, max_tokens: int) -> Sample:
    try:
        entry = json.loads(line)
        prompt, wanted = entry["prompt"], entry.get("output_tokens", max_tokens)
        if not isinstance(prompt, str) or not isinstance(wanted, int) or wanted < 1:
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ArgumentError(
            f'{path}, line {number}: expected {{"prompt": TEXT}}, and "output_tokens" if it is to '
            f"differ from --custom-output-len; found {line[:80]!r}"
        ) from None
    return Sample(prompt, len(tokenizer.encode(prompt)), wanted)
