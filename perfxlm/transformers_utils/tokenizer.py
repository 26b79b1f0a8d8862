"""`perfxlm.transformers_utils.tokenizer`: a model's tokenizer, opened alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfxlm_core.checkpoints.tokenizer import Tokenizer


def get_tokenizer(
    tokenizer_name: str | os.PathLike[str],
    *args: object,
    tokenizer_mode: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    download_dir: str | None = None,
    **kwargs: object,
) -> Tokenizer:
    """The tokenizer of a model, of whatever kind `LLM` takes; the mode makes no difference.

    Raises:
        ArgumentError: an argument is given that would change the tokenizer.
        ModelError: it cannot be found.
    """
    from perfxlm_core.checkpoints import open_tokenizer, resolve_model
    from perfxlm_core.errors import ArgumentError

    given = [name for name, value in kwargs.items() if value is not None]
    if args or given or download_dir:
        raise ArgumentError(
            f"get_tokenizer takes the tokenizer's name and revision alone, got {[*args, *given]}"
        )
    found = open_tokenizer(resolve_model(str(tokenizer_name), revision))
    found.name_or_path = str(tokenizer_name)
    return found


__all__ = ["get_tokenizer"]
