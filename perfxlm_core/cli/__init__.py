"""The command line: `perfxlm`.

Commands are thin: they read options, call the engine, and print. Every error that perfxlm raises on
purpose becomes one message on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""
READER_GONE = 1
"""Exit code when the reader of our output went away; click's own."""
TRACEBACK = "PERFXLM_TRACEBACK"
"""Environment variable: set to 1, errors come with their traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Those behind the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 for an error that the message explains, 130 after Ctrl-C.
    """
    import click

    from perfxlm_core.cli.app import application
    from perfxlm_core.errors import PerfxlmError

    if not _prepare_streams():
        return READER_GONE
    try:
        given = None if arguments is None else list(arguments)
        code = application.main(given, prog_name="perfxlm", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return READER_GONE
    except (PerfxlmError, OSError) as error:  # the latter from a full disk, for example
        if os.environ.get(TRACEBACK) == "1":
            raise
        print(f"perfxlm: error: {error}", file=sys.stderr)
        if isinstance(error, OSError):
            _close_stdout()
        return 2
    return code if isinstance(code, int) else 0


def _prepare_streams() -> bool:
    """Let no byte that is read or written end in a crash; False if there is no output at all.

    A terminal that lacks a character gets a question mark; input that is no text is told apart
    where it is used.
    """
    if sys.stderr is None:  # closed by the caller
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
    if sys.stdout is None:
        print("perfxlm: error: standard output is closed", file=sys.stderr)
        return False
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "replace"),
        (sys.stderr, "replace"),
    ):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=errors)
    return True


def _close_stdout() -> None:
    """Keep the interpreter from flushing into the closed pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
