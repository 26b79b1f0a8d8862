"""What runs where: results kept, tables made of them, and what is said when they are old."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.conformance.support import (
    Fact,
    Support,
    differences,
    document,
    filled,
    load,
    models_table,
    operators_table,
    summarized,
)
from perfxlm_core.errors import ArgumentError

from ..cli.command import perfxlm

ROOT = Path(__file__).parents[2]
PAGE = "before\n\n<!-- support:{0} -->\nold\n<!-- /support:{0} -->\n\nbehind\n"

WORDS = st.sampled_from(["add", "linear", "rms_norm", "model", "graph"])
TYPES = st.sampled_from(["float32", "float16", "-"])
STATES = st.sampled_from(["passed", "declined", "reference", "not covered", "failed"])
FACTS = st.builds(
    Fact, WORDS, st.sampled_from(["acme.one", "acme.two", None]), TYPES, TYPES, STATES,
    st.integers(0, 200), st.integers(0, 200), st.floats(0, 1).map(lambda v: round(v, 3)),
)  # fmt: skip


def support(*facts, device="acme", packages=None):
    return Support(
        device, "a chip", "perfxlm-acme 1.2", "0.1.0", "2026-01-31", 50, 7, packages or {}, facts
    )


ADD = Fact("add", "acme.add", "float32", "-", "passed", 50, 0, 0.125)
LINEAR = Fact("linear", "acme.linear", "float32", "q4_0", "passed", 48, 2, 0.5)
LLAMA = Fact("model", "TinyForCausalLM", "float32", "-", "passed", 5, 0, 0.25)


def report(*facts):
    """What `perfxlm conformance --json` writes, with more fields than are needed."""
    rows = [{**vars(f), "failure": None, "case": None, "worst": f.worst + 1e-5} for f in facts]
    device = {"name": "acme:1", "vendor": "acme", "description": "a chip"}
    return {
        "perfxlm": "0.1.0", "plugin": "acme", "distribution": "perfxlm-acme 1.2",
        "device": device, "date": "2026-01-31T10:00:00+00:00", "examples": 50, "seed": 7,
        "rows": rows,
    }  # fmt: skip


@given(facts=st.lists(FACTS, min_size=1))
def test_results_come_back_as_they_were_kept(facts, tmp_path_factory):
    file = tmp_path_factory.mktemp("kept") / "acme.json"
    one = support(*facts, packages={"TinyForCausalLM": "perfxlm-tiny 2"})
    file.write_text(one.plain())
    assert load(file) == one
    assert len(file.read_text().splitlines()) == len(facts) + 14


def test_a_report_is_summarized():
    made = summarized(report(ADD, LINEAR, LLAMA), {"TinyForCausalLM": "perfxlm-tiny 2"})
    assert made == support(ADD, LINEAR, LLAMA, packages={"TinyForCausalLM": "perfxlm-tiny 2"})


@pytest.mark.parametrize("given", [{}, [], {"rows": [{}]}, report(ADD)])
def test_anything_else_is_refused(given):
    with pytest.raises(ArgumentError):
        summarized(given, {})


def test_a_cell_is_what_became_of_the_rows():
    acme = support(
        ADD,
        LINEAR,
        Fact("linear", "acme.linear", "float16", "q4_0", "passed", 3, 0, 0.75),
        Fact("mul", None, "-", "-", "reference"),
        Fact("silu", "acme.silu", "float32", "-", "declined", 0, 50),
    )
    other = support(
        Fact("linear", "z.linear", "float32", "q4_0", "failed", 3),
        Fact("linear", "z.linear", "float32", "q8_0", "passed", 3, 0, 0.1),
        device="z",
    )
    assert operators_table([acme, other]).splitlines() == [
        "| operator | acme | z |",
        "|---|---|---|",
        "| `add` | float32, worst 0.12 | not tested |",
        "| `linear` | float32, float16, worst 0.75 | **failed** with 1 of 2 types |",
        "| `mul` | reference on the host | not tested |",
        "| `silu` | declined | not tested |",
    ]


def test_models_stand_with_their_package():
    acme = support(ADD, LLAMA, packages={"TinyForCausalLM": "perfxlm-tiny 2"})
    assert models_table([acme]).splitlines()[2:] == [
        "| `TinyForCausalLM` | perfxlm-tiny 2 | float32, worst 0.25 |"
    ]


def test_only_what_is_between_the_markers_is_written():
    assert filled(PAGE.format("models"), {"models": "new", "all": "x"}) == PAGE.format(
        "models"
    ).replace("old", "new")
    assert filled("no markers", {"models": "new"}) == "no markers"


@given(st.lists(FACTS, min_size=1))
def test_writing_twice_changes_nothing(facts):
    contents = document([support(*facts)])
    once = filled(PAGE.format("all"), contents)
    assert filled(once, contents) == once
    for fact in facts:
        assert f"`{fact.op}`" in once or fact.op in ("model", "graph")


def test_what_changed_since_is_named():
    known = support(ADD, LINEAR, LLAMA)
    same = [f.key for f in known.facts]
    now = ("perfxlm-acme 1.2", "a chip")
    assert differences(known, same, *now) == []
    assert differences(known, same, "perfxlm-acme 1.3", "a chip") == [
        "acme: made with perfxlm-acme 1.2, now perfxlm-acme 1.3"
    ]
    changed = [ADD.key, ("linear", "acme.linear", "float32", "q8_0")]
    never = "acme: linear acme.linear float32 q8_0 was never tried"
    gone = "acme: linear acme.linear float32 q4_0 is not there any more"
    assert differences(known, changed, *now) == [never, gone]
    assert differences(known, changed, "perfxlm-acme 1.2", "another chip") == [never]
    assert differences(known, [*changed, ("linear", "acme.linear", "float16", "q8_0")], *now) == [
        f"{never}, nor 1 other types of it", gone
    ]  # fmt: skip
    new = [*same, ("model", "NewForCausalLM", "float32", "-")]
    assert differences(known, new, *now) == ["acme: model NewForCausalLM float32 was never tried"]


@pytest.fixture
def checkout(tmp_path):
    """The documents of this checkout, alone, and its results."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs/support", tmp_path / "docs/support")
    shutil.copy(ROOT / "docs/support.md", tmp_path / "docs")
    return tmp_path


