"""Fair queueing: a client that sends a thousand requests does not keep another's one waiting."""

from __future__ import annotations

_KEPT = 1024
"""Clients that are remembered before those are forgotten that are owed nothing."""


class FairQueue:
    """Start-time fair queueing: requests are tagged, and served by increasing tags.

    A client's requests lie one behind the other on a time line, each as long as its cost, and
    clients' lines lie side by side: a request that finds a flood of another client's waiting begins
    at the present, not behind the flood. With one client, tags are in order of arrival.

    Source:
        Goyal, Vin and Cheng 1996, "Start-time fair queueing".
    """

    def __init__(self) -> None:
        self._now = 0
        self._ends: dict[str, int] = {}

    def tag(self, client: str, cost: int) -> int:
        """When a new request begins, in units of cost.

        Args:
            client: whose it is.
            cost: at least 1; what serving it takes beside others, in tokens.
        """
        begin = max(self._now, self._ends.get(client, 0))
        self._ends[client] = begin + cost
        return begin

    def serve(self, tag: int) -> None:
        """The request with this tag has been started: the present is there, or later."""
        self._now = max(self._now, tag)
        if len(self._ends) > _KEPT:
            self._ends = {c: end for c, end in self._ends.items() if end > self._now}
