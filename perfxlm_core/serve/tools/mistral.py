"""`[TOOL_CALLS]` and an array, or `[TOOL_CALLS]name{...}`, or `[TOOL_CALLS]name[ARGS]{...}`."""

from __future__ import annotations

import secrets
import string
from collections.abc import Generator

from perfxlm_core.serve.tools.characters import Steps
from perfxlm_core.serve.tools.delta import CallId
from perfxlm_core.serve.tools.json_calls import JsonCalls

_ALPHABET = string.ascii_letters + string.digits
_NAME = frozenset(_ALPHABET + "_-.:/")


def mistral_id() -> str:
    """Nine letters and digits: Mistral's templates refuse any other id."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


class Mistral(JsonCalls):
    """The forms of all versions of Mistral's tokenizer."""

    keeps_special_tokens = True
    openings = ("[TOOL_CALLS]",)

    def __init__(self, new_id: CallId = mistral_id) -> None:
        super().__init__(new_id)

    def batch(self) -> Steps:
        """What follows a marker, in whichever form it comes."""
        yield from self.space()
        if self.c in _NAME:
            yield from self._named()
            yield from self.space()
        else:
            yield from super().batch()

    def _named(self) -> Steps:
        self.begin_call()
        self.name_call((yield from self._word()))
        if self.c == "[":
            yield from self._marks()
        yield from self.space()
        yield from self.last_arguments()

    def _word(self) -> Generator[None, None, str]:
        word = ""
        while self.c in _NAME and len(word) <= 128:
            word += self.c
            yield
        return word

    def _marks(self) -> Steps:
        """`[ARGS]`, or `[CALL_ID]id[ARGS]`; the id is not kept."""
        yield from self.expect("[")
        if self.c == "C":
            yield from self.expect("CALL_ID]")
            yield from self._word()
            yield from self.expect("[")
        yield from self.expect("ARGS]")
