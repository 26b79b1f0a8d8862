"""`perfxlm generate`: streaming, options, and what goes wrong."""

import re
import signal
import subprocess
import time

import pytest

from .command import COMMAND, SHORT, perfxlm, start

QUESTION = ("-p", "What is the capital of France?", "--system", "Answer in one sentence.")


@pytest.fixture(scope="module")
def answer():
    return perfxlm("generate", *QUESTION, *SHORT)


def test_it_answers_on_stdout_and_counts_on_stderr(answer):
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout
    pattern = r"(\d+) prompt tokens; first token after [\d.]+ s.*; (\d+) tokens, [\d.]+ tokens/s"
    found = re.search(pattern, answer.stderr)
    assert found is not None, answer.stderr
    assert 10 < int(found[1]) < 60
    assert 4 < int(found[2]) < 60


def test_the_prompt_can_come_by_standard_input(answer):
    done = perfxlm("generate", *QUESTION[2:], *SHORT, "-q", stdin=QUESTION[1] + "\n")
    assert (done.stdout, done.stderr) == (answer.stdout, "")


def test_raw_continues_the_text():
    done = perfxlm("generate", "--raw", "-p", "The capital of France is", *SHORT,
                   "--max-tokens", "2")  # fmt: skip
    assert done.stdout == " Paris.\n"
    assert "cut off" in done.stderr


def test_stop_strings_end_the_answer():
    done = perfxlm("generate", "--raw", "-q", "-p", "The capital of France is", *SHORT,
                   "--stop", "aris")  # fmt: skip
    assert done.stdout == " P\n"


def test_a_seed_makes_a_sampled_answer_repeatable():
    ask = ("generate", "-q", "-p", "Invent a name for a cat.", "--temperature", "1.5",
           "--max-tokens", "12", "--max-model-len", "128")  # fmt: skip
    first, again, other = (perfxlm(*ask, "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == again
    assert first != other
    assert perfxlm(*ask).stdout != perfxlm(*ask).stdout


TALE = ("generate", "--raw", "-p", "Once upon a time", "--temperature", "0", "--max-tokens")


def test_tokens_arrive_one_by_one():
    arrivals = []
    with start(*TALE, "64") as process:
        while process.stdout.read(1):
            arrivals.append(time.monotonic())
        assert process.wait() == 0
    assert len({round(t, 3) for t in arrivals}) > 10
    assert arrivals[-1] - arrivals[0] > 0.05


def test_ctrl_c_ends_the_program_with_130():
    with start(*TALE, "4000") as process:
        process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_reader_that_leaves_is_no_crash():
    with start(*TALE, "200") as process:
        process.stdout.read(5)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.parametrize(
    ("redirection", "code", "expected"),
    [
        (">&-", 1, "standard output is closed"),
        (">/dev/full", 2, "No space left on device"),
        ("2>&-", 0, ""),
    ],
)
def test_outputs_that_cannot_be_written_are_no_crash(redirection, code, expected):
    script = f'exec "$@" {redirection}'
    asked = ("generate", "-q", "--raw", "-p", "One, two,", *SHORT, "--max-tokens", "2")
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *asked], capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == bool(expected)


def test_input_that_is_no_text_is_refused():
    done = subprocess.run(
        [*COMMAND, "generate", *SHORT], input=b"\xff\xfe hello", capture_output=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"not UTF-8 text" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_locale_without_the_characters_still_takes_the_prompt():
    question = ("generate", "-q", "--raw", *SHORT, "--max-tokens", "8", "-p", "日本の首都は")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = perfxlm(*question, **plain)
    assert done.returncode == 0, done.stderr
    answer = perfxlm(*question).stdout
    assert done.stdout == "".join(c if c.isascii() else "?" for c in answer)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/no/such/model.gguf", "-p", "x"], "no such file or folder"),
        (["-p", "x", "--device", "abacus"], "no device called 'abacus'"),
        (["-p", "x", "--dtype", "float7"], "dtype must be one of"),
        (["-p", "x", "--temperature", "9"], "temperature must be in [0, 2], got 9.0"),
        (["-p", "word " * 700, "--max-model-len", "512"], "512"),
        (["-p", "x", "--max-model-len", "99999999"], "max_model_len=99999999"),
        (["-p", "x", "--kv-cache-memory-bytes", "1"], "KV cache"),
        (["-p", "x", "--gpu-memory-utilization", "0.000001"], "gpu_memory_utilization"),
        (["-p", "x", "--raw", "--system", "y"], "--system needs a model with a chat template"),
        (["-p", ""], "the prompt is empty"),
        ([], "the prompt is empty"),
        (["-p", "x", "--no-such-option"], "No such option"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(arguments, expected):
    done = perfxlm("generate", *arguments)
    assert done.returncode == 2, done
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_files_that_are_no_models_are_refused(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + b"\xff" * 60)
    empty = tmp_path / "folder"
    empty.mkdir()
    for path in (damaged, empty):
        done = perfxlm("generate", str(path), "-p", "x")
        assert done.returncode == 2
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr


def test_the_traceback_is_there_for_those_who_ask():
    done = perfxlm("generate", "/no/such/model.gguf", "-p", "x", PERFXLM_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ModelError" in done.stderr
