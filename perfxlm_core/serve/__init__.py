"""Serving: the engine in a process of its own, an asynchronous client, the HTTP interface."""
