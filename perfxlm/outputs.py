"""`perfxlm.outputs`, where vLLM's users look for it."""

from perfxlm.pooling_outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from perfxlm_core.engine.outputs import CompletionOutput, RequestOutput, RequestStateStats

__all__ = [
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "PoolingOutput",
    "PoolingRequestOutput",
    "RequestOutput",
    "RequestStateStats",
    "ScoringOutput",
    "ScoringRequestOutput",
]
