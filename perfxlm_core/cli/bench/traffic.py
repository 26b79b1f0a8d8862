"""Requests over time: when they start, and how many are under way."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfxlm_core.cli.bench.client import Target, Timed, ask
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    import aiohttp

    from perfxlm_core.cli.bench.samples import Sample

TIMEOUT = 6 * 3600
"""Seconds for one request, as vLLM has it."""


@dataclass(frozen=True)
class Traffic:
    """How requests arrive.

    Attributes:
        rate: Requests a second; infinite sends all at once.
        burstiness: 1 is a Poisson process, below 1 comes in bursts, above 1 is more even.
        concurrency: Requests under way at most; None for any number.
    """

    rate: float = math.inf
    burstiness: float = 1.0
    concurrency: int | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "burstiness"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name} is {getattr(self, name)}; expected more than 0")

    def starts(self, count: int, seed: int) -> list[float]:
        """Seconds from the beginning at which requests start; gaps are gamma-distributed."""
        if math.isinf(self.rate):
            return [0.0] * count
        draw = random.Random(seed)
        times, now = [], 0.0
        for _ in range(count):
            times.append(now)
            now += draw.gammavariate(self.burstiness, 1 / (self.rate * self.burstiness))
        return times


@asynccontextmanager
async def connected(headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without limits of its own.

    Raises:
        ArgumentError: aiohttp is not installed.
    """
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise ArgumentError('this needs aiohttp: pip install "perfxlm[serve]"') from None
    # A connection for each request: some servers close used ones without saying so before.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    options: dict[str, Any] = {"read_bufsize": 1 << 20, "trust_env": True}
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, **options
    ) as session:
        yield session


async def send(
    session: aiohttp.ClientSession,
    target: Target,
    samples: Sequence[Sample],
    traffic: Traffic,
    seed: int = 0,
) -> list[Timed]:
    """Send all requests and wait for the last answer; results in the samples' order."""
    gate: AbstractAsyncContextManager[Any] = (
        nullcontext() if traffic.concurrency is None else asyncio.Semaphore(traffic.concurrency)
    )
    begin = asyncio.get_running_loop().time()

    async def one(sample: Sample, start: float) -> Timed:
        await asyncio.sleep(max(0.0, begin + start - asyncio.get_running_loop().time()))
        async with gate:
            return await ask(session, target, sample)

    starts = traffic.starts(len(samples), seed)
    return await asyncio.gather(*map(one, samples, starts))
