"""Devices to test on, from PyPI alone: PoCL (plain OpenCL C 1.2) and Intel's processor runtime.

    pip install "pyopencl[pocl,oclgrind]" intel-opencl-rt intel-cmplr-lib-rt

The last two register nothing, so a driver file is written for them here, before pyopencl is
imported. A machine without these runtimes fails the tests; it does not skip them.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import save_file

from perfxlm_core.graph.recipe import find_recipe

INSTALL = 'pip install "pyopencl[pocl,oclgrind]" intel-opencl-rt intel-cmplr-lib-rt'
PLATFORMS = {"intel": "intel", "pocl": "portable"}

settings.register_profile("opencl", max_examples=10, deadline=None)
settings.load_profile("opencl")

if "OCL_ICD_VENDORS" not in os.environ:
    folder = Path(tempfile.mkdtemp(prefix="perfxlm-icd-"))
    library = Path(sys.prefix) / "lib" / "libintelocl.so"
    if library.exists():
        (folder / "intel.icd").write_text(f"{library}\n")
    os.environ["OCL_ICD_VENDORS"] = str(folder)

from perfxlm_opencl.device import OpenClDevice  # noqa: E402
from perfxlm_opencl.discovery import find_devices  # noqa: E402

SIZES = {
    "hidden_act": "silu",
    "vocab_size": 101,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
}
RANDOM = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 32},
}
"""Grouped heads in all, biases in the first two, normalized queries and keys in the last."""

OpenDevice = Callable[..., OpenClDevice]


@pytest.fixture(scope="session")
def open_device() -> OpenDevice:
    """The device of a runtime, "intel" or "pocl", under a profile if one is named."""

    def make(runtime: str, profile: str | None = None) -> OpenClDevice:
        found = find_devices(PLATFORMS[runtime])
        if not found:
            pytest.fail(f"the runtime {runtime} has no device; install it: {INSTALL}")
        return OpenClDevice(found[0], profile=profile)

    return make


@pytest.fixture(scope="session", params=list(PLATFORMS))
def device(request: pytest.FixtureRequest, open_device: OpenDevice) -> OpenClDevice:
    """Each runtime's device."""
    return open_device(request.param)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of an architecture of `RANDOM`, made once."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(architecture)
            write_random(architecture, made[architecture])
        return made[architecture]

    return make


def write_random(architecture: str, folder: Path) -> None:
    """A checkpoint with weights that give logits of order ten."""
    config = {**SIZES, **RANDOM[architecture]}
    constants = find_recipe([architecture]).graph(config).constants
    rng = np.random.default_rng(sum(map(ord, architecture)))
    weights = {}
    for name, value in constants.items():
        noise = rng.standard_normal(value.shape)
        if name == "rope.inverse_frequencies":
            continue
        if "norm" in name:
            noise = 1 + 0.2 * noise
        elif noise.ndim == 1:
            noise *= 0.5
        elif "embed" not in name:
            noise *= (4.0 if "lm_head" in name else 1.3) / value.shape[1] ** 0.5
        weights[name] = noise.astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
