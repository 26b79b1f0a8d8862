"""docs/vllm-parity.md says what the code does, and little is absent."""

import pytest

from . import parity


@pytest.fixture(scope="module")
def found():
    return parity.rows()


def test_the_page_is_what_the_code_gives():
    assert parity.PAGE.read_text() == parity.page(), "run: python -m tests.front.parity"


def test_at_most_a_tenth_is_absent_and_each_has_a_reason(found):
    for title, rows in parity.groups(found).items():
        absent = [r.name for r in rows if r.state == parity.ABSENT]
        assert len(rows) > 190
        assert len(absent) <= len(rows) / 10, (title, absent)
    silent = [r.name for r in found if r.state != parity.SUPPORTED and not r.note]
    assert silent == []


def test_other_defaults_have_a_reason(found):
    differing = [r for r in found if r.note.startswith("default ")]
    assert all(not r.note.endswith(": ") for r in differing), differing


def test_the_check_sees_what_is_missing():
    for kind, name in (("import", "vllm:Nothing"), ("import", "vllm.nowhere:LLM")):
        assert parity.looked_up(kind, name)[0] == parity.ABSENT
    for kind in ("method", "attr", "kw:LLM", "kw:SamplingParams", "kw:generate()", "kw:chat()"):
        assert parity.looked_up(kind, "nothing_like_it")[0] == parity.ABSENT
    given = {"kind": "kw:SamplingParams", "name": "top_p", "default": 0.5}
    counts = {"examples": 1, "docs": 0, "third_party": 0}
    assert parity.row({**given, **counts}).note.startswith("default 1.0, vLLM's 0.5")
