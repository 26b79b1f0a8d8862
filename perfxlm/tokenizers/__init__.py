"""`perfxlm.tokenizers`, where vLLM's users look for `get_tokenizer`."""

from perfxlm.transformers_utils.tokenizer import get_tokenizer

__all__ = ["get_tokenizer"]
