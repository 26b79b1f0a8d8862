"""A real server on 127.0.0.1 with SmolLM2, one for all tests of a session."""

import pytest

from .server_process import ServerProcess

FLAGS = [
    *("--max-num-seqs", "16", "--max-model-len", "2048", "--kv-cache-memory-bytes", "200M"),
    *("--served-model-name", "tiny", "other-name", "--tool-call-parser", "hermes"),
    *("--enable-auto-tool-choice",),
]


@pytest.fixture(scope="session")
def server():
    with ServerProcess(FLAGS) as running:
        yield running
    assert running.code == 0, running.log()
