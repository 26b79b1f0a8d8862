"""Names that programs import and that cannot be had: refused where they are used, not before."""

from __future__ import annotations

from typing import Any, NoReturn


def refused(name: str, reason: str) -> type:
    """A class that says why it cannot be made.

    Args:
        reason: Follows "is not supported:".
    """

    def __init__(self: Any, *_: object, **__: object) -> NoReturn:  # noqa: ANN401
        from perfxlm_core.errors import ArgumentError

        raise ArgumentError(f"{name} is not supported: {reason}")

    text = f"Refused: {reason}."
    return type(name, (), {"__init__": __init__, "__doc__": text, "refused": reason})
