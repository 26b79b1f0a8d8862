"""`python -m perfxlm.as_vllm PROGRAM [ARGS]`: an unmodified program that imports `vllm`.

For that process, `vllm` and its submodules are those of `perfxlm`: `vllm.outputs` is the very
module `perfxlm.outputs`. Processes that the program starts see it only if they go through here too.
"""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import perfxlm

VERSION = "0.33.0"
"""What programs that ask for vLLM's version are told: the one whose interface this is."""
USAGE = "usage: python -m perfxlm.as_vllm [-m MODULE | PROGRAM] [ARGS]"


class _Versioned(ModuleType):
    """A module of perfxlm's, but for its name and its version: `vllm` and `vllm.version`."""

    def __init__(self, name: str, behind: ModuleType) -> None:
        super().__init__(name, behind.__doc__)
        self.__dict__["_behind"] = behind
        self.__version__ = VERSION
        self.__version_tuple__ = tuple(map(int, VERSION.split(".")))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        return getattr(self.__dict__["_behind"], name)

    def __dir__(self) -> Iterable[str]:
        return dir(self.__dict__["_behind"])


class _Alias(Loader):
    """Gives a module of perfxlm's for one of vLLM's."""

    def __init__(self, ours: str) -> None:
        self._ours = ours
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, imported by its own name."""
        module = importlib.import_module(self._ours)
        if spec.name in ("vllm", "vllm.version"):
            return _Versioned(spec.name, module)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing but to give the module its own specification back, which importing replaced."""
        if self._spec is not None:
            module.__spec__ = self._spec


class _Metadata(Distribution):
    """The distribution `vllm`, as `importlib.metadata.version` sees it."""

    def read_text(self, filename: str) -> str | None:
        """Its name and version; it has no other files."""
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n"

    def locate_file(self, path: Any) -> Path:  # noqa: ANN401 - a path
        """Where perfxlm is."""
        return Path(perfxlm.__file__).parent / str(path)


class VllmFinder(DistributionFinder, MetaPathFinder):
    """Finds `vllm` and its modules in perfxlm."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a module of vLLM's that we have."""
        first, dot, rest = fullname.partition(".")
        if first != "vllm":
            return None
        ours = f"perfxlm{dot}{rest}"
        found = find_spec(ours)
        if found is None:
            return None
        package = found.submodule_search_locations is not None
        return ModuleSpec(fullname, _Alias(ours), is_package=package)

    def find_distributions(
        self,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008
    ) -> Iterable[Distribution]:
        """The distribution, where it or every one is asked for."""
        return [_Metadata()] if context.name in (None, "vllm") else []


def install() -> None:
    """Make `vllm` perfxlm for the rest of this process, whether or not a vLLM is installed."""
    if not any(isinstance(finder, VllmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, VllmFinder())


def _ours(module: str) -> str:
    """A module to run, by our name if it is one of vLLM's that we have."""
    first, dot, rest = module.partition(".")
    ours = f"perfxlm{dot}{rest}"
    return ours if first == "vllm" and find_spec(ours) is not None else module


def main(arguments: Sequence[str]) -> int:
    """Run a program, given as for `python` or by the name of a command; 2 if there is none."""
    install()
    match list(arguments):
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            sys.path[0] = ""
            runpy.run_module(_ours(module), run_name="__main__", alter_sys=True)
        case [program, *rest] if not program.startswith("-"):
            path = program if Path(program).exists() else shutil.which(program)
            if path is None:
                print(f"{program} is neither a file nor a command\n{USAGE}", file=sys.stderr)
                return 2
            sys.argv = [path, *rest]
            sys.path[0] = str(Path(path).resolve().parent)
            runpy.run_path(path, run_name="__main__")
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    # The program's own imports find this module under its own name, not as __main__.
    sys.exit(importlib.import_module("perfxlm.as_vllm").main(sys.argv[1:]))
