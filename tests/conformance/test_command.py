"""The ways to run the kit: the command, pytest without a test file, and with one of two lines."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from perfxlm_core.cli import conformance, conformance_page
from perfxlm_core.conformance import Row
from perfxlm_core.conformance.report import report
from perfxlm_core.conformance.target import Facts

from ..cli.command import perfxlm
from . import hostile

WAY = ("-p", "perfxlm_core.conformance")
TWO_LINES = """
import pytest
from perfxlm_core.conformance.suite import *

@pytest.fixture(scope="session")
def perfxlm_plugin():
    return "{}"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    hostile.write(folder)
    return folder


def run_pytest(folder, *arguments, site=None):
    """Pytest as a process of its own in a folder: exit code, and what it said."""
    paths = os.pathsep.join(map(str, [site] if site else []))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments], cwd=folder,
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


# The command


def test_the_command_passes_the_cpu_plugin(tmp_path):
    files = [tmp_path / "report.json", tmp_path / "report.html"]
    done = perfxlm(
        "conformance", "cpu", "--op", "rms_norm", "--examples", "20", "--seed", "3",
        "--json", files[0], "--html", files[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 cases; rows: 1 passed" in done.stdout
    report = json.loads(files[0].read_text())
    (row,) = report["rows"]
    assert (row["kernel"], row["status"], row["passed"]) == ("cpu.rms_norm", "passed", 20)
    assert report["distribution"].startswith("perfxlm-cpu ")
    assert (report["plugin"], report["device"]["name"]) == ("cpu", "cpu")
    assert (report["examples"], report["seed"], report["large"]) == (20, 3, False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report["date"])
    assert self_contained(files[1].read_text())


def test_the_same_seed_gives_the_same_report(tmp_path):
    found = []
    for file in (tmp_path / "one.json", tmp_path / "two.json"):
        perfxlm("conformance", "cpu", "--op", "gelu", "--examples", "10", "--json", file)
        rows = json.loads(file.read_text())["rows"]
        found.append([{k: v for k, v in r.items() if k != "seconds"} for r in rows])
    assert found[0] == found[1]


def test_jobs_change_nothing_but_the_time(tmp_path):
    reports = []
    for jobs in (1, 2):
        file = tmp_path / f"{jobs}.json"
        done = perfxlm(
            "conformance", "cpu", "--op", "embedding", "--examples", "10", "--jobs", str(jobs),
            "--json", file,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = json.loads(file.read_text())["rows"]
        assert len(rows) > 2
        reports.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert reports[0] == reports[1]


def test_a_crash_in_one_of_several_jobs_is_one_row(site):
    done = perfxlm(
        "conformance", "hostile_at_times", "--op", "silu", "--examples", "20", "-j", "2",
        PYTHONPATH=str(site),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "crash: its process died of SIGSEGV" in done.stdout


def test_what_runs_as_reference_is_said():
    done = perfxlm("conformance", "cpu", "--op", "greedy")
    assert done.returncode == 0, done.stderr
    assert "Runs as reference on the host: greedy\n" in done.stdout
    assert "0 cases; rows: 1 reference" in done.stdout


def test_whole_plans_are_rows():
    done = perfxlm("conformance", "cpu", "--op", "model", "--examples", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^model +LlamaForCausalLM .* passed +[123] ", done.stdout, re.MULTILINE)


def test_a_kernel_that_was_hardly_tried_is_named():
    row = Row("mul", "acme.mul", "float32", passed=3, declined=177, reason="declines all but 127")
    said = "acme.mul float32 took only 3 of 180 cases: declines all but 127"
    assert said in conformance.hardly_tried(row)
    made = report(Facts("acme"), [row], examples=60, seed=0, large=False)
    assert "passed, hardly tried" in conformance_page.page(made)


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    done = perfxlm("conformance", "cpu", "--op", "mul", "--html", tmp_path / "nowhere/page.html")
    assert done.returncode == 2
    assert "there is no folder" in done.stderr
    assert not done.stdout


def test_large_cases_run():
    done = perfxlm("conformance", "cpu", "--op", "rms_norm", "--large", "--examples", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cases; rows: 1 passed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no plugin called 'nonsense' is installed (there are: cpu"),
        (["cpu", "--op", "nonsense"], "no operator is called 'nonsense'; there are add, "),
        (["cpu", "--timeout", "0"], "0.0 is not in the range"),
    ],
)
def test_the_command_refuses_what_is_not_there(arguments, said):
    done = perfxlm("conformance", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_failure_is_on_the_page_with_its_python(site, tmp_path):
    page = tmp_path / "report.html"
    done = perfxlm(
        "conformance", "hostile_at_times", "--op", "silu", "--examples", "20", "--html", page,
        PYTHONPATH=str(site),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    text = page.read_text()
    assert self_contained(text)
    assert "crash: its process died of SIGSEGV" in text
    assert "check(&#x27;hostile_at_times&#x27;, case" in text


def self_contained(page):
    """Whether a page is well-formed, and loads nothing."""
    void, open_tags, loads = {"meta", "br", "hr", "!doctype"}, [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            loads.extend(k for k, _ in attrs if k in ("src", "href"))
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Reader().feed(page)
    return not open_tags and not loads and "script" not in page


# Pytest without a file

FEW = ("--perfxlm-plugin", "cpu", "--perfxlm-examples", "3")


def test_pytest_needs_no_file(tmp_path):
    code, said = run_pytest(tmp_path, *WAY, *FEW, "-v", "-k", "rms_norm or greedy")
    assert code == 0, said
    assert "perfxlm::test_operator[cpu.rms_norm-float32] PASSED" in said
    assert "perfxlm::test_operator[greedy] SKIPPED" in said
    assert "1 passed, 1 skipped" in said


def test_files_beside_are_left_alone_until_they_are_named(tmp_path):
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n")
    op = ("--perfxlm-op", "rms_norm")
    assert "1 passed" in run_pytest(tmp_path, *WAY, *FEW, *op)[1]
    assert "2 passed" in run_pytest(tmp_path, *WAY, *FEW, *op, "test_mine.py")[1]
    assert "PASSED test_mine.py::test_mine\n" in run_pytest(tmp_path, *WAY)[1]


def test_pytest_in_parallel(tmp_path):
    pytest.importorskip("xdist")
    code, said = run_pytest(tmp_path, *WAY, *FEW, "-n2", "-k", "norm or silu")
    assert code == 0, said
    assert "4 passed" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--perfxlm-plugin", "nonsense"], "perfxlm: no plugin called 'nonsense' is installed"),
        (["--perfxlm-plugin", "cpu", "--perfxlm-op", "nonsense"], "no operator is called"),
        (["--perfxlm-plugin", "dying"], "its process died of SIGSEGV"),
    ],
)
def test_pytest_says_what_cannot_be_tested(site, tmp_path, arguments, said):
    needs = site if "dying" in arguments else None
    code, text = run_pytest(tmp_path, *WAY, *arguments, site=needs)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert said in text
    assert "INTERNALERROR" not in text


# Pytest with two lines


def test_two_lines_are_a_test_file(tmp_path):
    (tmp_path / "test_acme.py").write_text(TWO_LINES.format("cpu"))
    code, said = run_pytest(tmp_path, "-W", "error", "-k", "cpu.add or plugin_has")
    assert code == 0, said
    assert "PASSED test_acme.py::test_operator[cpu.add-float32]" in said
    assert "PASSED test_acme.py::test_the_plugin_has_kernels" in said


def test_options_count_for_the_file_as_well(tmp_path):
    (tmp_path / "test_acme.py").write_text(TWO_LINES.format("cpu"))
    name = "test_acme.py::test_operator[cpu.add-float32]"
    options = ("--perfxlm-op", "add", "--perfxlm-examples", "2", "--perfxlm-seed", "5")
    code, said = run_pytest(tmp_path, *WAY, *options, name)
    assert code == 0, said
    assert "1 passed" in said


def test_a_crash_fails_one_test_and_shows_its_python(site, tmp_path):
    (tmp_path / "test_acme.py").write_text(TWO_LINES.format("hostile"))
    code, said = run_pytest(tmp_path, "-k", "segfault or chatty", site=site)
    assert code == 1, said
    assert "hostile.segfault: crash: its process died of SIGSEGV" in said
    assert "check('hostile', case, kernel='hostile.segfault')" in said
    assert "1 failed, 1 passed" in said


@pytest.mark.parametrize(
    ("source", "said"),
    {
        "broken": (TWO_LINES.format("leaving"), "ended its process with exit code 4"),
        "unnamed": (TWO_LINES.split("@")[0], "name the plugin with a fixture perfxlm_plugin"),
        "arguments": (
            TWO_LINES.replace("plugin()", "plugin(tmp_path_factory)"),
            "the fixture perfxlm_plugin must not take arguments: ('tmp_path_factory',)",
        ),
    }.values(),
    ids=["broken", "unnamed", "arguments"],
)
def test_a_file_that_cannot_be_collected_says_why(site, tmp_path, source, said):
    (tmp_path / "test_acme.py").write_text(source)
    code, text = run_pytest(tmp_path, site=site)
    assert code == pytest.ExitCode.INTERRUPTED
    assert said in text
    assert "Traceback" not in text


def test_the_python_of_the_document_runs():
    text = (Path(__file__).parents[2] / "docs/conformance.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(first, {})
    space = {"__name__": "test_acme"}
    exec(second, space)
    assert callable(space["test_operator"])
