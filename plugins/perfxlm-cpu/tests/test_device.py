"""The device: what it finds out about the machine, and what may be asked of it."""

import subprocess
import sys

import pytest

from perfxlm_core.plugin import DeviceError
from perfxlm_core.registry.plugins import load_plugins
from perfxlm_cpu import topology
from perfxlm_cpu.device import CpuDevice, instruction_sets


@pytest.fixture
def machine(tmp_path):
    """Writes the files of a made-up machine."""

    def make(**files: str):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return lambda files: make(**files)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("PERFXLM_CPU_ISA", "PERFXLM_CPU_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_plugin_loads():
    plugins = load_plugins()
    loaded = next(r for r in plugins.report if r.name == "cpu")
    assert loaded.error is None
    assert loaded.kernels > 15
    assert plugins.device("cpu").describe().details["instruction set"]


def test_describe():
    device = CpuDevice(variant="generic", threads=3)
    info = device.describe()
    assert "3 threads" in info.description
    assert "generic" in info.details["instruction set"]
    assert 0 < device.free_memory() <= info.total_memory
    assert device.dtypes() == ["float32"]


def test_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert CpuDevice().pool.threads == 5
    monkeypatch.setenv("PERFXLM_CPU_THREADS", "4")
    assert CpuDevice().pool.threads == 4
    monkeypatch.setenv("PERFXLM_CPU_ISA", "generic")
    assert CpuDevice().variant == "generic"


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e3"])
def test_bad_threads(monkeypatch, value):
    monkeypatch.setenv("PERFXLM_CPU_THREADS", value)
    with pytest.raises(DeviceError, match=r"PERFXLM_CPU_THREADS=.*1 to 1024"):
        CpuDevice()


def test_bad_instruction_set(monkeypatch):
    monkeypatch.setenv("PERFXLM_CPU_ISA", "sse9")
    with pytest.raises(DeviceError, match=f"PERFXLM_CPU_ISA='sse9'.*{instruction_sets()[0]}"):
        CpuDevice()


def test_siblings_count_once(machine):
    pair = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = machine({pair.format(i): f"{i % 2},{i % 2 + 2}" for i in range(4)})
    assert topology.physical_cores(frozenset(range(4)), root) == 2
    assert topology.physical_cores(frozenset({1, 3}), root) == 1
    assert topology.physical_cores(frozenset({8, 9}), root) == 2


def test_quota_of_either_hierarchy(machine):
    root = machine(
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        }
    )
    assert topology.cpu_quota(root) == 1.5


def test_quota_of_the_old_hierarchy(machine):
    root = machine(
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n3:memory:/job\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        }
    )
    assert topology.cpu_quota(root) == 0.5


def test_no_quota(machine):
    assert topology.cpu_quota(machine({"proc/self/cgroup": "0::/\n"})) is None
    assert topology.cpu_quota(machine({"proc/other": ""})) is None


def test_memory_limit_of_a_group(machine):
    root = machine(
        {
            "proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 800000 kB\n",
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": "300000000",
            "sys/fs/cgroup/a/memory.current": "200000000",
            "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 50000000\n",
        }
    )
    assert topology.total_memory(root) == 300_000_000
    assert topology.available_memory(root) == 150_000_000


def test_import_is_light():
    code = (
        "import sys, perfxlm_core.plugin; before = set(sys.modules); import perfxlm_cpu; "
        "print([m for m in set(sys.modules) - before if not m.startswith('importlib')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['perfxlm_cpu']"


def test_limits(bench):
    """What one core of any machine does; a loop that was optimized away comes out far above."""
    device = CpuDevice(variant=bench.device.variant, threads=1)
    limits = device.limits()
    assert 1e9 < limits["read"] < 1e12
    assert 2e9 < limits["float32"] < 400e9
    assert limits["float32"] / 2 < limits["int8"] < 10 * limits["float32"]
