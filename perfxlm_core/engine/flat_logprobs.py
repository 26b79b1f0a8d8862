"""`FlatLogprobs`: many log-probabilities in a few lists of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from perfxlm_core.engine.outputs import Logprob, TokenLogprobs


@dataclass
class FlatLogprobs(Sequence[TokenLogprobs]):
    """Reads like a list of dicts, one a position; a dict is made when it is asked for.

    Attributes:
        start_indices: Where each position's entries begin in the other lists.
        end_indices: Where they end.
    """

    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int | None] = field(default_factory=list)
    decoded_tokens: list[str | None] = field(default_factory=list)

    def append(self, entry: TokenLogprobs | None) -> None:
        """Add a position; None, as of a prompt's first token, reads as an empty dict."""
        self.start_indices.append(len(self.token_ids))
        for token_id, logprob in (entry or {}).items():
            self.token_ids.append(token_id)
            self.logprobs.append(logprob.logprob)
            self.ranks.append(logprob.rank)
            self.decoded_tokens.append(logprob.decoded_token)
        self.end_indices.append(len(self.token_ids))

    def extend(self, entries: Iterable[TokenLogprobs | None]) -> None:
        """Add positions."""
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return len(self.start_indices)

    @overload
    def __getitem__(self, index: int) -> TokenLogprobs: ...
    @overload
    def __getitem__(self, index: slice) -> FlatLogprobs: ...
    def __getitem__(self, index: int | slice) -> TokenLogprobs | FlatLogprobs:
        if isinstance(index, slice):
            part = FlatLogprobs()
            part.extend(self[i] for i in range(*index.indices(len(self))))
            return part
        return {
            self.token_ids[i]: Logprob(self.logprobs[i], self.ranks[i], self.decoded_tokens[i])
            for i in range(self.start_indices[index], self.end_indices[index])
        }

    def __iter__(self) -> Iterator[TokenLogprobs]:
        return (self[i] for i in range(len(self)))
