"""Answers have the fields and types that a vLLM server's have; see docs/serving.md for the rest.

data/wire.json holds requests that a live vLLM 0.32 server was sent, with the status, the fields of
the answer and their types.
"""

import json
from pathlib import Path

import pytest

from .server_process import events

CASES = {
    case["name"]: case
    for case in json.loads((Path(__file__).parent / "data/wire.json").read_text())
}
OTHERWISE = {
    "chat_guided_legacy": "a constraint that would be ignored is refused",
    "err_404": "OpenAI's error body",
    "err_405": "OpenAI's error body",
    "err_embed_on_gen": "OpenAI's error body, with a reason",
    "load_lora_bad": "absent: 404",
    "unload_lora_bad": "absent: 404, another reason",
    "reset_prefix_cache": "only with VLLM_SERVER_DEV_MODE=1",
    "chat_tools_named": "the call is made, where vLLM wrote it as text",
    "chat_tools_required": "the same",
    "chat_tools_named_stream": "the same",
}
KINDS = {"integer": {"integer", "number"}, "number": {"integer", "number"}}


def kind(value):
    names = {
        dict: "object", list: "array", str: "string", bool: "boolean", int: "integer",
        float: "number", type(None): "null",
    }  # fmt: skip
    return names[type(value)]


def shape(value, path="", found=None):
    """The paths of a JSON value, and the types at each."""
    found = {} if found is None else found
    found.setdefault(path, set()).add(kind(value))
    if isinstance(value, dict):
        by_token = path.endswith("prompt_logprobs[]") or (
            path.endswith("top_logprobs[]") and "content" not in path
        )
        for key, part in value.items():
            key = "*" if by_token else key
            shape(part, f"{path}.{key}" if path else key, found)
    elif isinstance(value, list):
        for part in value:
            shape(part, f"{path}[]", found)
    return found


def missing(theirs, ours):
    """Paths that the other server has and we lack, or where our type is none of its types.

    null is a type of any field: it says that there is nothing, whatever there could be.
    """
    wrong = []
    for path, kinds in theirs.items():
        accepted = {"null"}.union(*(KINDS.get(k, {k}) for k in kinds))
        if path not in ours:
            wrong.append(f"{path} is missing")
        elif not (ours[path] <= accepted or kinds == ["null"]):
            wrong.append(f"{path} is {ours[path]}, theirs {kinds}")
    return wrong


def ask(server, case):
    body = case["request"]
    if case["method"] == "GET":
        return server.http.get(case["path"])
    if isinstance(body, str):
        kind = "text/plain" if case["name"] == "err_ctype" else "application/json"
        return server.post(case["path"], body, **{"content-type": kind})
    return server.post(case["path"], json.dumps(body).replace("LONG", "x " * 3000))


@pytest.mark.parametrize("name", [n for n in CASES if n not in OTHERWISE])
def test_answer_has_the_shape_of_vllms(server, name):
    case = CASES[name]
    response = ask(server, case)
    assert response.status_code == case["status"], response.text
    if "shape" in case:
        assert not missing(case["shape"], shape(response.json()))
    if "error" in case:
        error = {k: v for k, v in case["error"].items() if v is not None}  # we may say more
        assert {k: response.json()["error"][k] for k in error} == error, response.text
    if "events" in case:
        compare_streams(case["events"], events(response.text))


def compare_streams(theirs, ours):
    """The same kinds of events in the same order; neighbours of one kind count once."""
    known = [("[DONE]" if e.get("done") else (e["event"], e["shape"])) for e in theirs]
    assert [k == "[DONE]" for k in known][-1] == (ours[-1][1] == "[DONE]")
    names = [k[0] for k in known if k != "[DONE]"]
    assert collapsed(e for e, d in ours if d != "[DONE]") == collapsed(names)
    ours = [(event, shape(data)) for event, data in ours if data != "[DONE]"]
    for event, wanted in (k for k in known if k != "[DONE]"):
        fits = [missing(wanted, found) for name, found in ours if name == event]
        assert [] in fits, f"no event {event} has all of {wanted}: {min(fits, key=len)}"


def collapsed(names):
    found = []
    for name in names:
        if not found or found[-1] != name:
            found.append(name)
    return found


def test_unrouted_paths_have_openais_error_body(server):
    for method, path, status in [("GET", "/v1/nope", 404), ("GET", "/v1/completions", 405)]:
        response = server.http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["code"] == status


def test_a_legacy_constraint_is_refused_by_name(server):
    response = ask(server, CASES["chat_guided_legacy"])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "guided_choice"


def test_embeddings_of_a_generating_model_are_refused_with_a_reason(server):
    response = ask(server, CASES["err_embed_on_gen"])
    assert response.status_code == 404
    assert "does not support the Embeddings API" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_there_are_no_adapters(server, path):
    response = server.post(path, {"lora_name": "a", "lora_path": "/nope"})
    assert response.status_code == 404
    assert "no LoRA adapters" in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["chat_tools_named", "chat_tools_required"])
def test_a_demanded_call_is_made(server, name):
    case = CASES[name]
    response = server.post(case["path"], {**case["request"], "max_tokens": 100})
    message = response.json()["choices"][0]["message"]
    call = message["tool_calls"][0]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Oslo", "Rome")
    assert not missing(case["shape"], shape(response.json()))
