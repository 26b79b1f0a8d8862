"""OpenAI's own client against a real server."""

import asyncio
import json
import time

import openai
import pytest

HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CAPITAL = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["name", "large"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def chat(client, **given):
    settings = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    return client.chat.completions.create(**{**settings, **given})


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny", "other-name"]
    assert client.models.retrieve("other-name").id == "other-name"


def test_an_answer_is_the_same_whole_and_streamed(client):
    whole = chat(client, max_tokens=24)
    options = {"include_usage": True}
    chunks = list(chat(client, max_tokens=24, stream=True, stream_options=options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 5


def test_a_repeated_prompt_is_found_in_the_cache(client):
    messages = [{"role": "user", "content": "one two three four five " * 20}]
    chat(client, messages=messages)
    again = chat(client, messages=messages)
    assert again.usage.prompt_tokens_details.cached_tokens >= 64


def test_completions_echo_and_several_prompts(client):
    answer = client.completions.create(
        model="tiny", prompt=["One two", "The sky is"], max_tokens=4, temperature=0, echo=True
    )
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.choices[0].text.startswith("One two")
    assert answer.choices[1].text.startswith("The sky is")
    assert len(answer.choices[1].text) > len("The sky is")


def test_completions_stream_is_the_whole_text(client):
    given = {"model": "tiny", "prompt": "The capital of France is", "max_tokens": 12}
    whole = client.completions.create(**given, temperature=0).choices[0].text
    chunks = list(client.completions.create(**given, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "length"


def test_n_answers_differ_and_keep_their_index(client):
    answers = chat(client, n=3, temperature=1.0, seed=1, max_tokens=12)
    assert [c.index for c in answers.choices] == [0, 1, 2]
    assert len({c.message.content for c in answers.choices}) > 1
    texts = ["", "", ""]
    for chunk in chat(client, n=3, temperature=1.0, seed=1, max_tokens=12, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [c.message.content for c in answers.choices]


def test_a_stop_string_ends_the_text_and_is_left_out(client):
    whole = chat(client, max_tokens=30).choices[0].message.content
    stop = whole.split()[3]
    cut = chat(client, max_tokens=30, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    chunks = list(chat(client, max_tokens=30, stop=[stop], stream=True))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert streamed == whole[: whole.index(stop)]


def test_logprobs_are_those_of_the_chosen_tokens(client):
    answer = chat(client, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob  # greedy takes the likeliest
        assert bytes(token.bytes).decode(errors="replace") == token.token


def test_completion_logprobs_of_prompt_and_output(client):
    answer = client.completions.create(
        model="tiny", prompt="The sky is blue", max_tokens=2, temperature=0, logprobs=2, echo=True
    )
    logprobs = answer.choices[0].logprobs
    total = answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == total
    assert logprobs.token_logprobs[0] is None
    assert "".join(logprobs.tokens) == answer.choices[0].text


def test_a_json_schema_is_followed(client):
    schema = {"name": "capital", "schema": CAPITAL, "strict": True}
    answer = chat(
        client,
        messages=[{"role": "user", "content": "Name a capital."}],
        max_tokens=80,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"name", "large"}
    assert isinstance(found["large"], bool)


def test_a_choice_is_followed(client):
    answer = chat(client, extra_body={"structured_outputs": {"choice": ["red", "green"]}})
    assert answer.choices[0].message.content in ("red", "green")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("required", "tool_calls"),
        ({"type": "function", "function": {"name": "get_weather"}}, "stop"),
    ],
)
def test_tools_that_must_be_called_are_called(client, choice, reason):
    given = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 80}
    answer = chat(client, **given).choices[0]
    call = answer.message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    assert answer.finish_reason == reason
    assert not answer.message.content
    arguments, names = "", []
    for chunk in chat(client, **given, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or ():
            names += [piece.function.name] if piece.function.name else []
            arguments += piece.function.arguments or ""
    assert names[0] == "get_weather"
    assert json.loads(arguments)["city"] in ("Oslo", "Rome")


def test_a_call_in_the_models_own_markup_is_parsed(client):
    """The model is made to write a hermes call; choosing to is beyond 135 M parameters."""
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    answer = chat(
        client,
        tools=[WEATHER],
        tool_choice="auto",
        max_tokens=60,
        extra_body={"structured_outputs": {"choice": [call]}},
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.tool_calls[0].function.name == "get_weather"
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {"city": "Oslo"}


def test_a_tool_result_goes_back_to_the_model(client):
    call = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
    ]
    assert chat(client, messages=messages, tools=[WEATHER]).choices[0].message.content is not None


def test_responses(client):
    answer = client.responses.create(
        model="tiny", input="Say hello.", max_output_tokens=8, temperature=0
    )
    assert answer.output_text == chat(client).choices[0].message.content
    assert answer.status == "incomplete"
    events = list(
        client.responses.create(
            model="tiny", input="Say hello.", max_output_tokens=8, temperature=0, stream=True
        )
    )
    assert [e.sequence_number for e in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == answer.output_text


def test_responses_call_a_function(client):
    function = WEATHER["function"]
    tool = {"type": "function", **function, "strict": True}
    given = {
        "model": "tiny",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}],
        "tools": [tool],
        "tool_choice": "required",
        "max_output_tokens": 80,
    }
    (item, *_) = client.responses.create(**given).output
    assert item.type == "function_call"
    assert json.loads(item.arguments)["city"] in ("Oslo", "Rome")
    events = list(client.responses.create(**given, stream=True))
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert json.loads(done[0].arguments)["city"] in ("Oslo", "Rome")


def test_embeddings_are_refused(client):
    with pytest.raises(openai.NotFoundError, match="does not support the Embeddings API"):
        client.embeddings.create(model="tiny", input="x")


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x " * 5000}]}, openai.BadRequestError, None),
        ({"messages": []}, openai.BadRequestError, "body.messages"),
        ({"logprobs": True, "top_logprobs": 50}, openai.BadRequestError, "logprobs"),
        ({"extra_body": {"guided_json": {}}}, openai.BadRequestError, "guided_json"),
        ({"extra_body": {"structured_outputs": {"regex": "[0-9"}}}, openai.BadRequestError, None),
        ({"extra_body": {"chat_template": "x"}}, openai.BadRequestError, "chat_template"),
        ({"extra_body": {"use_beam_search": True}}, openai.BadRequestError, "use_beam_search"),
        ({"extra_body": {"priority": 1}}, openai.BadRequestError, "priority"),
        ({"tool_choice": "required", "tools": []}, openai.BadRequestError, "tool_choice"),
        ({"logit_bias": {"9999999": 1}}, openai.BadRequestError, "logit_bias"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_a_status_and_name_the_field(client, given, kind, param, stream):
    with pytest.raises(kind) as caught:
        chat(client, **given, stream=stream)
    assert caught.value.body["code"] == caught.value.status_code
    if param is not None:
        assert caught.value.body["param"] == param


def test_an_unknown_field_is_accepted_and_named(client):
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HELLO, max_tokens=1, extra_body={"no_such_field": 1}
    )
    assert raw.headers["x-perfxlm-ignored-fields"] == "no_such_field"


def test_a_request_id_comes_back(client):
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HELLO, max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.parse().id == "chatcmpl-mine-1"


def test_two_requests_of_one_id_both_run(client):
    headers = {"X-Request-Id": "same"}
    with chat(client, stream=True, max_tokens=200, extra_headers=headers) as first:
        next(iter(first))
        assert chat(client, extra_headers=headers).choices[0].message.content


def test_a_closed_stream_ends_the_request_at_once(server, client):
    with chat(client, stream=True, max_tokens=1500, extra_body={"ignore_eos": True}) as stream:
        for _ in zip(range(5), stream, strict=False):
            pass
    server.wait_until_idle(2)


def test_a_cancelled_request_ends_at_once(server):
    async def cancel():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            given = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}
            task = asyncio.create_task(
                client.chat.completions.create(model="tiny", messages=HELLO, **given)
            )
            deadline = time.monotonic() + 10
            while not server.metric("vllm:num_requests_running"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    server.wait_until_idle(2)
