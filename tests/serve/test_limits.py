"""Keys, origins, sizes, times, ids: what a request meets before it is read."""

import socket
import time

import pytest

from .server_process import ServerProcess

FLAGS = (
    *("--max-model-len", "512", "--max-num-seqs", "4", "--kv-cache-memory-bytes", "100M"),
    *("--api-key", "secret-1", "secret-2", "--allowed-origins", '["http://good.example"]'),
    *("--max-request-bytes", "20000", "--body-timeout", "1", "--request-timeout", "1.5"),
    *("--max-queued-requests", "6"),
)
KEY = {"authorization": "Bearer secret-2"}


@pytest.fixture(scope="module")
def guarded():
    with ServerProcess(FLAGS) as running:
        yield running


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Bearer", "secret-1", "Basic secret-1"])
def test_v1_needs_a_key(guarded, key):
    headers = {"authorization": key} if key else {}
    for method, path in [("GET", "/v1/models"), ("POST", "/v1/completions")]:
        response = guarded.http.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "AuthenticationError"


def test_either_key_opens(guarded):
    for key in ("secret-1", "secret-2"):
        headers = {"authorization": f"Bearer {key}"}
        assert guarded.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/load", "/metrics", "/"])
def test_the_rest_is_open(guarded, path):
    assert guarded.http.get(path).status_code == 200


def test_a_large_body_is_refused_with_and_without_a_length(guarded):
    body = {"prompt": "x" * 30000}
    assert guarded.post("/v1/completions", body, **KEY).status_code == 413

    def pieces():
        yield b'{"prompt": "'
        for _ in range(30):
            yield b"x" * 1000
        yield b'"}'

    headers = {"content-type": "application/json", **KEY}
    response = guarded.http.post("/v1/completions", content=pieces(), headers=headers)
    assert response.status_code == 413
    assert "--max-request-bytes" in response.json()["error"]["message"]


def test_a_body_that_does_not_come_is_not_waited_for(guarded):
    with socket.create_connection(("127.0.0.1", guarded.port)) as slow:
        slow.settimeout(10)
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret-1\r\n"
        slow.sendall(
            f"{head}content-type: application/json\r\ncontent-length: 99\r\n\r\n{{".encode()
        )
        began = time.monotonic()
        assert b" 408 " in slow.recv(100)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(guarded, stream):
    body = {"prompt": "x", "max_tokens": 400, "ignore_eos": True, "n": 4, "stream": stream}
    response = guarded.post("/v1/completions", body, **KEY)
    assert response.status_code == (200 if stream else 504)
    assert "longer than the server allows" in response.text
    guarded.wait_until_idle(2)


def test_origins(guarded):
    for origin, allowed in [("http://good.example", True), ("http://bad.example", False)]:
        headers = {"origin": origin, "access-control-request-method": "POST"}
        response = guarded.http.request("OPTIONS", "/v1/completions", headers=headers)
        assert (response.headers.get("access-control-allow-origin") == origin) is allowed


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("a b", False), ("x" * 200, False)])
def test_request_ids(guarded, given, kept):
    headers = {"x-request-id": given}
    assert (guarded.http.get("/health", headers=headers).headers["x-request-id"] == given) is kept


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b'{"prompt": "\\ud800"}',
        b'{"prompt": [1, "a"]}', b'{"prompt": [[]]}', b'{"prompt": [-1]}', b'{"prompt": ""}',
        b'{"prompt": "x", "seed": 1e400}', b'{"prompt": "x", "seed": 99999999999999999999}',
        b'{"prompt": "x", "temperature": NaN}', b'{"prompt": "x", "top_k": 1.5}',
        b'{"prompt": "x", "logit_bias": {"a": 1}}', b'{"prompt": "x", "stop": ["\\ud800"]}',
        b'{"prompt": "x", "n": 100000}', b'{"prompt": "x", "stop": [""]}',
        b'{"prompt": "x", "structured_outputs": {}}',
        b'{"prompt": "x", "structured_outputs": {"json": {"type": "nonsense"}}}',
        b'{"prompt": "x", "response_format": {"type": "json_schema"}}',
        b'{"prompt": "x", "stream_options": {"include_usage": true}}',
        b'{"prompt": "x", "suffix": "y"}', b'{"prompt": "x", "max_tokens": 0}',
        b'{"prompt": "x", "best_of": 3}', b'{"prompt": "x", "min_tokens": 50, "max_tokens": 5}',
        b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_bad_body_is_a_400_that_says_why(guarded, body):
    response = guarded.post("/v1/completions", body, **KEY)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["code"] == 400
