"""The tutorials, followed to the letter in an empty folder and an environment of their own.

Their `pip install` finds everything in the environment of these tests, so nothing is fetched.
With PERFXLM_TUTORIALS=fresh (`nox -s tutorials`) it installs for real.
"""

import os
import site
import stat
import sys
import sysconfig
from pathlib import Path

import pytest

from .document import File, follow, steps

DOCS = Path(__file__).parents[2] / "docs"
FRESH = os.environ.get("PERFXLM_TUTORIALS") == "fresh"
SEE_PARENT = """
import site, sys
before = list(sys.path)
for folder in {folders!r}:
    site.addsitedir(folder)
first = next((i for i, p in enumerate(before) if p.endswith("site-packages")), len(before))
sys.path[:] = before[:first] + [p for p in sys.path if p not in before] + before[first:]
"""
SCRIPTS = {
    "perfxlm": "import sys; from perfxlm_core.cli import main; sys.argv[0] = 'perfxlm'; "
    "sys.exit(main())",
    "pytest": "import sys, pytest; sys.exit(pytest.main())",
}


@pytest.fixture
def environment(tmp_path):
    """Variables of the tutorial's shell."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PERFXLM_", "PYTEST_"))}
    ours |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "COLUMNS": "160"}
    return ours if FRESH else ours | borrowed(tmp_path / "borrowed")


def borrowed(folder):
    """The packages and the commands of this environment, for every Python of the tutorial."""
    folders = [*site.getsitepackages(), sysconfig.get_paths()["purelib"]]
    (folder / "bin").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SEE_PARENT.format(folders=sorted(set(folders))))
    for name, code in SCRIPTS.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec python -c "{code}" "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "bin/python3").symlink_to(sys.executable)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # the latter means: none
    return {"PYTHONPATH": str(folder), "PATH": path, **offline}


@pytest.mark.slow
@pytest.mark.timeout(3600 if FRESH else 900)
@pytest.mark.parametrize("name", ["plugins", "models"])
def test_a_tutorial_can_be_followed(name, environment, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    for line, seconds in follow(DOCS / f"{name}.md", folder, environment):
        print(f"{seconds:6.1f} s  $ {line}")


@pytest.mark.parametrize("name", ["plugins", "models"])
def test_every_block_of_a_tutorial_does_something(name):
    document = DOCS / f"{name}.md"
    assert document.read_text().count("\n```") % 2 == 0
    found = steps(document)
    fenced = document.read_text().count("\n```python\n") + document.read_text().count("\n```toml\n")
    assert sum(isinstance(s, File) for s in found) == fenced
    assert any(not isinstance(s, File) for s in found)
