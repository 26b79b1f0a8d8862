"""Models on disk: names resolved, files opened and validated, tokenizers made.

The main path: `open_checkpoint(resolve_model(name))` gives a `Checkpoint` with a configuration,
tensors that stay in their memory-mapped files, and a tokenizer.
"""

from __future__ import annotations

from perfxlm_core.checkpoints.checkpoint import Checkpoint, open_checkpoint, open_tokenizer
from perfxlm_core.checkpoints.detokenize import DecodeStream
from perfxlm_core.checkpoints.resolve import cache_folder, pull, resolve_model
from perfxlm_core.checkpoints.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "DecodeStream",
    "Tokenizer",
    "cache_folder",
    "open_checkpoint",
    "open_tokenizer",
    "pull",
    "resolve_model",
]
