"""From logits to tokens: raw log-probabilities, logit processors, and the draw.

The order is vLLM's: raw log-probabilities; allowed ids; bad words; min_tokens; logit_bias;
repetition, frequency and presence penalties; the grammar; then greedy, or temperature, min_p,
top_k, top_p and the draw.

Everything about a row depends on that row alone, so a seeded request gets the same tokens
whatever else is in the batch. Rows without processors are never copied, and truncation selects a
few candidates instead of sorting the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perfxlm_core.errors import LogitsError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perfxlm_core.engine.grammar import Grammar
    from perfxlm_core.engine.params import SamplingParams

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

_SPAN = 64
"""Logits that share one maximum, or one sum, when candidates are looked for."""
_FIRST_CANDIDATES = 256


class SeenTokens:
    """How often each token was generated; grows by one token at a time, never scans the vocabulary.

    Holds the prompt's tokens too (with count 0), as the repetition penalty wants.
    """

    def __init__(self, prompt_token_ids: npt.NDArray[np.int32]) -> None:
        self._ids = np.unique(prompt_token_ids).astype(np.int64)
        self._counts = np.zeros(len(self._ids), np.float32)
        self._places = {int(token): i for i, token in enumerate(self._ids)}

    def add(self, token_id: int) -> None:
        """Count one more generated token."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            room = max(16, place)
            self._ids = np.concatenate((self._ids, np.empty(room, np.int64)))
            self._counts = np.concatenate((self._counts, np.zeros(room, np.float32)))
        self._ids[place] = token_id
        self._counts[place] += 1

    @property
    def ids(self) -> Ints:
        """Tokens of the prompt or the output, each once."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Floats:
        """How often each of `ids` was generated."""
        return self._counts[: len(self._places)]


class RequestSampler:
    """One request's sampling: its parameters made ready, its random numbers, what it has seen.

    Args:
        prompt_token_ids: [tokens] int32.
        stop_token_ids: Tokens that must not come before `min_tokens`.
        bad_words: Token sequences that must not be completed.
        seed: Of the random numbers; one number is drawn a token.
        grammar: Which tokens may come next at all.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        vocab_size: int,
        prompt_token_ids: npt.NDArray[np.int32],
        stop_token_ids: Iterable[int] = (),
        bad_words: Sequence[Sequence[int]] = (),
        seed: int | Sequence[int] = 0,
        grammar: Grammar | None = None,
    ) -> None:
        self.grammar = grammar
        self.params = params
        self.greedy = params.is_greedy
        self.output_token_ids: list[int] = []
        self._random = None if self.greedy else np.random.default_rng(seed)
        self._seen = SeenTokens(prompt_token_ids) if params.has_penalties else None
        self._early = _ids(stop_token_ids) if params.min_tokens else _ids(())
        self._forbidden = _complement(params.allowed_token_ids, vocab_size)
        self._bad_tokens = _ids(w[0] for w in bad_words if len(w) == 1)
        self._bad_words = [tuple(w) for w in bad_words if len(w) > 1]
        bias = params.logit_bias or {}
        self._bias = _ids(bias), np.fromiter(bias.values(), np.float32, len(bias))
        self._lasting = bool(
            self._forbidden.size
            or self._bad_tokens.size
            or self._bad_words
            or bias
            or self._seen is not None
            or grammar is not None
        )

    @property
    def has_processors(self) -> bool:
        """Whether the next token's logits are to be changed before sampling."""
        return self._lasting or self._is_early

    @property
    def _is_early(self) -> bool:
        return self._early.size > 0 and len(self.output_token_ids) < self.params.min_tokens

    def process(self, row: Floats) -> None:
        """Apply the logit processors to one row, in place."""
        row[self._forbidden] = -np.inf
        row[self._bad_tokens] = -np.inf
        for *start, last in self._bad_words:
            if self.output_token_ids[-len(start) :] == start:
                row[last] = -np.inf
        if self._is_early:
            row[self._early] = -np.inf
        ids, bias = self._bias
        row[ids] += bias
        if self._seen is not None:
            self._penalize(row, self._seen)
        if self.grammar is not None:
            self.grammar.mask(row)

    def _penalize(self, row: Floats, seen: SeenTokens) -> None:
        p = self.params
        values = row[seen.ids]
        if p.repetition_penalty != 1:
            factor = np.float32(p.repetition_penalty)
            values = np.where(values > 0, values / factor, values * factor)
        values -= np.float32(p.frequency_penalty) * seen.counts
        values -= np.float32(p.presence_penalty) * (seen.counts > 0)
        row[seen.ids] = values

    def choose(self, row: Floats, scratch: Floats) -> int:
        """The next token from a row of processed logits, which is left as it is.

        Raises:
            RequestError: no token has a finite logit, or one is not a number.
        """
        if self._random is None:
            return checked(row, int(row.argmax()))
        return draw(row, self.params, self._random.random(), scratch)

    def accept(self, token_id: int) -> None:
        """Record the token that was generated."""
        self.output_token_ids.append(token_id)
        if self._seen is not None:
            self._seen.add(token_id)
        if self.grammar is not None:
            self.grammar.accept(token_id)


