"""`perfxlm serve`."""

from __future__ import annotations

import click

from perfxlm_core.errors import PerfxlmError


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> int:
    """Serve MODEL over HTTP, with OpenAI's interface."""
    return run(arguments)


def run(arguments: tuple[str, ...] | list[str] | None, prog: str = "perfxlm serve") -> int:
    """Serve as the flags say; the exit code.

    Raises:
        PerfxlmError: a flag cannot be used, the model cannot be loaded, or the server's
            dependencies are missing.
    """
    try:
        from perfxlm_core.serve.arguments import parse
        from perfxlm_core.serve.server import serve as serve_http
    except ModuleNotFoundError as error:
        raise PerfxlmError(
            f'perfxlm serve needs {error.name}: pip install "perfxlm[serve]"'
        ) from None
    engine_args, settings = parse(None if arguments is None else list(arguments), prog)
    return serve_http(engine_args, settings)


def main(prog: str) -> int:
    """`run` with the process's own arguments; an error is one message and exit code 2."""
    import sys

    try:
        return run(None, prog)
    except PerfxlmError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
