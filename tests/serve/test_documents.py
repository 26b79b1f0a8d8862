"""The Python in the documents that talks to a server."""

import subprocess
import sys

from ..docs.document import blocks
from ..docs.test_blocks import DOCUMENTS, OF_CLIENTS


def test_clients_run(server, tmp_path):
    found = [
        content
        for document in DOCUMENTS
        for language, content in blocks(document)
        if language == "python" and OF_CLIENTS in content
    ]
    assert found
    for code in found:
        done = subprocess.run(
            [sys.executable, "-c", code.replace(OF_CLIENTS, server.url)], cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