class Sampler:
    """Samples a batch of rows."""

    def __init__(self, vocab_size: int) -> None:
        self._row = np.empty(vocab_size, np.float32)
        self._scratch = np.empty(vocab_size, np.float32)

    def sample(
        self, logits: Floats, requests: Sequence[RequestSampler]
    ) -> list[int | RequestError]:
        """One token a row, or the error that ends that row's request.

        Args:
            logits: [rows, vocab] float32; not changed.
            requests: [rows]; each is told of its token.
        """
        likeliest = None
        if any(r.greedy and not r.has_processors for r in requests):
            likeliest = logits.argmax(axis=-1).tolist()
        tokens = [self._one(logits, i, r, likeliest) for i, r in enumerate(requests)]
        for request, token in zip(requests, tokens, strict=True):
            if not isinstance(token, RequestError):
                request.accept(token)
        return tokens

    def _one(
        self, logits: Floats, i: int, request: RequestSampler, likeliest: list[int] | None
    ) -> int | RequestError:
        try:
            if request.has_processors:
                np.copyto(self._row, logits[i])
                request.process(self._row)
                return request.choose(self._row, self._scratch)
            if request.greedy and likeliest is not None:
                return checked(logits[i], likeliest[i])
            return request.choose(logits[i], self._scratch)
        except RequestError as error:
            return error


def checked(row: Floats, token_id: int) -> int:
    """`token_id`, the likeliest of the row, unless the row makes no sense.

    Raises:
        RequestError: no token is left to choose from.
        LogitsError: its logit is infinite, or not a number.
    """
    value = row[token_id]
    if value == -np.inf:
        raise RequestError(_NO_TOKEN)
    if not value < np.inf:
        raise LogitsError(_NOT_FINITE.format(value, token_id))
    return token_id


_NO_TOKEN = (
    "no token can be generated: allowed_token_ids, bad_words, min_tokens, "
    "structured_outputs and the model together exclude every token; relax one of them"
)
_NOT_FINITE = (
    "the model's logits hold {} (first at token id {}); its weights or a kernel overflow: "
    "try dtype='float32' or another device"
)


def draw(row: Floats, params: SamplingParams, uniform: float, scratch: Floats) -> int:
    """Draw a token by temperature, min_p, top_k and top_p.

    top_p is a share of what min_p and top_k leave. Tokens as likely as the k-th are all kept.

    Args:
        row: [vocab] float32; not changed.
        uniform: In [0, 1); the inverse of the cumulative distribution is taken there.
        scratch: [vocab] float32; overwritten.

    Raises:
        RequestError: no token has a finite logit, or one is not a number.
    """
    top = row[checked(row, int(row.argmax()))]
    x = np.subtract(row, top, out=scratch)
    x *= np.float32(1 / params.temperature)
    if params.min_p > 0:
        x[x < np.float32(np.log(params.min_p))] = -np.inf
    if 0 < params.top_k < len(x):
        ids = largest(x, params.top_k)
        return int(ids[_nucleus(np.exp(x[ids]), params.top_p, None, uniform)])
    if params.top_p < 1:
        return _draw_nucleus(x, params.top_p, uniform)
    return _inverse(np.exp(x, out=x), uniform)


def _draw_nucleus(x: Floats, top_p: float, uniform: float) -> int:
    """Draw by top_p, looking at more and more of the likeliest tokens until they suffice."""
    np.exp(x, out=x)
    total = float(x.sum())
    count = _FIRST_CANDIDATES
    while True:
        ids = largest(x, count)
        weights = x[ids]
        if len(ids) == len(x) or weights.sum(dtype=np.float64) >= top_p * total:
            return int(ids[_nucleus(weights, top_p, total, uniform)])
        count *= 8


