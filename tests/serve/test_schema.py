"""Every operation of the OpenAPI description, with generated requests: no answer is a 5xx."""

import os
import random

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

FULL = os.environ.get("PERFXLM_SERVE_LOAD") == "1"
EXAMPLES = 100 if FULL else 8
GET = "/health /ping /version /load /metrics /v1/models /v1/models/{name}".split()
POST = """/ping /tokenize /detokenize /v1/completions /v1/chat/completions /v1/responses
    /v1/messages /v1/messages/count_tokens /v1/embeddings /v1/load_lora_adapter
    /v1/unload_lora_adapter""".split()
OPERATIONS = [("GET", path) for path in GET] + [("POST", path) for path in POST]


@pytest.fixture(scope="module")
def description(server):
    found = schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())
    found.config.update(base_url=server.url)
    return found


def test_every_operation_is_described_and_tested_here(description):
    found = [result.ok() for result in description.get_all_operations()]
    assert {(o.method.upper(), o.path) for o in found} == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_answer_is_a_server_error(description, method, path):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=description[path][method].as_strategy())
    def ask(case):
        if isinstance(case.body, dict):
            thin(case.path, case.body)
        response = case.call(timeout=60)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["code"] == response.status_code

    ask()


REQUIRED = {"messages", "input", "tokens", "max_tokens", "prompt", "lora_name"}
KEPT = 2


def thin(path, body):
    """Half of the bodies keep what they need and a few fields more, so that some are accepted.

    All ask for few tokens: what is tested is the way in, not the model.
    """
    chance = random.Random(repr(body))
    if chance.random() < 0.5:
        others = sorted(body.keys() - REQUIRED, key=str)
        for name in chance.sample(others, max(0, len(others) - KEPT)):
            del body[name]
        body["model"] = "tiny"
        if path == "/v1/completions":
            body.setdefault("prompt", "x")
        if path == "/v1/chat/completions":
            body["messages"] = [{"role": "user", "content": "x"}]
    body["max_tokens"] = body["max_output_tokens"] = 4
    for name in ("max_completion_tokens", "n"):
        if isinstance(body.get(name), int) and body[name] > 4:
            body[name] = 4
