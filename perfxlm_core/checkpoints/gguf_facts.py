"""What GGUF files mean by the names they carry: pre-tokenizers, tokenizer kinds, conventions.

The names are data of the file format and live in `gguf_facts.json`; code knows none of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut before byte-pair merges."""

    split: tuple[str, ...]
    """Regular expressions, each applied to the pieces that the one before left."""
    ignore_merges: bool = False
    """Whether a piece that is itself a token skips the merges."""
    add_bos: bool = False
    """Whether a text begins with the BOS token where the file does not say."""
    normalize: str | None = None
    """Unicode normalization form."""


@cache
def _facts() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("gguf_facts.json").read_text("utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


@cache
def pre_tokenizers() -> dict[str, PreTokenizer]:
    """Every pre-tokenizer that we know, by the name that files use."""
    return {
        name: PreTokenizer(
            tuple(entry["split"]),
            entry.get("ignore_merges", False),
            entry.get("add_bos", False),
            entry.get("normalize"),
        )
        for entry in _facts()["pretokenizers"]
        for name in entry["names"]
    }


def tokenizer_kind(model: str) -> str | None:
    """`"byte_level"` or `"sentencepiece"`, from the value of `tokenizer.ggml.model`."""
    kind: str | None = _facts()["tokenizer_kinds"].get(model)
    return kind


def tokenizer_models() -> list[str]:
    """The values of `tokenizer.ggml.model` that we read."""
    return list(_facts()["tokenizer_kinds"])


def end_of_turn_texts() -> frozenset[str]:
    """Control tokens that end an answer whatever else the file says."""
    return frozenset(_facts()["end_of_turn"])


def is_rope_interleaved(architecture: str) -> bool:
    """Whether files of this architecture hold query and key rows for interleaved rotation.

    The converters of some families permute those rows, so that the rotation pairs elements
    `2i, 2i + 1` instead of `i, i + head_dim / 2`.
    """
    return architecture in _facts()["rope_interleaved"]
