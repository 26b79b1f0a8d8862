"""The small JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perfxlm_core.errors import CheckpointError


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file and it is not required.

    Raises:
        CheckpointError: the file is required and missing, or is not a JSON object.
    """
    if not required and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a JSON object")
    return content
