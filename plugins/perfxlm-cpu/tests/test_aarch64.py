"""The kernels for aarch64, cross-compiled and run in an emulator where both are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"


@pytest.mark.slow
@pytest.mark.skipif(
    not all(shutil.which(tool) for tool in (COMPILER, EMULATOR, "cmake", "ninja")),
    reason=f"needs {COMPILER}, {EMULATOR}, cmake and ninja",
)
def test_kernels_in_the_emulator(tmp_path):
    source = Path(__file__).parents[1]
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_EXE_LINKER_FLAGS": "-static",
        "PERFXLM_PYTHON": "OFF",
        "PERFXLM_CHECK": "ON",
    }
    configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(tmp_path)]
    configure += [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
    done = subprocess.run(
        [EMULATOR, "-cpu", "max", str(tmp_path / "check")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "neon_dotprod" in done.stdout
    assert done.stdout.endswith("0 failures\n")
