"""Flags of `perfxlm serve`: the engine's, and the server's by vLLM's names."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.engine_args import AsyncEngineArgs, human_int
from perfxlm_core.errors import ArgumentError
from perfxlm_core.serve.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXTS = {
    "host": "Address to listen on.  [all of this machine's]",
    "port": "Port to listen on.  [8000]",
    "uds": "Path of a Unix socket to listen on, in the place of host and port.",
    "root_path": "Path under which a proxy shows the server.",
    "api_key": "A key that requests to /v1 must show; repeatable. Also from VLLM_API_KEY.",
    "served_model_name": "What requests call the model; several names are allowed.",
    "chat_template": "A Jinja template, or a file with one, in the place of the model's.",
    "default_chat_template_kwargs": "JSON: variables of the chat template.",
    "trust_request_chat_template": "Let requests bring a chat template.",
    "response_role": "Role of the answers.  [assistant]",
    "enable_auto_tool_choice": "Let the model choose tools; needs --tool-call-parser.",
    "tool_call_parser": "How the model writes its calls, such as hermes.",
    "reasoning_parser": "How the model writes its thoughts, such as qwen3.",
    "return_tokens_as_token_ids": "Write tokens in log-probabilities as token_id:42.",
    "enable_force_include_usage": "Count the tokens in every stream.",
    "enable_prompt_tokens_details": "Always so: answers say how many tokens were cached.",
    "disable_fastapi_docs": "No /docs, /redoc and /openapi.json.",
    "allowed_origins": 'CORS: JSON list.  [["*"]]',
    "allowed_methods": 'CORS: JSON list.  [["*"]]',
    "allowed_headers": 'CORS: JSON list.  [["*"]]',
    "allow_credentials": "CORS: allow credentials.",
    "ssl_keyfile": "TLS: the key.",
    "ssl_certfile": "TLS: the certificate.",
    "ssl_ca_certs": "TLS: certificates of authorities.",
    "uvicorn_log_level": "debug, info, warning, error or critical.  [info]",
    "disable_uvicorn_access_log": "No line in the log for each request.",
    "max_request_bytes": "Size of a request's body at most.  [16M]",
    "max_queued_requests": "Requests under way before more are answered with 503.  [any]",
    "body_timeout": "Seconds in which a body must have come.  [30]",
    "request_timeout": "Seconds after which a request is ended; 0 never.  [0]",
    "drain_timeout": "Seconds for requests under way when the server is told to end.  [60]",
    "restart_engine": "Start the engine again when its process dies.",
}
_SEVERAL = ("api_key", "served_model_name")
_JSON = (
    "default_chat_template_kwargs", "allowed_origins", "allowed_methods", "allowed_headers",
)  # fmt: skip


def make_parser(prog: str = "perfxlm serve") -> argparse.ArgumentParser:
    """The parser of all flags; `--a_b` is understood as `--a-b`."""
    parser = _Parser(
        prog=prog,
        description="Serve MODEL over HTTP, with OpenAI's interface. Flags and defaults are "
        "vLLM's where they apply.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model_tag", nargs="?", metavar="MODEL", help="SmolLM2-135M-Instruct unless one is named."
    )
    parser.add_argument("--config", help="A YAML file of flags; the command line wins.")
    group = parser.add_argument_group("server")
    for field in dataclasses.fields(ServerSettings):
        _add_flag(group, field)
    AsyncEngineArgs.add_cli_args(_Skipping(parser, _server_names()))  # type: ignore[arg-type]
    return parser


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401
        import sys

        given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_dashed(word) for word in given], namespace)


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


class _Skipping:
    """An argument group that leaves out flags which are there already."""

    def __init__(self, parser: argparse.ArgumentParser, known: set[str]) -> None:
        self._group: Any = parser
        self._known = known

    def add_argument_group(self, title: str) -> _Skipping:
        self._group = self._group.add_argument_group("engine")
        return self

    def add_argument(self, flag: str, **settings: Any) -> None:  # noqa: ANN401 - argparse's
        if flag not in self._known:
            self._group.add_argument(flag, **settings)


def _server_names() -> set[str]:
    return {_flag(field.name) for field in dataclasses.fields(ServerSettings)}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_flag(group: Any, field: dataclasses.Field[Any]) -> None:  # noqa: ANN401
    name, kind = field.name, str(field.type)
    settings: dict[str, Any] = {"default": None, "help": _TEXTS[name]}
    if name in _SEVERAL:
        settings |= {"nargs": "+", "action": "extend"}
    elif name in _JSON:
        settings["type"] = json.loads
    elif kind == "bool":
        settings["action"] = argparse.BooleanOptionalAction
    elif kind.startswith("int"):
        settings["type"] = human_int
    elif kind == "float":
        settings["type"] = float
    group.add_argument(_flag(name), **settings)


def parse(
    arguments: Sequence[str] | None, prog: str = "perfxlm serve"
) -> tuple[AsyncEngineArgs, ServerSettings]:
    """What a command line asks for.

    Raises:
        ArgumentError: flags contradict each other, or a file cannot be read.
        SystemExit: a flag is unknown, or help was asked for.
    """
    parser = make_parser(prog)
    given = parser.parse_args(arguments)
    if given.config is not None:
        parser.set_defaults(**_from_file(given.config, parser))
        given = parser.parse_args(arguments)
    if given.model_tag is not None:
        given.model = given.model_tag
    names = AsyncEngineArgs.names()
    engine = AsyncEngineArgs(**{n: getattr(given, n) for n in names if hasattr(given, n)})
    return engine, _settings(given)


def _settings(given: argparse.Namespace) -> ServerSettings:
    names = (field.name for field in dataclasses.fields(ServerSettings))
    found = {n: getattr(given, n) for n in names if getattr(given, n) is not None}
    settings = ServerSettings(**found)
    if not settings.api_key and os.environ.get("VLLM_API_KEY"):
        settings.api_key = [os.environ["VLLM_API_KEY"]]
    if settings.chat_template is not None:
        settings.chat_template = _template(settings.chat_template)
    if settings.enable_auto_tool_choice and settings.tool_call_parser is None:
        raise ArgumentError("--enable-auto-tool-choice needs --tool-call-parser")
    _check_parsers(settings)
    return settings


def _check_parsers(settings: ServerSettings) -> None:
    """Find the parsers now, so that a wrong name is told before a model is loaded."""
    from perfxlm_core.serve.reasoning import reasoning_parsers
    from perfxlm_core.serve.tools import tool_parsers

    if settings.tool_call_parser is not None:
        tool_parsers.find(settings.tool_call_parser)
    if settings.reasoning_parser:
        reasoning_parsers.find(settings.reasoning_parser)


def _template(given: str) -> str:
    """The template itself, from a file unless it is one."""
    if "{" in given or "\n" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"--chat-template {given}: {error.strerror}") from error


def _from_file(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Flags of a YAML file, under argparse's names."""
    import yaml  # type: ignore[import-untyped]  # it has no types

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ArgumentError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ArgumentError(f"--config {path} holds no flags; expected lines such as port: 8000")
    known = {action.dest for action in parser._actions}
    flags = {str(name).replace("-", "_"): value for name, value in found.items()}
    unknown = sorted(flags.keys() - known)
    if unknown:
        raise ArgumentError(f"--config {path} has the unknown flag {unknown[0]!r}")
    for name in _SEVERAL:
        if isinstance(flags.get(name), str):
            flags[name] = [flags[name]]
    return flags
