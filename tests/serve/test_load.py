"""Many clients at once, some of which go away: nothing fails, nothing stays."""

import asyncio
import gc
import json
import os
import random

import psutil
import pytest

from .server_process import ServerProcess

FULL = os.environ.get("PERFXLM_SERVE_LOAD") == "1"
REQUESTS, AT_ONCE, LEAVERS = (500, 64, 200) if FULL else (48, 16, 24)
# Little memory for the KV cache, so that the first round uses all of it
FLAGS = (
    *("--max-num-seqs", "32", "--max-model-len", "512", "--kv-cache-memory-bytes", "40M"),
    "--disable-uvicorn-access-log",
)


@pytest.fixture(scope="module")
def busy():
    with ServerProcess(FLAGS, env={"VLLM_SERVER_DEV_MODE": "1"}) as running:
        yield running
    assert running.code == 0


def body_of(chance, path):
    """A request of some length, streamed or not, some with constraints and log-probabilities."""
    words = " ".join(chance.choice("sun moon star sea rock tree".split()) for _ in range(20))
    body = {
        "max_tokens": chance.randint(1, 24),
        "temperature": chance.choice([0, 0.8]),
        "stream": chance.random() < 0.5,
        "ignore_eos": True,
    }
    if path == "/v1/completions":
        logprobs = chance.choice([None, None, 2])
        return {**body, "prompt": words, "logprobs": logprobs, "n": 1}
    return {**body, "messages": [{"role": "user", "content": words}]}


async def post(port, path, body, read=None):
    """A request on a connection of its own; `read` bytes of the answer, or all of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    try:
        return await (reader.read() if read is None else reader.readexactly(read))
    finally:
        writer.close()


async def load(port, count, seed):
    chance, gate = random.Random(seed), asyncio.Semaphore(AT_ONCE)

    async def one():
        path = chance.choice(["/v1/completions", "/v1/chat/completions"])
        body = body_of(chance, path)
        async with gate:
            answer = await post(port, path, body)
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer[:500]
        assert b'"error"' not in answer
        assert b'"finish_reason":"length"' in answer
        assert (b"data: [DONE]" in answer) is body["stream"]

    await asyncio.gather(*(one() for _ in range(count)))


def memory(server):
    return {
        name: psutil.Process(pid).memory_info().rss
        for name, pid in (("front", server.process.pid), ("engine", server.engine.pid))
    }


def check_blocks(server):
    """No request holds a block: a prefix cache is only reset when none does."""
    server.wait_until_idle()
    assert server.post("/reset_prefix_cache", "").json() == {"success": True}


def test_the_engine_sleeps_and_wakes(busy):
    refused = busy.post("/sleep?level=7", "")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "level"
    assert busy.post("/sleep?level=2", "").status_code == 200
    assert busy.http.get("/is_sleeping").json() == {"is_sleeping": True}
    assert busy.metric("vllm:engine_sleep_state", sleep_state="discard_all") == 1
    assert busy.post("/wake_up?tags=weights&tags=kv_cache", "").status_code == 200
    assert busy.http.get("/is_sleeping").json() == {"is_sleeping": False}
    asyncio.run(load(busy.port, 4, 9))


def test_many_requests_at_once_and_memory_stays(busy, capsys):
    asyncio.run(load(busy.port, REQUESTS, 0))
    check_blocks(busy)
    first = memory(busy)
    asyncio.run(load(busy.port, REQUESTS, 1))
    check_blocks(busy)
    second = memory(busy)
    gc.collect()
    growth = {name: second[name] / first[name] - 1 for name in first}
    with capsys.disabled():
        print(f" [RSS after the second round: {growth}]", end="")
    assert max(growth.values()) < 0.05


def test_clients_that_leave_half_way_leave_nothing_running(busy):
    async def leave():
        body = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True}
        whole, stream = {**body}, {**body, "stream": True}

        async def one(i):
            if i % 4 == 0:  # never waits for an answer that comes in one piece
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(post(busy.port, "/v1/completions", whole), 0.2)
            else:
                await post(busy.port, "/v1/completions", stream, read=200 + 10 * (i % 7))

        await asyncio.gather(*(one(i) for i in range(LEAVERS)))

    asyncio.run(leave())
    busy.wait_until_idle(5)
    check_blocks(busy)
    assert busy.http.get("/load").json() == {"server_load": 0}


def test_one_client_cannot_starve_another(busy):
    """A single request gets its turn beside a flood of long ones."""

    async def flood_and_one():
        body = {"prompt": "Once", "max_tokens": 30, "ignore_eos": True}
        flood = [asyncio.create_task(post(busy.port, "/v1/completions", body)) for _ in range(31)]
        await asyncio.sleep(0.3)
        short = {**body, "max_tokens": 2}
        await post(busy.port, "/v1/completions", short)
        unfinished = sum(not task.done() for task in flood)
        await asyncio.gather(*flood)
        return unfinished

    assert asyncio.run(flood_and_one()) > 0
