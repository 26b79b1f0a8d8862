"""Token ids of one text or several, in the form of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.checkpoints.tokenizer import Tokenizer

_CHANGING = {
    "padding": (False, None, "do_not_pad"),
    "return_tensors": (None,),
    "text_pair": (None,),
}
"""What calling a tokenizer of transformers can ask for besides ids, and what asks for nothing."""


class Encoding(dict[str, Any]):
    """`input_ids` and, unless not wanted, `attention_mask`; also by attribute."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a list, or a list of lists
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"an encoding has {sorted(self)}, no {name!r}") from None


def encode(
    tokenizer: Tokenizer,
    text: str | Sequence[str],
    *,
    add_special_tokens: bool,
    truncation: bool,
    max_length: int | None,
    return_attention_mask: bool,
    **others: object,
) -> Encoding:
    """What `Tokenizer.__call__` gives.

    Raises:
        ArgumentError: another argument asks for something that ids are not.
        RequestError: a text is no string.
    """
    for name, value in others.items():
        if name in _CHANGING and value not in _CHANGING[name]:
            raise ArgumentError(f"{name}={value!r} is not supported: lists of ids are returned")
        if name not in _CHANGING:
            raise TypeError(f"a tokenizer takes no {name!r}")
    texts = [text] if isinstance(text, str) else list(text)
    longest = max_length if truncation else None
    ids = [tokenizer.encode(t, add_special_tokens)[:longest] for t in texts]
    masks = [[1] * len(i) for i in ids]
    found = Encoding(input_ids=ids[0] if isinstance(text, str) else ids)
    if return_attention_mask:
        found["attention_mask"] = masks[0] if isinstance(text, str) else masks
    return found
