"""Rows of the table side by side: each process has its own worker and takes slot after slot."""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor

from perfxlm_core.conformance.runner import Row, run_slot
from perfxlm_core.conformance.session import Session
from perfxlm_core.conformance.slots import Slot

_session: Session | None = None
"""Of a process of the pool."""


def run_slots(
    session: Session,
    todo: Sequence[Slot],
    examples: int,
    start: int = 0,
    large: bool = False,
    jobs: int = 1,
) -> Iterator[Row]:
    """Rows in the order of the slots. They are the same however many processes there are.

    Args:
        session: the plugin, entered; it runs the cases itself where there is one job.
        todo: what to try.
        examples: how many cases; for this and the others see `run_slot`.
        start: seed of the cases.
        large: whether cases have the sizes of real models.
        jobs: processes that try slots at the same time.
    """
    if jobs == 1:
        yield from (run_slot(session, slot, examples, start, large) for slot in todo)
        return
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_open,
        initargs=(session.plugin, session.timeout),
    )
    with pool:
        waiting: list[Future[Row]] = [
            pool.submit(_run, slot, examples, start, large) for slot in todo
        ]
        try:
            for one in waiting:
                yield one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _open(plugin: str, timeout: float) -> None:
    """Start a process's worker; NumPy's own threads would only get in the others' way."""
    global _session
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _session = Session(plugin, timeout).__enter__()
    atexit.register(_session.close)


def _run(slot: Slot, examples: int, start: int, large: bool) -> Row:
    assert _session is not None
    return run_slot(_session, slot, examples, start, large)
