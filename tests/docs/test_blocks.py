"""The Python in the other documents runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from .document import blocks

ROOT = Path(__file__).parents[2]
TUTORIALS = ("plugins.md", "models.md")
DOCUMENTS = [
    ROOT / "README.md",
    *(d for d in sorted((ROOT / "docs").glob("*.md")) if d.name not in TUTORIALS),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("models/*/README.md")),
]
OF_CLIENTS = "http://127.0.0.1:8000"
"""In blocks that need a server; tests/serve/test_documents.py runs them."""
CODE = [
    pytest.param(content, id=f"{document.relative_to(ROOT)}-{number}")
    for document in DOCUMENTS
    for number, (language, content) in enumerate(blocks(document))
    if language == "python" and OF_CLIENTS not in content
]


@pytest.mark.parametrize("code", CODE)
def test_it_runs(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_there_are_blocks():
    assert len(CODE) >= 2
