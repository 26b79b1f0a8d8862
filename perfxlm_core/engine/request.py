"""What the scheduler knows of a request."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_ROOM = 64
"""Output tokens to make room for at first; the buffer doubles when it is full."""


class RequestStatus(Enum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class Request:
    """One sequence: its tokens, how many of them are in the KV cache, and where.

    Every step computes some of the tokens from `num_computed_tokens` to `num_tokens`; when all
    are computed, the last one's logits give the next token. So a prompt, a chunk of one, a decode
    and a recomputation after preemption are the same thing.

    Attributes:
        order: Requests are served by increasing `(priority, tag, order)`; the caller numbers them.
        client: Whose it is; clients share the engine fairly.
        tag: When it begins on the scheduler's time line; None before it has been queued.
        token_ids: [capacity] int32; the first `num_tokens` are the prompt and then the output.
        block_ids: KV blocks, in order of position.
        block_hashes: Chained digests of the full blocks of `token_ids`, as far as known.
        num_published: Leading blocks that the prefix cache already knows of.
        row: This request's row in the block tables while it runs, else None.
        needs_prompt_logits: Whether the prompt's rows are wanted too; `num_prompt_logits` counts
            those that came.
    """

    __slots__ = (
        "block_hashes",
        "block_ids",
        "cache_salt",
        "client",
        "needs_prompt_logits",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_preemptions",
        "num_prompt_logits",
        "num_prompt_tokens",
        "num_published",
        "num_tokens",
        "order",
        "priority",
        "request_id",
        "row",
        "skip_reading_prefix_cache",
        "status",
        "tag",
        "token_ids",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        *,
        order: int,
        priority: int = 0,
        client: str = "",
        cache_salt: str = "",
        skip_reading_prefix_cache: bool = False,
        needs_prompt_logits: bool = False,
    ) -> None:
        self.request_id = request_id
        self.order = order
        self.priority = priority
        self.client = client
        self.tag: int | None = None
        self.cache_salt = cache_salt
        self.skip_reading_prefix_cache = skip_reading_prefix_cache
        self.needs_prompt_logits = needs_prompt_logits
        self.num_prompt_tokens = self.num_tokens = len(prompt_token_ids)
        self.token_ids: npt.NDArray[np.int32] = np.empty(self.num_tokens + _ROOM, np.int32)
        self.token_ids[: self.num_tokens] = prompt_token_ids
        self.status = RequestStatus.WAITING
        self.num_computed_tokens = 0
        self.num_prompt_logits = 0
        self.num_preemptions = 0
        self.num_cached_tokens: int | None = None
        self.block_ids: list[int] = []
        self.block_hashes: list[bytes] = []
        self.num_published = 0
        self.row: int | None = None

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return self.num_tokens - self.num_prompt_tokens

    def append(self, token_id: int) -> None:
        """Add a generated token."""
        if self.num_tokens == len(self.token_ids):
            self.token_ids = np.concatenate((self.token_ids, np.empty_like(self.token_ids)))
        self.token_ids[self.num_tokens] = token_id
        self.num_tokens += 1

    def logit_rows(self, count: int) -> int:
        """How many of the next `count` tokens need logits; they are always the last ones."""
        end = self.num_computed_tokens + count
        if self.needs_prompt_logits and self.num_tokens == self.num_prompt_tokens:
            return max(0, end - max(self.num_computed_tokens, self.num_prompt_logits))
        return int(end == self.num_tokens)

    def __repr__(self) -> str:
        done = f"{self.num_computed_tokens}/{self.num_tokens} tokens computed"
        return f"Request({self.request_id!r}, {self.status.value}, {done})"
