"""A vendor's bug is a line in `perfxlm plugins`, and nothing else breaks."""

import textwrap

import pytest

from .distributions import perfxlm, plugin

HEAD = """
from perfxlm_core import ops
from perfxlm_core.plugin import DeviceInfo, HostMemory, KernelSet, hookimpl, loop

PERFXLM_API_VERSION = 1

class Device(HostMemory):
    name = "NAME"
    def describe(self): return DeviceInfo("NAME", "NAME", "made for a test", 1 << 30)
    def free_memory(self): return 1 << 30
    def dtypes(self): return ["float32"]
    def program(self, launches, symbols): return loop(launches)

@hookimpl
def perfxlm_probe_devices():
    return [Device()]
"""
BROKEN = {
    "raises": ("import no_such_driver_library", "ModuleNotFoundError: No module named "
               "'no_such_driver_library'"),
    "syntax": ("def f(:", "SyntaxError: "),
    "exits": ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    "outdated": ("PERFXLM_API_VERSION = 99", "PluginError: written for plugin API 99, this perfxlm "
                 "speaks 1; install matching versions"),
    "unversioned": ("x = 1", "PluginError: written for plugin API None"),
    "signature": (HEAD + """
@hookimpl
def perfxlm_register_kernels(registry):
    kernels = KernelSet(vendor="signature", device="signature")
    @kernels.implements(ops.rms_norm)
    def rms_norm(out, x, weight): ...
    registry.extend(kernels)
""", "rms_norm: a kernel of rms_norm takes ['out', 'x', 'weight', 'eps'], this one has "
     "['out', 'x', 'weight']"),
    "halfway": (HEAD + """
@hookimpl
def perfxlm_register_kernels(registry):
    kernels = KernelSet(vendor="halfway", device="cpu")
    @kernels.implements(ops.add, priority=1000)
    def add(out, a, b): raise SystemError("must never run")
    registry.extend(kernels)
    raise RuntimeError("half-way through")
""", "RuntimeError: half-way through"),
    "misspelt": (HEAD + """
@hookimpl
def perfxlm_register_kernel(registry): ...
""", "unknown hook 'perfxlm_register_kernel'"),
    "incomplete": ("""
from perfxlm_core.plugin import hookimpl
PERFXLM_API_VERSION = 1
class Device:
    name = "incomplete"
@hookimpl
def perfxlm_probe_devices():
    return [Device()]
""", "lacks describe, free_memory, dtypes, allocate"),
    "noisy": ("raise ValueError('first line\\nsecond line')",
              "ValueError: first line second line"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for name, (source, _) in BROKEN.items():
        plugin(folder, name, textwrap.dedent(source).replace("NAME", name))
    return folder


@pytest.fixture(scope="module")
def listing(folder):
    done = perfxlm("plugins", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", BROKEN)
def test_each_is_one_line_that_says_why(listing, name):
    lines = [line for line in listing if line.startswith(name + " ")]
    assert len(lines) == 1
    assert f"perfxlm-{name} 1.2.3" in lines[0]
    assert "broken" in lines[0]
    assert BROKEN[name][1] in lines[0]


def test_the_others_work_all_the_same(folder, listing):
    assert any(line.startswith("cpu ") and " works " in line for line in listing)
    arguments = ("generate", "-q", "--raw", "-p", "One, two, three, four,", "--temperature", "0",
                 "--max-tokens", "4", "--max-model-len", "64")  # fmt: skip
    beside = perfxlm(*arguments, folder=folder)
    alone = perfxlm(*arguments, PERFXLM_PLUGINS="cpu")
    assert beside.returncode == 0, beside.stderr
    assert beside.stdout == alone.stdout


def test_without_the_working_ones_the_error_lists_what_went_wrong(folder):
    done = perfxlm("devices", folder=folder, PERFXLM_PLUGINS="raises,outdated")
    assert done.returncode == 2
    assert "plugin raises (perfxlm-raises 1.2.3): ModuleNotFoundError" in done.stderr
    assert "plugin outdated (perfxlm-outdated 1.2.3): PluginError" in done.stderr
    assert "cpu" not in done.stderr
    assert "pip install" not in done.stderr


def test_the_filter_names_what_is_loaded(folder):
    listed = perfxlm("plugins", folder=folder, PERFXLM_PLUGINS=" raises , exits ").stdout
    names = [line.split()[0] for line in listed.splitlines()[1:]]
    assert names == ["exits", "raises"]


def test_a_filter_that_leaves_nothing_is_named_in_the_error(folder):
    done = perfxlm("devices", folder=folder, PERFXLM_PLUGINS="nobody")
    assert done.returncode == 2
    assert "PERFXLM_PLUGINS='nobody'" in done.stderr
    assert 'pip install "perfxlm[cpu]"' in done.stderr
