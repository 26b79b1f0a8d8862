"""Reasoning: taking a model's thoughts and its answer apart."""

from perfxlm_core.serve.reasoning.block import Part, ReasoningParser, parse
from perfxlm_core.serve.reasoning.table import reasoning_parsers

__all__ = ["Part", "ReasoningParser", "parse", "reasoning_parsers"]
