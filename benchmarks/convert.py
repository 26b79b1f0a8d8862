"""A model as a peer wants it: `convert.py PEER NAME FILE.gguf FOLDER`.

Runs in an environment that has torch, transformers and the peer's own converter; perfxlm is not
needed. The weights are decoded to bfloat16 once, as a Hugging Face folder; from it the peer's
converter makes its best 4-bit model. What is there already is kept.
"""

import subprocess
import sys
from pathlib import Path

GROUPS = {"smollm2": "64", "1b": "128"}
"""Columns that share a scale for OpenVINO: 576 is no multiple of 128."""
NAMES = {"smollm2": "smollm2", "1b": "1b-q4_0"}
"""What the benchmark calls the 4-bit models."""


def folder_of(name, file, models):
    """The Hugging Face folder."""
    made = models / "huggingface" / name
    if not made.is_dir():
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, AutoTokenizer

        given = {"gguf_file": file.name}
        decoded = {"dtype": torch.bfloat16}
        if hasattr(transformers, "GgufConfig"):  # versions that keep blocks packed unless told
            decoded["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(file.parent, **decoded, **given)
        unfinished = made.with_name(f"{name}.part")
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(unfinished)
        unfinished.rename(made)
    return made


def openvino(source, target, name):
    """4 bits with minima, embedding and head in 8 bits."""
    command = ["-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", str(source)]
    task = ["--task", "text-generation-with-past", "--weight-format", "int4"]
    run(*command, *task, "--group-size", GROUPS[name], "--ratio", "1.0", str(target))


def onnxruntime(source, target, name):
    """4 bits in blocks of 32, activations of 8 bits."""
    command = ["-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(target)]
    extra = ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"]
    run(*command, "-p", "int4", "-e", "cpu", "-c", str(target.parent / "cache"), *extra)


def vllm(source, target, name):
    """bfloat16, as it is."""
    target.symlink_to(source.resolve(), target_is_directory=True)


def run(*arguments):
    subprocess.run([sys.executable, *arguments], check=True)


def main():
    peer, name, file, models = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    known = "1b-bf16" if (peer, name) == ("vllm", "1b") else NAMES[name]
    target = models / peer / known
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        {"openvino": openvino, "onnxruntime": onnxruntime, "vllm": vllm}[peer](
            folder_of(name, file, models), target, name
        )


if __name__ == "__main__":
    main()
