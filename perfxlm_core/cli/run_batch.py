"""`perfxlm run-batch`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from perfxlm_core.cli.options import announce
from perfxlm_core.errors import ArgumentError, PerfxlmError

if TYPE_CHECKING:
    from perfxlm_core.serve.service import Service

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
AT_ONCE = 1024
"""Requests handed to the engine at a time; it queues them."""


@dataclass(frozen=True)
class Entry:
    """A line of the input."""

    custom_id: str
    url: str
    body: Mapping[str, Any]


@click.command("run-batch", context_settings={"ignore_unknown_options": True})
@click.option("-i", "--input-file", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output-file", required=True, type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_batch(input_file: Path, output_file: Path, arguments: tuple[str, ...]) -> None:
    """Answer a file of requests in OpenAI's batch format, one JSON object a line.

    Other options, such as --model, are those of `perfxlm serve`. Needs perfxlm[serve].
    """
    entries = read(input_file)
    with output_file.open("w") as output:  # before the model is loaded, and not after

        def write(result: dict[str, Any]) -> None:
            output.write(json.dumps(result, ensure_ascii=False) + "\n")
            output.flush()

        failed = _run(entries, arguments, write)
    announce(f"{len(entries)} requests, {failed} failed; written to {output_file}")


def read(path: Path) -> list[Entry]:
    """The requests of a file.

    Raises:
        ArgumentError: a line is none, or there are two of the same name.
    """
    lines = path.read_text("utf-8").splitlines()
    entries = [_entry(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    seen: set[str] = set()
    for entry in entries:
        if entry.custom_id in seen:
            raise ArgumentError(f"{path}: custom_id {entry.custom_id!r} occurs twice")
        seen.add(entry.custom_id)
    return entries


def _entry(path: Path, number: int, line: str) -> Entry:
    where = f"{path}, line {number}"
    try:
        found = json.loads(line)
        entry = Entry(found["custom_id"], found["url"], found["body"])
        method = found.get("method", "POST")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ArgumentError(
            f"{where}: expected an object with custom_id, method, url and body; found {line[:80]!r}"
        ) from None
    if not isinstance(entry.custom_id, str) or not isinstance(entry.body, dict):
        raise ArgumentError(f"{where}: custom_id must be a string, and body an object")
    if method != "POST" or entry.url not in URLS:
        raise ArgumentError(f"{where}: {method} {entry.url}; expected POST and {', '.join(URLS)}")
    if entry.body.get("stream"):
        raise ArgumentError(f"{where}: a batch has no streams; leave out stream")
    return entry


def _run(
    entries: Sequence[Entry], arguments: Sequence[str], write: Callable[[dict[str, Any]], None]
) -> int:
    """Answer all, and tell of each as it ends; how many failed."""
    try:
        from perfxlm_core.serve.arguments import parse
        from perfxlm_core.serve.client import AsyncLLM
        from perfxlm_core.serve.service import Service
    except ModuleNotFoundError as error:
        raise PerfxlmError(
            f'perfxlm run-batch needs {error.name}: pip install "perfxlm[serve]"'
        ) from None
    engine_args, settings = parse(list(arguments), "perfxlm run-batch")
    config = engine_args.create_engine_config()
    llm = AsyncLLM(config)
    try:
        return asyncio.run(_answer_all(Service.on(llm, settings, config.model), entries, write))
    finally:
        llm.shutdown()


async def _answer_all(
    service: Service, entries: Sequence[Entry], write: Callable[[dict[str, Any]], None]
) -> int:
    from perfxlm_core.serve.app import build_app

    app = build_app(service)
    service.llm.listen()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(entry: Entry) -> bool:
        async with gate:
            status, body = await post(app, entry)
        write(result(entry, status, body))
        return status != 200

    return sum(await asyncio.gather(*map(one, entries)))


def result(entry: Entry, status: int, body: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """A line of the output."""
    response = {"status_code": status, "request_id": f"perfxlm-batch-{uuid4().hex}", "body": body}
    error = None
    if status != 200:
        error = body.get("error", body) if isinstance(body, dict) else {"message": str(body)}
        response["body"] = None
    custom_id = entry.custom_id
    return {
        "id": f"perfxlm-{uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }


async def post(app: Callable[..., Any], entry: Entry) -> tuple[int, Any]:
    """Status and JSON of a request to an ASGI application, without a socket."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": json.dumps(entry.body).encode()}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()  # the client does not go away
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(_scope(entry.url), receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"batch")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
