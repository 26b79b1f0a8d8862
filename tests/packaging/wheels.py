"""What is in the wheels of a folder: `python wheels.py dist`."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    "perfxlm": (ROOT, ("perfxlm", "perfxlm_core")),
    "perfxlm_cpu": (ROOT / "plugins/perfxlm-cpu/src", ("perfxlm_cpu",)),
    "perfxlm_llama": (ROOT / "models/perfxlm-llama/src", ("perfxlm_llama",)),
    "perfxlm_qwen": (ROOT / "models/perfxlm-qwen/src", ("perfxlm_qwen",)),
}


def tracked(folder: Path, packages: tuple[str, ...]) -> set[str]:
    """Files of packages that belong to the repository, relative to `folder`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *packages]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split() if (folder / name).is_file()}


def check(wheel: Path, folder: Path, packages: tuple[str, ...]) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {n for n in names if ".dist-info/" not in n}
    wanted = tracked(folder, packages)
    assert len(wanted) > 1, f"{folder} has no files in {packages}"
    missing = wanted - inside
    assert not missing, f"{wheel.name} lacks {sorted(missing)}"
    extra = {n for n in inside - wanted if not n.endswith((".so", ".pyd", ".pyi"))}
    assert not extra, f"{wheel.name} holds {sorted(extra)}, which the repository does not"
    for package in packages:
        assert f"{package}/py.typed" in inside, f"{package} has no py.typed"
    assert any(n.endswith("entry_points.txt") for n in names), f"{wheel.name}: no entry points"
    if wheel.name.startswith("perfxlm_cpu-"):
        assert any(n.endswith(".so") for n in inside), "the native module is missing"


def main(dist: Path) -> None:
    for name, (folder, packages) in SOURCES.items():
        (wheel,) = dist.glob(f"{name}-*.whl")
        check(wheel, folder, packages)
    print(f"{len(SOURCES)} passed, 0 failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
