"""Text to token ids and back, and conversations to prompts.

A thin class over the `tokenizers` library; the names of its methods are those of transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from perfxlm_core.checkpoints.chat_template import ChatTemplate, Message
from perfxlm_core.checkpoints.detokenize import ByteStream, DecodeStream, WindowStream
from perfxlm_core.checkpoints.encoding import Encoding, encode
from perfxlm_core.errors import ArgumentError, ModelError, RequestError

if TYPE_CHECKING:
    import tokenizers

DEFAULT_TEMPLATE = "default"


class Tokenizer:
    """A model's tokenizer; threads may share it."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        eos_token_ids: Iterable[int] = (),
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        """A tokenizer made of its parts; `Checkpoint.tokenizer()` makes them from files.

        Args:
            backend: Does the work.
            special_tokens: Text by role: `bos_token`, `eos_token`, `pad_token`, `unk_token`.
            eos_token_ids: Further ids that end an answer.
            chat_templates: Jinja source by name; the usual one is called `default`.
        """
        from tokenizers import decoders

        self.backend = backend
        self.name_or_path = ""
        self.special_tokens = dict(special_tokens)
        self.chat_templates = dict(chat_templates or {})
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")
        self.pad_token_id = self._special_id("pad_token")
        first = () if self.eos_token_id is None else (self.eos_token_id,)
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys((*first, *eos_token_ids)))
        added = backend.get_added_tokens_decoder()
        ids = {i for i, token in added.items() if token.special}
        ids |= {i for i in map(backend.token_to_id, self.special_tokens.values()) if i is not None}
        self.all_special_ids: list[int] = sorted(ids)
        self._special_ids = frozenset(ids)
        self._byte_level = isinstance(backend.decoder, decoders.ByteLevel)
        self._bytes_of: dict[int, bytes] = {}
        self._compiled: dict[str, ChatTemplate] = {}

    def _special_id(self, role: str) -> int | None:
        text = self.special_tokens.get(role)
        return None if text is None else self.backend.token_to_id(text)

    @property
    def bos_token(self) -> str | None:
        """Text of the token that begins a sequence."""
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """Text of the token that ends an answer."""
        return self.special_tokens.get("eos_token")

    @property
    def chat_template(self) -> str | None:
        """Source of the usual chat template, if the model has one."""
        return self.chat_templates.get(DEFAULT_TEMPLATE)

    @cached_property
    def vocab_size(self) -> int:
        """Tokens of the model's own vocabulary; `len()` counts added tokens too."""
        return int(self.backend.get_vocab_size(with_added_tokens=False))

    @cached_property
    def _length(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def __len__(self) -> int:
        return self._length

    def get_vocab(self) -> dict[str, int]:
        """Ids by token, added tokens included."""
        return dict(self.backend.get_vocab(with_added_tokens=True))

    def token_to_id(self, token: str) -> int | None:
        """Id of a token's exact text in the vocabulary, or None."""
        return self.backend.token_to_id(token)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """Each id's text in the vocabulary; None where an id is in none."""
        return [self.backend.id_to_token(i) if i >= 0 else None for i in ids]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written in it become their single ids.

        Args:
            text: Any Unicode text.
            add_special_tokens: Whether to begin (or end) as the model expects a text to.

        Raises:
            RequestError: `text` is no string, or holds half a surrogate pair.
        """
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"text {text!r:.80} cannot be encoded: {error}") from error

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_attention_mask: bool = True,
        **others: object,
    ) -> Encoding:
        """Token ids of a text, or of several, as tokenizers of transformers give them.

        Args:
            truncation: Whether to keep the first `max_length` ids only.
            others: `padding`, `return_tensors`: only values that ask for neither.

        Raises:
            ArgumentError: tensors or padding are asked for.
            RequestError: a text is no string.
        """
        return encode(
            self,
            text,
            add_special_tokens=add_special_tokens,
            truncation=bool(truncation),
            max_length=max_length,
            return_attention_mask=return_attention_mask,
            **others,
        )

    def decode(self, ids: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no UTF-8 become replacement characters.

        Raises:
            ArgumentError: an id is negative or beyond 32 bits.
        """
        listed = [ids] if isinstance(ids, int) else list(ids)
        try:
            return self.backend.decode(listed, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            raise ArgumentError(f"ids {listed!r:.80} are not all token ids: {error}") from error

    def decode_stream(
        self, context: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> DecodeStream:
        """A new incremental detokenizer for one sequence.

        Args:
            context: The tokens before (the prompt), which decide whether the first piece begins
                with a space; their text is not given out.
            skip_special_tokens: Whether special tokens have no text.
        """
        if self._byte_level:
            skipped = self._special_ids if skip_special_tokens else frozenset()
            return ByteStream(
                lambda token_id: b"" if token_id in skipped else self._token_bytes(token_id),
                context,
            )
        return WindowStream(
            lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), context
        )

    def _token_bytes(self, token_id: int) -> bytes:
        """The bytes that a byte-level token stands for; none for an id outside the vocabulary."""
        found = self._bytes_of.get(token_id)
        if found is None:
            token = self.backend.id_to_token(token_id) if token_id >= 0 else None
            found = self._bytes_of[token_id] = _bytes_of_token(token or "")
        return found

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tokenize: Literal[False] = ...,
        add_generation_prompt: bool = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        chat_template: str | None = ...,
        continue_final_message: bool = ...,
        **variables: Any,  # noqa: ANN401
    ) -> str: ...
    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tokenize: Literal[True],
        add_generation_prompt: bool = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        chat_template: str | None = ...,
        continue_final_message: bool = ...,
        **variables: Any,  # noqa: ANN401
    ) -> list[int]: ...
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tokenize: bool = False,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str | list[int]:
        """A conversation as the prompt that the model was trained on.

        Args:
            messages: Turns with `role` and `content`, oldest first.
            tokenize: Whether to return token ids instead of text.
            add_generation_prompt: Whether to open an answer after the last turn.
            tools: Descriptions of functions that the model may call.
            chat_template: Jinja source, or the name of one of the model's templates.
            continue_final_message: Whether to end within the last turn instead.
            variables: Whatever else the template reads.

        Raises:
            ModelError: there is no template, or it has a syntax error.
            RequestError: the conversation is malformed, or the template refuses it.
        """
        template = self._template(chat_template, bool(tools))
        text = template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **{"tools": tools, "documents": None, **self.special_tokens, **variables},
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def _template(self, wanted: str | None, with_tools: bool) -> ChatTemplate:
        if wanted is None:
            wanted = DEFAULT_TEMPLATE
            if with_tools and "tool_use" in self.chat_templates:
                wanted = "tool_use"
        source = self.chat_templates.get(wanted, wanted)
        if source == DEFAULT_TEMPLATE:
            names = [name for name in self.chat_templates if name != DEFAULT_TEMPLATE]
            raise ModelError(
                "the model has no chat template"
                + (f" called default, only {names}" if names else "")
                + "; pass one as chat_template, or complete a plain prompt instead"
            )
        compiled = self._compiled.get(source)
        if compiled is None:
            compiled = self._compiled[source] = ChatTemplate(source)
        return compiled


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level vocabularies.

    Printable bytes of Latin-1 stand for themselves; the others, in order, for the characters from
    U+0100 on (Radford et al. 2019).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(plain)]
    return {chr(b): b for b in plain} | {chr(0x100 + i): b for i, b in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _bytes_of_token(token: str) -> bytes:
    """Bytes of a token; added tokens hold characters outside the alphabet, and mean themselves."""
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()
