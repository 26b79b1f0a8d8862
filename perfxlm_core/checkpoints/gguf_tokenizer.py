"""Tokenizers rebuilt from a GGUF file's metadata.

Two kinds: byte-level BPE, whose merges the file lists, and SentencePiece BPE, whose merges follow
from the scores of its pieces.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core.checkpoints.gguf import GGUFFile, StringArray
from perfxlm_core.checkpoints.gguf_config import generation_config
from perfxlm_core.checkpoints.gguf_facts import (
    PreTokenizer,
    pre_tokenizers,
    tokenizer_kind,
    tokenizer_models,
)
from perfxlm_core.checkpoints.tokenizer import DEFAULT_TEMPLATE, Tokenizer
from perfxlm_core.errors import CheckpointError

if TYPE_CHECKING:
    import tokenizers

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_DEFAULT_PRE = "default"
_TEMPLATE = "tokenizer.chat_template"


class _Vocabulary:
    """The part of the metadata that tokenizers are made of, checked."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.tokens = self._strings("tokens")
        if not self.tokens:
            raise self.error("tokens", "is empty")
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def error(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.file.path}: {_PREFIX}{key} {problem}")

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - metadata
        return self.file.metadata.get(_PREFIX + key, default)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}; a bool is expected")
        return value

    def _strings(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, StringArray):
            raise self.error(key, "is missing, or no array of strings")
        return value[:]

    def merges(self) -> list[tuple[str, str]]:
        pairs = [tuple(merge.split(" ", 1)) for merge in self._strings("merges")]
        if any(len(pair) != 2 for pair in pairs):
            raise self.error("merges", "holds an entry that is not two tokens")
        return [(pair[0], pair[1]) for pair in pairs]

    def numbers(self, key: str) -> Sequence[float]:
        """One number for each token."""
        value = self.get(key)
        if not isinstance(value, np.ndarray) or len(value) != len(self.tokens):
            raise self.error(key, f"is missing, or has not the {len(self.tokens)} tokens' length")
        numbers: list[float] = value.tolist()
        return numbers

    def special_tokens(self) -> dict[str, str]:
        roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
        special = {}
        for role, key in roles.items():
            token_id = self.get(f"{key}_token_id")
            if token_id is None:
                continue
            if type(token_id) is not int or not 0 <= token_id < len(self.tokens):
                raise self.error(
                    f"{key}_token_id", f"is {token_id!r}; below {len(self.tokens)} is expected"
                )
            special[f"{role}_token"] = self.tokens[token_id]
        return special


def gguf_tokenizer(file: GGUFFile) -> Tokenizer:
    """The file's tokenizer.

    Raises:
        CheckpointError: the metadata hold none, a kind that we do not read, or an inconsistent one.
    """
    model = file.metadata.get(_PREFIX + "model")
    kind = tokenizer_kind(model) if isinstance(model, str) else None
    if kind is None:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.model is {model!r}; "
            f"{' and '.join(map(repr, tokenizer_models()))} are read; "
            "use the model's Hugging Face folder instead"
        )
    vocabulary = _Vocabulary(file)
    build = _byte_level if kind == "byte_level" else _sentencepiece
    try:
        backend = build(vocabulary)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception for inconsistent vocabularies
        raise CheckpointError(f"{file.path}: the tokenizer is inconsistent: {error}") from error
    _add_tokens(backend, vocabulary)
    return Tokenizer(
        backend,
        special_tokens=vocabulary.special_tokens(),
        eos_token_ids=generation_config(file).get("eos_token_id", ()),
        chat_templates=_chat_templates(file),
    )


def _chat_templates(file: GGUFFile) -> dict[str, str]:
    named = {_TEMPLATE: DEFAULT_TEMPLATE} | {
        key: key.removeprefix(_TEMPLATE + ".")
        for key in file.metadata
        if key.startswith(_TEMPLATE + ".")
    }
    found = {name: file.metadata.get(key) for key, name in named.items()}
    return {name: source for name, source in found.items() if isinstance(source, str)}


def _add_tokens(backend: tokenizers.Tokenizer, vocabulary: _Vocabulary) -> None:
    """Tokens that are found in a text before anything else: control and user-defined ones."""
    from tokenizers import AddedToken

    special = set(vocabulary.special_tokens().values())
    defined: list[str] = []
    if vocabulary.get("token_type") is not None:
        kinds = np.array(vocabulary.numbers("token_type"))
        special |= {vocabulary.tokens[i] for i in np.flatnonzero(kinds == _CONTROL)}
        defined = [vocabulary.tokens[i] for i in np.flatnonzero(kinds == _USER_DEFINED)]
    in_order = sorted(special, key=vocabulary.ids.__getitem__)
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in in_order])
    backend.add_tokens([AddedToken(t, normalized=False) for t in defined if t and t not in special])


def _add_post_processor(
    backend: tokenizers.Tokenizer, vocabulary: _Vocabulary, bos_default: bool
) -> None:
    """Begins a text with BOS and ends it with EOS, as the file says."""
    from tokenizers import processors

    special = vocabulary.special_tokens()
    begin = special.get("bos_token") if vocabulary.flag("add_bos_token", bos_default) else None
    end = special.get("eos_token") if vocabulary.flag("add_eos_token", False) else None
    used = [token for token in (begin, end) if token is not None]
    if used:
        backend.post_processor = processors.TemplateProcessing(
            single=[*([begin] if begin else []), "$A", *([end] if end else [])],
            special_tokens=[(token, vocabulary.ids[token]) for token in dict.fromkeys(used)],
        )


def _pre_tokenizer(vocabulary: _Vocabulary) -> PreTokenizer:
    name = vocabulary.get("pre")
    known = pre_tokenizers()
    if name not in known:
        warnings.warn(
            f"{vocabulary.file.path}: the pre-tokenizer {name!r} is not known; "
            f"{_DEFAULT_PRE!r} is used, and some texts may get other tokens than in training",
            stacklevel=4,
        )
        return known[_DEFAULT_PRE]
    return known[name]


def _byte_level(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = _pre_tokenizer(vocabulary)
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary.ids, merges=vocabulary.merges(), ignore_merges=pre.ignore_merges
        )
    )
    if pre.normalize is not None:
        forms = {"NFC": normalizers.NFC, "NFKC": normalizers.NFKC}
        backend.normalizer = forms[pre.normalize]()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.split),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _add_post_processor(backend, vocabulary, pre.add_bos)
    return backend


def _sentencepiece(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    prefix = vocabulary.flag("add_space_prefix", True)
    unknown = vocabulary.special_tokens().get("unk_token")
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary.ids,
            merges=_merges_of_scores(vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), spaces] if prefix else [spaces]
    )
    steps: list[Any] = [
        decoders.Replace(_SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    _add_post_processor(backend, vocabulary, True)
    return backend


def _merges_of_scores(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a piece out of two, best score first.

    Among merges into one piece, the pair of lower ids comes first; that order is only seen by
    texts on which SentencePiece itself would take the leftmost pair.
    """
    ids, scores = vocabulary.ids, vocabulary.numbers("scores")
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece, i in ids.items():
        for cut in range(1, len(piece)):
            left = ids.get(piece[:cut])
            if left is None:
                continue
            right = ids.get(piece[cut:])
            if right is not None:
                found.append((-scores[i], left, right, (piece[:cut], piece[cut:])))
    found.sort()
    return [pair for *_, pair in found]
