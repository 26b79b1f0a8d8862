"""Outputs of models that pool: their classes, for programs that import them; none is ever made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class PoolingOutput:
    """A tensor of a pooled prompt."""

    data: Any


@dataclass
class EmbeddingOutput:
    """A prompt's embedding."""

    embedding: list[float]


@dataclass
class ClassificationOutput:
    """A prompt's probabilities, by class."""

    probs: list[float]


@dataclass
class ScoringOutput:
    """A pair's score."""

    score: float


@dataclass
class PoolingRequestOutput:
    """A finished request of a model that pools."""

    request_id: str
    outputs: Any
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool


class EmbeddingRequestOutput(PoolingRequestOutput):
    """One whose outputs are an `EmbeddingOutput`."""


class ClassificationRequestOutput(PoolingRequestOutput):
    """One whose outputs are a `ClassificationOutput`."""


class ScoringRequestOutput(PoolingRequestOutput):
    """One whose outputs are a `ScoringOutput`."""
