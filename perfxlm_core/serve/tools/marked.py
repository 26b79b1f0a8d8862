"""Text with calls in it, each behind a marker."""

from __future__ import annotations

import re
from abc import abstractmethod

from perfxlm_core.serve.tools.characters import CharacterParser, Malformed, Run, Steps
from perfxlm_core.serve.tools.delta import CallId, call_id


class MarkedCalls(CharacterParser):
    """White space around calls is dropped; all other text outside them is content.

    What breaks a call that has been announced is content from the breaking character on.

    Attributes:
        openings: Markers, one of which stands before calls.
        opened: The one that was read last.
        bare: With this character at the start of the text, a call begins without a marker.
    """

    openings: tuple[str, ...] = ()
    opened = ""
    bare = ""

    def __init__(self, new_id: CallId = call_id) -> None:
        super().__init__(new_id)
        self._blank: list[str] = []
        firsts = re.escape("".join(marker[0] for marker in self.openings))
        words = re.compile(rf"(?:\s*[^\s{firsts}])+")
        self._words = Run(words, self._plain_run)

    def grammar(self) -> Steps:
        """Content and calls, to the end."""
        self.hold()
        yield from self.space()
        if self.c and self.c == self.bare:
            yield from self._attempt()
        else:
            self._blank = [self.withdraw()]
        while self.c:
            yield from self._text()
        self.content(self._take_blank())

    def _text(self) -> Steps:
        """Content up to a marker, and the calls behind it."""
        seen = ""
        while self.c:
            seen += self.c
            if seen in self.openings:
                self.opened = seen
                self.hold(self._take_blank() + seen[:-1])
                yield
                yield from self._attempt()
                return
            while not self._may_open(seen):
                self._plain(seen[0])
                seen = seen[1:]
            self.skip = None if seen else self._words
            yield
            self.skip = None
        for c in seen:
            self._plain(c)

    def _may_open(self, seen: str) -> bool:
        return any(marker.startswith(seen) for marker in self.openings) or not seen

    def _plain(self, c: str) -> None:
        """A character outside calls; white space waits for what comes behind it."""
        if c.isspace():
            self._blank.append(c)
        else:
            self.content(self._take_blank() + c)

    def _plain_run(self, run: str) -> None:
        self.content(self._take_blank() + run)

    def _take_blank(self) -> str:
        blank = "".join(self._blank)
        self._blank = []
        return blank

    def _attempt(self) -> Steps:
        """Calls, or content if that is what they turn out to be."""
        try:
            yield from self.calls()
        except Malformed:
            self.release()
        else:
            self.withdraw()

    @abstractmethod
    def calls(self) -> Steps:
        """What follows a marker."""
