"""Counts of tokens, as answers state them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfxlm_core.engine.outputs import RequestOutput


class Usage:
    """Tokens of all prompts and outputs of one HTTP request, so far."""

    def __init__(self) -> None:
        self.completion = 0
        self._prompts: dict[int, int] = {}
        self._cached: dict[int, int] = {}

    def note(self, place: int, output: RequestOutput) -> None:
        """Count what an output brought.

        Args:
            place: Which prompt.
        """
        self._prompts[place] = len(output.prompt_token_ids or ())
        self._cached[place] = output.num_cached_tokens or 0
        self.completion += sum(len(done.token_ids) for done in output.outputs)

    @property
    def prompt(self) -> int:
        """Tokens of the prompts."""
        return sum(self._prompts.values())

    @property
    def cached(self) -> int:
        """Those that the prefix cache had."""
        return sum(self._cached.values())

    def brief(self) -> dict[str, Any]:
        """For the chunks of a stream."""
        prompt = self.prompt
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + self.completion,
            "completion_tokens": self.completion,
        }

    def last(self) -> dict[str, Any]:
        """For the last chunk of a stream."""
        details = {"cached_tokens": self.cached, "created_cache_tokens": None}
        return {**self.brief(), "prompt_tokens_details": details}

    def whole(self) -> dict[str, Any]:
        """For an answer in one piece."""
        details = {
            "cached_tokens": self.cached,
            "created_cache_tokens": None,
            "multimodal_tokens": None,
        }
        return {
            **self.brief(),
            "prompt_tokens_details": details,
            "completion_tokens_details": None,
        }
