"""`perfxlm.utils.argparse_utils`: argparse that reads flags as vLLM's parser does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class FlexibleArgumentParser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes `--a_flag` for `--a-flag`, and shows defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]  # without its overloads
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401
    ) -> tuple[Any, list[str]]:
        """Parse what is known; see `argparse.ArgumentParser.parse_known_args`."""
        given = sys.argv[1:] if args is None else list(args)
        known = {option for action in self._actions for option in action.option_strings}
        return super().parse_known_args([_dashed(a, known) for a in given], namespace)


def _dashed(argument: str, known: set[str]) -> str:
    """The flag as it is known, where that is with dashes for underscores or the other way round."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    for spelling in (flag, flag.replace("_", "-"), f"--{flag[2:].replace('-', '_')}"):
        if spelling in known:
            return f"{spelling}{equals}{value}"
    return argument


__all__ = ["FlexibleArgumentParser"]
