"""What loading a model does that takes long, shown where somebody looks: compiling, uploading."""

from __future__ import annotations

from typing import Any

DELAY = 1.0
"""Seconds before a bar appears: what is quicker needs none."""


class Progress:
    """Two bars on stderr while a model is loaded; nothing where stderr is no terminal.

    Args:
        name: the device's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._bars: dict[str, Any] = {}

    def compiling(self) -> None:
        """A program is about to be compiled, because the cache does not have it."""
        self._advance("compiling kernels, kept for the next time", 1, unit=" programs")

    def uploading(self, nbytes: int) -> None:
        """So many bytes of weights have been copied to the device."""
        self._advance("copying weights", nbytes, unit="B", unit_scale=True, unit_divisor=1024)

    def done(self) -> None:
        """The model is loaded: take the bars away."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _advance(self, what: str, step: int, **settings: Any) -> None:  # noqa: ANN401
        from tqdm import tqdm

        if what not in self._bars:
            self._bars[what] = tqdm(
                desc=f"{self.name}: {what}", leave=False, delay=DELAY, disable=None, **settings
            )
        self._bars[what].update(step)