def _nucleus(weights: Floats, top_p: float, total: float | None, uniform: float) -> int:
    """Draw among the first of the descending `weights` that make up `top_p` of the total."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    share = top_p * (cumulative[-1] if total is None else total)
    kept = min(int(np.searchsorted(cumulative, share)) + 1, int(np.count_nonzero(weights)))
    target = uniform * cumulative[kept - 1]
    return min(int(np.searchsorted(cumulative[:kept], target, side="right")), kept - 1)


def _inverse(weights: Floats, uniform: float) -> int:
    """Invert the cumulative distribution: first the span, then the place in it."""
    sums = np.add.reduceat(weights, np.arange(0, len(weights), _SPAN))
    cumulative = np.cumsum(sums, dtype=np.float64)
    target = uniform * cumulative[-1]
    last = int(np.flatnonzero(sums)[-1])
    span = min(int(np.searchsorted(cumulative, target, side="right")), last)
    inner = weights[span * _SPAN : (span + 1) * _SPAN]
    before = cumulative[span - 1] if span else 0.0
    place = int(np.searchsorted(np.cumsum(inner, dtype=np.float64), target - before, side="right"))
    return span * _SPAN + min(place, int(np.flatnonzero(inner)[-1]))


def largest(row: Floats, count: int) -> Ints:
    """Indices of the `count` largest values and of those equal to the last; largest first.

    The maxima of small groups bound the answer from below: the `count`-th largest of them is not
    above the `count`-th largest value, so only what reaches it is looked at.
    """
    if count >= len(row):
        ids = np.arange(len(row))
    else:
        columns = len(row) // _SPAN
        grouped = row[: columns * _SPAN].reshape(_SPAN, columns).max(axis=0)
        maxima = np.concatenate((grouped, row[columns * _SPAN :]))
        if count < len(maxima):
            ids = np.flatnonzero(row >= _kth(maxima, count))
        else:
            ids = np.arange(len(row))
        values = row[ids]
        ids = ids[values >= _kth(values, count)]
    return ids[np.argsort(-row[ids], kind="stable")]


def _kth(values: Floats, count: int) -> np.float32:
    """The `count`-th largest value."""
    place = len(values) - count
    return np.float32(np.partition(values, place)[place])


def raw_logprobs(row: Floats, token_id: int, count: int) -> list[tuple[int, float, int]]:
    """Log-probabilities of one token and of the `count` likeliest, as (id, logprob, rank).

    The token comes first. Ranks count strictly likelier tokens, plus one; equal logits among the
    likeliest are told apart by id.

    Args:
        row: [vocab] float32, raw logits.
        count: -1 means the whole vocabulary.

    Raises:
        RequestError: a logit is not a number, or infinite.
    """
    norm = _log_sum(row)
    found = [_ranked(row, token_id, norm)]
    if count:
        ids = largest(row, len(row) if count == -1 else count)[: None if count == -1 else count]
        values: Any = row[ids].astype(np.float64) - norm
        found += zip(ids.tolist(), values.tolist(), range(1, len(ids) + 1), strict=True)
    return found


def raw_logprobs_of(row: Floats, ids: Iterable[int]) -> list[tuple[int, float, int]]:
    """Log-probabilities of these tokens, as (id, logprob, rank).

    Args:
        row: [vocab] float32, raw logits.

    Raises:
        RequestError: a logit is not a number, or infinite.
    """
    norm = _log_sum(row)
    return [_ranked(row, token_id, norm) for token_id in ids]


def _log_sum(row: Floats) -> float:
    top = row[checked(row, int(row.argmax()))]
    return float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))


def _ranked(row: Floats, token_id: int, norm: float) -> tuple[int, float, int]:
    rank = int(np.count_nonzero(row > row[token_id])) + 1
    return token_id, float(row[token_id]) - norm, rank


def _ids(values: Iterable[int]) -> Ints:
    return np.fromiter(values, np.int64)


def _complement(allowed: Sequence[int] | None, vocab_size: int) -> Ints:
    """Token ids that are not allowed."""
    if allowed is None:
        return _ids(())
    keep = np.zeros(vocab_size, bool)
    keep[np.asarray(allowed)] = True
    return np.flatnonzero(~keep)