def test_this_checkout_is_current():
    """If it is not: `perfxlm support --update --write`."""
    said = perfxlm("support", "--check", "--folder", str(ROOT))
    assert said.stdout == ""
    assert said.returncode == 0


def test_a_table_written_by_hand_and_results_without_a_kernel_are_noticed(checkout):
    readme, results = checkout / "README.md", checkout / "docs/support/cpu.json"
    readme.write_text(readme.read_text().replace(", worst ", ", best "))
    results.write_text(
        "\n".join(n for n in results.read_text().split("\n") if '"cpu.rms_norm"' not in n)
    )
    said = perfxlm("support", "--check", "--folder", str(checkout), PERFXLM_PLUGINS="cpu")
    assert said.returncode == 1
    assert "README.md: its tables are not those of docs/support" in said.stdout
    assert "cpu: rms_norm cpu.rms_norm float32 was never tried" in said.stdout
    assert "perfxlm support --update --write" in said.stdout


def test_results_of_another_machine_are_taken_in(checkout):
    file = checkout / "run.json"
    file.write_text(json.dumps(report(ADD, LINEAR)))
    said = perfxlm("support", "--from", str(file), "--update", "--write", "--folder", str(checkout))
    assert said.returncode == 0, said.stderr
    assert load(checkout / "docs/support/acme.json").facts == (ADD, LINEAR)
    page = (checkout / "docs/support.md").read_text()
    assert "| `acme.linear` | `linear` | float32 | q4_0 | 48 | 2 | passed, worst 0.5 |" in page
    assert "* acme: perfxlm-acme 1.2 on a chip; perfxlm 0.1.0, 2026-01-31, 50 cases" in page
    assert "perfxlm-acme 1.2 on a chip" in (checkout / "README.md").read_text()


def test_without_options_it_prints_tables_and_writes_nothing(checkout):
    file = checkout / "run.json"
    file.write_text(json.dumps(report(ADD, LINEAR)))
    said = perfxlm("support", "--from", str(file), "--folder", str(checkout))
    assert said.returncode == 0, said.stderr
    assert "| `add` | float32, worst 0.12 |" in said.stdout
    assert sorted(p.name for p in (checkout / "docs/support").iterdir()) == sorted(
        p.name for p in (ROOT / "docs/support").iterdir()
    )


def test_a_folder_that_is_no_checkout_is_said_to_be_none(tmp_path):
    said = perfxlm("support", "--write", "--folder", str(tmp_path))
    assert said.returncode == 2
    assert "use --folder CHECKOUT" in said.stderr


def test_a_file_that_is_no_report_is_named(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("{}")
    said = perfxlm("support", "--from", str(file))
    assert said.returncode == 2
    assert f"{file}: not a report of perfxlm conformance --json" in said.stderr
