"""New distributions from templates: what `perfxlm new` writes.

A template is a file below `templates/KIND` with the suffix `.template`; `string.Template` fills in
`$distribution`, `$package` and the like, and `__package__` in its path becomes the package's name.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from perfxlm_core import __version__
from perfxlm_core.errors import ArgumentError

PREFIX = "perfxlm-"
SUFFIX = ".template"
RESERVED = frozenset({"auto", "core", "perfxlm"})
"""Names that mean something else: of a device, of a package, of the whole."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ARCHITECTURE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def new_plugin(name: str, directory: Path) -> Path:
    """Write a hardware plugin, `perfxlm-NAME`: a device in host memory with one kernel.

    Args:
        name: of the plugin, its device and its entry point: "acme".
        directory: where its folder goes.

    Returns:
        The new folder.

    Raises:
        ArgumentError: the name cannot be used, or the folder exists.
    """
    plain = checked_name(name)
    _refuse_taken("perfxlm.plugins", plain)
    return _write("plugin", directory, _names(plain))


def new_model(name: str, directory: Path, architecture: str | None = None) -> Path:
    """Write a model package, `perfxlm-NAME`: a decoder's recipe and its test.

    Args:
        name: of the family: "olmo2".
        directory: where its folder goes.
        architecture: as in `architectures` of config.json; None makes "Olmo2ForCausalLM" of it.

    Returns:
        The new folder.

    Raises:
        ArgumentError: a name cannot be used, an installed package builds the architecture
            already, or the folder exists.
    """
    plain = checked_name(name)
    names = _names(plain)
    built = architecture or f"{names['camel']}ForCausalLM"
    if not _ARCHITECTURE.fullmatch(built):
        raise ArgumentError(
            f"architecture {built!r} is no class name; give the one in `architectures` of the "
            "model's config.json"
        )
    _refuse_taken("perfxlm.recipes", built)
    _refuse_taken("perfxlm.gguf", names["module"])
    return _write("model", directory, {**names, "architecture": built})


def checked_name(name: str) -> str:
    """The name as package indexes write it: lower case, words joined by single hyphens.

    Raises:
        ArgumentError: it is no such name, means something else, or is taken by an installed
            distribution.
    """
    plain = re.sub(r"[-_.]+", "-", name).lower()
    if plain.startswith(PREFIX):
        raise ArgumentError(f"name {name!r}: leave out {PREFIX!r}, it is put before every name")
    if not _NAME.fullmatch(plain) or len(plain) > 40:
        raise ArgumentError(
            f"name {name!r} cannot be a distribution's; use a letter and then letters, digits "
            'and single hyphens, 40 at most, such as "acme" or "acme-npu"'
        )
    if plain in RESERVED:
        raise ArgumentError(f"name {name!r} means something else to perfxlm; choose another")
    try:
        have = version(PREFIX + plain)
    except PackageNotFoundError:
        return plain
    raise ArgumentError(
        f"{PREFIX}{plain} {have} is installed; choose another name, or uninstall it first"
    )


def _refuse_taken(group: str, name: str) -> None:
    """Two distributions with one entry point would shadow each other."""
    for point in entry_points(group=group, name=name):
        owner = point.dist.name if point.dist is not None else "an installed distribution"
        raise ArgumentError(f"{owner} has the entry point {name!r} of {group}; choose another name")


def _names(plain: str) -> dict[str, str]:
    module = plain.replace("-", "_")
    return {
        "name": plain,
        "module": module,
        "camel": "".join(part.capitalize() for part in plain.split("-")),
        "distribution": PREFIX + plain,
        "package": f"perfxlm_{module}",
        "version": __version__,
        "series": ".".join([*__version__.split(".")[:2], "0"]),
    }


def _write(kind: str, directory: Path, names: Mapping[str, str]) -> Path:
    """Fill in the templates; the folder is there whole or not at all."""
    target = directory / names["distribution"]
    if target.exists():
        raise ArgumentError(
            f"{target} exists; move it away, choose another name, or another --directory"
        )
    if not directory.is_dir():
        raise ArgumentError(f"{directory} is no folder; make it first")
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=directory))
    try:
        for path, content in _rendered(kind, names):
            file = part / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        part.chmod(0o755)  # mkdtemp's are their owner's alone
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ArgumentError(f"{target} cannot be written: {error.strerror}") from error
    return target


def _rendered(kind: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Path and content of each file."""
    for path, template in _templates(files("perfxlm_core.authoring") / "templates" / kind):
        content = Template(template.read_text(encoding="utf-8")).substitute(names)
        yield path.replace("__package__", names["package"]).removesuffix(SUFFIX), content


def _templates(folder: Traversable, before: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        path = before + entry.name
        if entry.is_dir():
            yield from _templates(entry, path + "/")
        elif path.endswith(SUFFIX):
            yield path, entry
