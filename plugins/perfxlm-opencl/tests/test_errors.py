"""What users are told when a device fails, has no memory, or is not there."""

import gc
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from perfxlm import LLM, SamplingParams
from perfxlm_core.plugin import MemoryPlanError
from perfxlm_opencl.discovery import PLATFORM, why_none
from perfxlm_opencl.memory import Pool
from perfxlm_opencl.profiles import PROFILE

COMMAND = "import sys; from perfxlm_core.cli import main; sys.exit(main())"
PROMPT = {"prompt_token_ids": [5, 6, 7]}
GREEDY = {"temperature": 0, "ignore_eos": True, "detokenize": False}


@pytest.fixture
def llm(random_model, monkeypatch, request):
    monkeypatch.setenv(PLATFORM, request.param)
    monkeypatch.setenv(PROFILE, "")
    folder = str(random_model("LlamaForCausalLM"))
    made = LLM(folder, device="opencl", dtype="float32", max_model_len=64, max_num_seqs=2,
               skip_tokenizer_init=True)  # fmt: skip
    yield made
    del made
    gc.collect()


def impossible(program):
    """Give the next launch a group that no device runs; gives what undoes it."""
    launch = program.entries[0].launch
    local = launch.local
    object.__setattr__(launch, "local", (1 << 20, *local[1:]))
    return lambda: object.__setattr__(launch, "local", local)


@pytest.mark.parametrize("llm", ["intel", "portable"], indirect=True)
def test_a_driver_that_refuses_a_step_ends_the_requests_in_flight(llm, caplog):
    """The prompt is computed; then the driver itself refuses a launch of the next step."""
    steps = llm.stream(PROMPT, SamplingParams(max_tokens=9, **GREEDY))
    first = next(steps)
    assert first.error is None
    repair = impossible(llm.llm_engine.runner.bound.program)
    last = list(steps)[-1]
    assert last.finished
    assert last.outputs[0].finish_reason == "error"
    for part in (
        "opencl (",
        "in groups of (1048576",
        "'tokens': 1",
        "clEnqueueNDRangeKernel",
        "INVALID",
    ):
        assert part in last.error
    assert "1 requests have failed" in caplog.text
    assert not llm.llm_engine.has_unfinished_requests()
    repair()
    (whole,) = llm.generate(PROMPT, SamplingParams(max_tokens=9, **GREEDY), use_tqdm=False)
    assert whole.error is None
    assert len(whole.outputs[0].token_ids) == 9


def test_the_drivers_own_refusal_of_memory_names_device_and_sizes(device):
    """Limits beyond the real ones, so that it is the driver that says no."""
    size = device.facts.max_allocation * 4
    boundless = replace(device.facts, max_allocation=1 << 60, memory=1 << 60)
    pool = Pool("opencl", boundless, device.queue)
    with pytest.raises(MemoryPlanError) as refused:
        pool.take(size)
    for part in ("opencl", device.facts.device, str(size), "lower", "INVALID_BUFFER_SIZE"):
        assert part in str(refused.value)
    assert pool.used == 0


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(random_model, monkeypatch):
    monkeypatch.setenv(PLATFORM, "intel")
    folder = str(random_model("LlamaForCausalLM"))
    with pytest.raises(MemoryPlanError, match="lower") as refused:
        LLM(folder, device="opencl", skip_tokenizer_init=True, gpu_memory_utilization=1e-6)
    assert "iB" in str(refused.value)


def test_no_driver_at_all_is_said_in_a_line(tmp_path):
    """A loader that is pointed at no driver."""
    nothing = tmp_path / "libnothing.so"
    nothing.write_bytes(b"")
    env = {**os.environ, "OCL_ICD_VENDORS": str(nothing), PLATFORM: "", PROFILE: ""}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "generate", "m.gguf", "--device", "opencl", "-p", "x"],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "no OpenCL driver was found: install" in done.stderr


def test_a_device_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: "renderD128" not in str(path))
    (tmp_path / "dri").mkdir()
    for name in ("renderD128", "renderD129"):
        (tmp_path / "dri" / name).touch()
    text = why_none(tmp_path)
    assert "renderD128" in text
    assert "renderD129" not in text
    assert (tmp_path / "dri/renderD128").group() in text
    assert "group" in text
