"""Runs `perfxlm` as users do: in its own process."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

COMMAND = (
    sys.executable, "-c",
    "import sys; from perfxlm_core.cli import main; sys.argv[0] = 'perfxlm'; sys.exit(main())",
)  # fmt: skip
SHORT = ("--temperature", "0", "--max-model-len", "512")


def perfxlm(*arguments, stdin="", **environment):
    """The finished process."""
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, check=False,
        timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


@contextmanager
def start(*arguments, **environment):
    """The running process, with pipes; it ends with the block."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        preexec_fn=obey_interrupts,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def obey_interrupts():
    """Background jobs of a shell ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
