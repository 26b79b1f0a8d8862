"""Small real distributions: what an installer leaves behind, put into a folder for PYTHONPATH."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path


def write(folder: Path, name: str, version: str, points: dict[str, dict[str, str]]) -> None:
    """The .dist-info of a distribution, with its entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    sections = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items())
        for group, entries in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(sections))


def plugin(folder: Path, name: str, source: str) -> None:
    """A plugin distribution `perfxlm-NAME` of one module."""
    module = f"perfxlm_{name}_plugin"
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    write(folder, f"perfxlm-{name}", "1.2.3", {"perfxlm.plugins": {name: module}})


def from_project(project: Path, folder: Path) -> None:
    """A project of this repository: its packages and its entry points."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    about = metadata["project"]
    write(folder, about["name"], about["version"], about["entry-points"])
    for package in metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        (folder / Path(package).name).symlink_to(project / package)


def perfxlm(
    *arguments: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that sees the distributions in `folder` as well."""
    paths = [str(folder)] if folder is not None else []
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, "-c", "import sys; from perfxlm_core.cli import main; sys.exit(main())",
         *arguments],
        capture_output=True, text=True, check=False, env=env, timeout=240,
    )  # fmt: skip
