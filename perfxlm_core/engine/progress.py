"""The progress bar of `LLM.generate`."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfxlm_core.engine.outputs import RequestOutput


class Progress:
    """Counts finished requests, and tokens a second, on a tqdm bar.

    Args:
        use_tqdm: False shows nothing; a callable is used in `tqdm.tqdm`'s place.
    """

    def __init__(self, num_requests: int, use_tqdm: bool | Callable[..., Any]) -> None:
        self._bar: Any = None
        self._start = time.perf_counter()
        self._read = self._written = 0
        if use_tqdm and num_requests:
            make = use_tqdm if callable(use_tqdm) else _tqdm()
            self._bar = make(
                total=num_requests,
                desc="Processed prompts",
                dynamic_ncols=True,
                postfix=_speeds(0, 0, 1),
            )

    def add(self, output: RequestOutput) -> None:
        """Count a finished request."""
        if self._bar is None or not output.finished:
            return
        self._read += len(output.prompt_token_ids or ())
        self._written += sum(len(c.token_ids) for c in output.outputs)
        seconds = time.perf_counter() - self._start
        self._bar.postfix = _speeds(self._read, self._written, seconds)
        self._bar.update(1)

    def added(self, output: RequestOutput) -> RequestOutput:
        """Count a finished request; the request."""
        self.add(output)
        return output

    def advance(self, count: int) -> None:
        """Count finished prompts whose tokens are not known."""
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm() -> Callable[..., Any]:
    from tqdm.auto import tqdm  # imported when a bar is wanted

    bar: Callable[..., Any] = tqdm
    return bar


def _speeds(read: int, written: int, seconds: float) -> str:
    return f"input: {read / seconds:.2f} toks/s, output: {written / seconds:.2f} toks/s"
