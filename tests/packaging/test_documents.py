"""What the documents say is there, is there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("pip install nox && nox -s demo", "pip install nox && nox -s tests")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("models/*/README.md")),
]


def test_the_readme_opens_with_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    at = [next(i for i, line in enumerate(lines) if line.strip() == c) for c in COMMANDS]
    assert at == sorted(at)
    assert at[-1] < 12


def test_the_map_names_files_that_exist_and_every_package():
    content = (ROOT / "docs/map.md").read_text()
    paths = re.findall(r"`([\w./-]+/[\w./-]*)`", content)
    assert len(paths) > 15
    missing = [p for p in paths if not (ROOT / p).exists()]
    assert missing == []
    packages = [p.parent for p in (ROOT / "perfxlm_core").glob("*/__init__.py")]
    unnamed = [p.name for p in packages if f"`perfxlm_core/{p.name}/`" not in content]
    assert unnamed == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_commands_in_the_documents_exist():
    from perfxlm_core.cli.app import COMMANDS

    for document in DOCUMENTS:
        for name in re.findall(r"^ {4,}(?:\w+=\w+ )?perfxlm ([a-z-]+)", document.read_text(), re.M):
            assert name in COMMANDS, f"{document.name} speaks of perfxlm {name}"


def test_the_sessions_in_the_documents_exist():
    source = (ROOT / "noxfile.py").read_text()
    plain = r"^@nox.session(?:\(reuse_venv=False\))?\ndef (\w+)\(session"
    sessions = set(re.findall(plain, source, re.M))
    sessions |= set(re.findall(r"^@nox.session\(name=\"([\w-]+)\"", source, re.M))
    for document in DOCUMENTS:
        for named in re.findall(r"nox -s ([a-z -]+[a-z])", document.read_text()):
            assert set(named.split()) <= sessions, f"{document.name}: nox -s {named}"


def test_distributions_agree_on_the_version():
    from perfxlm_core import __version__

    projects = [ROOT, *ROOT.glob("plugins/perfxlm-*"), *ROOT.glob("models/perfxlm-*")]
    for project in projects:
        about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        assert about["version"] == __version__, project
        assert about["requires-python"] == ">=3.11", project
        if project != ROOT:
            assert "perfxlm~=0.1.0" in about["dependencies"], project


def test_the_changelog_speaks_of_this_version():
    from perfxlm_core import __version__

    assert f"[{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
