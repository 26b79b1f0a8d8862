"""Arguments of vLLM's engine: what is supported, without effect, refused; objects and flags."""

import argparse
import dataclasses
import logging

import pytest

from perfxlm_core.engine.argument_table import FIXED, SERVER, WITHOUT_EFFECT
from perfxlm_core.engine.arguments import ARGUMENTS, Effect, engine_config
from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.engine_args import AsyncEngineArgs, EngineArgs, human_int
from perfxlm_core.errors import ArgumentError


def parsed(line, kind=EngineArgs):
    parser = kind.add_cli_args(argparse.ArgumentParser())
    return kind.from_cli_args(parser.parse_args(line.split()))


def test_an_argument_is_in_one_group():
    groups = [f.name for f in dataclasses.fields(EngineConfig)] + list(SERVER)
    groups += [n for table in (WITHOUT_EFFECT, FIXED) for group in table.values() for n in group]
    assert len(groups) == len(set(groups)) == len(ARGUMENTS)
    assert all(a.accepts(a.default) and a.is_default(a.default) for a in ARGUMENTS.values())


def test_defaults_make_the_engines_own_configuration(caplog):
    everything = dataclasses.asdict(AsyncEngineArgs(model="m"))
    assert everything.keys() == ARGUMENTS.keys()
    with caplog.at_level(logging.WARNING):
        assert engine_config(everything) == AsyncEngineArgs("m").to_config()
        assert EngineArgs("m").create_engine_config() == EngineConfig(model="m")
    assert not caplog.records


def test_one_line_names_what_has_no_effect(caplog):
    args = EngineArgs(model="m", enforce_eager=True, tensor_parallel_size=2, max_num_seqs=8)
    with caplog.at_level(logging.WARNING):
        assert args.to_config() == EngineConfig(model="m", max_num_seqs=8)
    [record] = caplog.records
    assert "enforce_eager (the plan is compiled once" in record.message
    assert "tensor_parallel_size (one process" in record.message
    assert "max_num_seqs" not in record.message


@pytest.mark.parametrize("name", [n for n, a in ARGUMENTS.items() if a.effect is Effect.FIXED])
def test_what_would_change_the_answer_is_refused_with_a_reason(name):
    for value in ("something", {"a": 1}, not ARGUMENTS[name].default, 7):
        if ARGUMENTS[name].accepts(value):
            continue
        with pytest.raises(ArgumentError, match=f"{name}=.* is not supported: ...") as refused:
            EngineArgs(**{name: value}).to_config()
        assert ARGUMENTS[name].reason in str(refused.value)


def test_unknown_ones_are_refused_with_the_nearest_name():
    with pytest.raises(TypeError, match=r"'max_modle_len'; did you mean 'max_model_len'[?]"):
        EngineArgs(max_modle_len=5)
    with pytest.raises(TypeError, match=r"^EngineArgs.*'enable_log_requests'"):
        EngineArgs(enable_log_requests=True)
    assert AsyncEngineArgs(enable_log_requests=True).enable_log_requests is True
    with pytest.raises(TypeError, match=r"'zzzz'$"):
        engine_config({"zzzz": 5})


def test_values_are_made_plain():
    class Dtype:
        def __str__(self):
            return "torch.bfloat16"

    assert engine_config({"model": "m", "dtype": Dtype()}).dtype == "bfloat16"
    with pytest.raises(ArgumentError, match="hf_overrides must map names to values"):
        engine_config({"hf_overrides": lambda config: config})


def test_flags_are_read_by_their_types():
    args = parsed(
        "--model 12 --max-model-len 4k --kv-cache-memory-bytes 1G --enforce-eager "
        '--no-enable-prefix-caching --hf-overrides {"a":1} --gpu-memory-utilization 0.5 '
        '--limit-mm-per-prompt {"image":1} --served-model-name x'
    )
    assert args.to_config() == EngineConfig(
        model="12",
        max_model_len=4000,
        kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
        hf_overrides={"a": 1},
        gpu_memory_utilization=0.5,
    )
    assert args.served_model_name == "x"
    assert args.limit_mm_per_prompt == {"image": 1}
    assert parsed("") == EngineArgs()
    assert parsed("--enable-log-requests", AsyncEngineArgs).enable_log_requests is True
    only = AsyncEngineArgs.add_cli_args(argparse.ArgumentParser(), async_args_only=True)
    assert vars(only.parse_args([])) == {"enable_log_requests": False}


def test_human_integers():
    assert [human_int(t) for t in ("12", "1.5k", "2K", "1m", "1G")] == [
        *(12, 1500, 2048, 10**6, 1 << 30)
    ]
    with pytest.raises(ValueError, match="invalid literal"):
        human_int("many")
