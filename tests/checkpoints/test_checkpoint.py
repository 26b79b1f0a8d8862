"""One interface over GGUF files and Hugging Face folders."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.checkpoints.gguf_names import huggingface_names
from perfxlm_core.errors import CheckpointError


def test_the_real_model(model):
    assert model.kind == "gguf"
    assert model.gguf_architecture == "llama"
    assert model.architectures == ["LlamaForCausalLM"]
    expected = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "max_position_embeddings": 8192,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "rope_interleaved": True,
    }
    assert {key: model.config.get(key) for key in expected} == expected
    assert "rope_scaling" not in model.config
    assert "partial_rotary_factor" not in model.config
    assert model.generation_config["eos_token_id"] == [2, 0]
    names = list(model.names())
    assert len(names) == 272
    assert "model.layers.29.self_attn.q_proj.weight" in model
    assert "lm_head.weight" not in model
    assert all(name.startswith("model.") for name in names)
    assert model.total_bytes == sum(model.tensor(name).nbytes for name in names)
    with pytest.raises(CheckpointError, match=r"holds no tensor 'lm_head\.weight'"):
        model.tensor("lm_head.weight")


def test_tensors_stay_in_the_file(model, model_path):
    tensor = model.tensor("model.layers.3.mlp.down_proj.weight")
    assert (tensor.shape, tensor.format) == ((576, 1536), "q4_1")
    assert tensor.source.path == model_path
    with model_path.open("rb") as file:
        file.seek(tensor.source.offset)
        assert file.read(tensor.source.nbytes) == tensor.data.tobytes()
    assert not tensor.data.flags.writeable
    before = tensor.float32()
    tensor.release()
    np.testing.assert_array_equal(tensor.float32(), before)


def test_the_reference_reader_agrees_on_every_tensor(model, model_path):
    import gguf

    ours = {model.tensor(n).source.offset: model.tensor(n) for n in model.names()}
    for theirs in gguf.GGUFReader(model_path).tensors[::7]:
        tensor = ours[theirs.data_offset]
        expected = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        np.testing.assert_array_equal(tensor.float32().reshape(expected.shape), expected)


def test_names_follow_the_roles():
    names = huggingface_names(
        [
            "token_embd.weight",
            "output.weight",
            "output_norm.weight",
            "blk.7.attn_q.weight",
            "blk.7.attn_q.bias",
            "blk.12.attn_k_norm.weight",
            "blk.0.ffn_norm.weight",
            "blk.0.ffn_gate_exps.weight",
            "rope_freqs.weight",
            "blk.0.something_new.weight",
            "weird.name!",
        ]
    )
    assert names == {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.7.self_attn.q_proj.weight": "blk.7.attn_q.weight",
        "model.layers.7.self_attn.q_proj.bias": "blk.7.attn_q.bias",
        "model.layers.12.self_attn.k_norm.weight": "blk.12.attn_k_norm.weight",
        "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
        "model.layers.0.mlp.experts.gate_proj.weight": "blk.0.ffn_gate_exps.weight",
        "rope_freqs.weight": "rope_freqs.weight",
        "blk.0.something_new.weight": "blk.0.something_new.weight",
        "weird.name!": "weird.name!",
    }


def test_a_norm_after_attention_changes_what_ffn_norm_is():
    names = huggingface_names(["blk.0.post_attention_norm.weight", "blk.0.ffn_norm.weight"])
    assert names == {
        "model.layers.0.post_attention_layernorm.weight": "blk.0.post_attention_norm.weight",
        "model.layers.0.pre_feedforward_layernorm.weight": "blk.0.ffn_norm.weight",
    }


def config_with(make_gguf, path, add, tensors=None):
    return open_checkpoint(make_gguf(path, more=add, tensors=tensors)).config


def test_settings_without_a_known_name_are_kept(make_gguf, tmp_path):
    config = config_with(
        make_gguf, tmp_path / "x.gguf", lambda w: w.add_float32("llama.residual_scale", 0.22)
    )
    assert config["residual_scale"] == 0.22


def test_head_sizes_and_partial_rotation(make_gguf, tmp_path):
    def add(writer):
        writer.add_key_length(16)
        writer.add_value_length(16)
        writer.add_rope_dimension_count(8)

    config = config_with(make_gguf, tmp_path / "x.gguf", add)
    assert config["head_dim"] == 16
    assert config["partial_rotary_factor"] == 0.5
    assert "v_head_dim" not in config


def test_per_layer_sizes(make_gguf, tmp_path):
    def kv_heads(values):
        def add(writer):
            writer.kv_data[0].pop("llama.attention.head_count_kv")
            writer.add_head_count_kv(values)

        return add

    config = config_with(make_gguf, tmp_path / "x.gguf", kv_heads([2, 2]))
    assert config["num_key_value_heads"] == 2
    config = config_with(make_gguf, tmp_path / "y.gguf", kv_heads([2, 1]))
    assert config["num_key_value_heads"] == [2, 1]


def rope_yarn(writer):
    import gguf

    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32768)


@pytest.mark.parametrize(
    ("add", "expected"),
    [
        (lambda w: None, None),
        (
            lambda w: w.add_float32("llama.rope.scaling.factor", 2.0),
            {"rope_type": "linear", "factor": 2.0},
        ),
        (
            lambda w: w.add_float32("llama.rope.scale_linear", 4.0),
            {"rope_type": "linear", "factor": 4.0},
        ),
        (lambda w: w.add_float32("llama.rope.scaling.factor", 1.0), None),
        (lambda w: w.add_string("llama.rope.scaling.type", "none"), None),
        (
            rope_yarn,
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        ),
    ],
)
def test_rope_scaling(make_gguf, tmp_path, add, expected):
    assert config_with(make_gguf, tmp_path / "x.gguf", add).get("rope_scaling") == expected


def test_rope_factors_are_tensors(make_gguf, tmp_path):
    factors = np.array([1, 1, 2, 8], np.float32)
    config = config_with(
        make_gguf,
        tmp_path / "x.gguf",
        None,
        {"rope_freqs.weight": factors, "output.weight": factors},
    )
    assert config["rope_freq_factors"] == [1, 1, 2, 8]
    assert config["tie_word_embeddings"] is False
    both = {"rope_factors_long.weight": factors, "rope_factors_short.weight": factors / 2}
    config = config_with(
        make_gguf, tmp_path / "y.gguf", lambda w: w.add_rope_scaling_attn_factors(1.19), both
    )
    assert config["rope_scaling"] == {
        "rope_type": "longrope",
        "attention_factor": 1.19,
        "long_factor": [1, 1, 2, 8],
        "short_factor": [0.5, 0.5, 1, 4],
    }


def test_sampling_defaults_of_the_file(make_gguf, tmp_path):
    def add(writer):
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_int32("general.sampling.top_k", 20)
        writer.add_eot_token_id(4)

    checkpoint = open_checkpoint(make_gguf(tmp_path / "x.gguf", more=add))
    assert checkpoint.generation_config == {
        "bos_token_id": 0,
        "eos_token_id": [1, 4],
        "temperature": 0.6,
        "top_k": 20,
    }
    assert checkpoint.tokenizer().eos_token_ids == (1, 4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.embedding_length", "wide", "embedding_length is 'wide'"),
        ("llama.embedding_length", 0, "embedding_length is 0 in the metadata; a positive whole"),
        ("llama.attention.head_count", 2.5, "head_count is 2.5"),
        ("llama.rope.freq_base", "fast", "freq_base is 'fast' in the metadata; a number"),
        ("general.architecture", 7, "lack the string general.architecture"),
        ("split.count", 3, r"one of 3 parts; merge them into one file"),
    ],
)
def test_senseless_metadata_are_refused(make_gguf, tmp_path, key, value, message):
    def add(writer):
        writer.kv_data[0].pop(key, None)
        kinds = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        kinds[type(value)](key, value)

    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(make_gguf(tmp_path / "x.gguf", more=add))


def test_missing_sizes_are_refused(make_gguf, tmp_path):
    def drop(writer):
        writer.kv_data[0].pop("llama.block_count")

    with pytest.raises(CheckpointError, match=r"llama\.block_count is None"):
        open_checkpoint(make_gguf(tmp_path / "x.gguf", more=drop))


def folder(path, config=None, weights=True):
    from safetensors.numpy import save_file

    path.mkdir(exist_ok=True)
    given = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "bos_token_id": 1}
    path.joinpath("config.json").write_text(json.dumps(given | (config or {})))
    if weights:
        arrays = {"model.norm.weight": np.ones(8, np.float16), "b": np.zeros((2, 3), np.int8)}
        save_file(arrays, path / "model.safetensors")
    return path


def test_folders(tmp_path):
    path = folder(tmp_path / "m", {"eos_token_id": 2})
    path.joinpath("generation_config.json").write_text('{"eos_token_id": [2, 3], "top_p": 0.9}')
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.kind == "safetensors"
    assert checkpoint.architectures == ["LlamaForCausalLM"]
    assert checkpoint.gguf_architecture is None
    assert dict(checkpoint.gguf_metadata) == {}
    assert checkpoint.config["hidden_size"] == 8
    assert checkpoint.generation_config == {
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "top_p": 0.9,
    }
    assert sorted(checkpoint.names()) == ["b", "model.norm.weight"]
    assert "b" in checkpoint
    assert checkpoint.total_bytes == 22
    assert checkpoint.tensor("model.norm.weight").float32().tolist() == [1] * 8
    with pytest.raises(CheckpointError, match="holds no tensor 'c'"):
        checkpoint.tensor("c")


def test_a_folder_of_one_gguf_file(make_gguf, tmp_path):
    make_gguf(tmp_path / "x.gguf")
    assert open_checkpoint(tmp_path).path == tmp_path / "x.gguf"
    make_gguf(tmp_path / "y.gguf")
    with pytest.raises(CheckpointError, match=r"2 GGUF files \(x\.gguf, y\.gguf\); name one"):
        open_checkpoint(tmp_path)


def test_what_is_not_read_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "none")
    empty = folder(tmp_path / "empty", weights=False)
    with pytest.raises(CheckpointError, match="holds neither"):
        open_checkpoint(empty)
    empty.joinpath("pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"pickled weights.*convert them to safetensors"):
        open_checkpoint(empty)
    quantized = folder(tmp_path / "q", {"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(CheckpointError, match="quant_method 'awq', which is not read"):
        open_checkpoint(quantized)


@pytest.mark.parametrize("content", ["{", "[]", "\ud800", "[" * 100_000])
def test_damaged_configurations_are_refused(tmp_path, content):
    path = folder(tmp_path / "m")
    path.joinpath("config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(path)
    path.joinpath("config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be opened"):
        open_checkpoint(path)


def test_opening_a_file_imports_nothing_heavy(model_path):
    code = (
        "import sys\n"
        "from perfxlm_core.checkpoints import open_checkpoint\n"
        f"open_checkpoint({str(model_path)!r}).config\n"
        "heavy = {'torch', 'onnx', 'tokenizers', 'jinja2', 'huggingface_hub', 'ml_dtypes'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
