"""Log-probabilities in the forms of the completions and the chat interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfxlm_core.engine.outputs import Logprob, TokenLogprobs

LEAST = -9999.0
"""What stands for minus infinity, which JSON cannot write."""


class LegacyLogprobs:
    """The completions interface's object: parallel lists, and offsets into the text.

    Args:
        as_ids: Write tokens as `token_id:42`, which is exact for tokens that are no text.
    """

    def __init__(self, as_ids: bool) -> None:
        self.as_ids = as_ids
        self._offset = 0

    def of(
        self,
        token_ids: Sequence[int],
        entries: Sequence[TokenLogprobs | None],
        first_text: str = "",
    ) -> dict[str, Any]:
        """The object for these tokens.

        Args:
            entries: One a token; None for the first one of a prompt, which nothing predicts.
            first_text: That token's text.
        """
        offsets, tokens, values, tops = [], [], [], []
        for token_id, entry in zip(token_ids, entries, strict=True):
            text = first_text if entry is None else _name(token_id, entry[token_id], self.as_ids)
            offsets.append(self._offset)
            tokens.append(text)
            self._offset += len(text)
            values.append(None if entry is None else bounded(entry[token_id].logprob))
            tops.append(None if entry is None else self._top(entry))
        return {
            "text_offset": offsets,
            "token_logprobs": values,
            "tokens": tokens,
            "top_logprobs": tops,
        }

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        return {_name(i, e, self.as_ids): bounded(e.logprob) for i, e in entry.items()}


def chat_logprobs(
    token_ids: Sequence[int], entries: Sequence[TokenLogprobs], top: int, as_ids: bool
) -> dict[str, Any]:
    """The chat interface's object.

    Args:
        top: How many of the likeliest tokens to list for each.
    """
    content = []
    for token_id, entry in zip(token_ids, entries, strict=True):
        likeliest = sorted(entry.items(), key=lambda item: item[1].rank or 0)[:top]
        content.append(
            {
                **_token(token_id, entry[token_id], as_ids),
                "top_logprobs": [_token(i, e, as_ids) for i, e in likeliest],
            }
        )
    return {"content": content}


def _token(token_id: int, entry: Logprob, as_ids: bool) -> dict[str, Any]:
    text = _name(token_id, entry, as_ids)
    data = list(text.encode("utf-8", errors="replace"))
    return {"token": text, "logprob": bounded(entry.logprob), "bytes": data}


def _name(token_id: int, entry: Logprob, as_ids: bool) -> str:
    if as_ids:
        return f"token_id:{token_id}"
    return entry.decoded_token or ""


def prompt_logprobs(entries: Sequence[TokenLogprobs | None] | None) -> list[Any] | None:
    """A prompt's, by token id."""
    return None if entries is None else [None if e is None else _by_id(e) for e in entries]


def _by_id(entry: TokenLogprobs) -> dict[str, Any]:
    return {
        str(i): {"logprob": bounded(e.logprob), "rank": e.rank, "decoded_token": e.decoded_token}
        for i, e in entry.items()
    }


def bounded(value: float) -> float:
    """The value, if JSON can write it."""
    return max(value, LEAST)
