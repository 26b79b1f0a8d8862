"""Tokenizers of Hugging Face folders: tokenizer.json and the small files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perfxlm_core.checkpoints.json_file import read_json
from perfxlm_core.checkpoints.tokenizer import DEFAULT_TEMPLATE, Tokenizer
from perfxlm_core.errors import CheckpointError

_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def folder_tokenizer(folder: Path, eos_token_ids: Iterable[int] = ()) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        CheckpointError: tokenizer.json is missing or damaged.
    """
    import tokenizers

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: holds no tokenizer.json; save one with the model's fast tokenizer "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder)), or pass tokenizer="
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path}: is damaged or too new: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    config = read_json(folder / "tokenizer_config.json")
    return Tokenizer(
        backend,
        special_tokens=_special_tokens(folder, config),
        eos_token_ids=eos_token_ids,
        chat_templates=_chat_templates(folder, config),
    )


def _special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    given = {**read_json(folder / "special_tokens_map.json"), **config}
    texts = {
        role: token.get("content") if isinstance(token, dict) else token
        for role, token in given.items()
        if role in _ROLES
    }
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name; files of their own win over the configuration."""
    given = config.get("chat_template")
    templates = {DEFAULT_TEMPLATE: given} if isinstance(given, str) else {}
    if isinstance(given, list):
        templates |= {
            entry["name"]: entry["template"]
            for entry in given
            if isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("template"), str)
        }
    legacy = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(legacy, str):
        templates[DEFAULT_TEMPLATE] = legacy
    files = {DEFAULT_TEMPLATE: folder / "chat_template.jinja"}
    files |= {p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, path in files.items():
        if path.is_file():
            templates[name] = _read_text(path)
    return templates


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
