"""Requests in, tokens out: scheduling, paged KV blocks, sampling, the step, and the `LLM` class."""
