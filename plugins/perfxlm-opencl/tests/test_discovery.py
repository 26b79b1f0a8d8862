"""Which devices are found, what they are called, and which profile they get."""

from dataclasses import replace

import pytest

from perfxlm_core.plugin import DeviceError
from perfxlm_core.registry.plugins import load_plugins
from perfxlm_opencl.discovery import PLATFORM, find_devices
from perfxlm_opencl.profiles import NAMES, PROFILE, Facts, choose


def test_simulators_are_found_only_by_name():
    assert not any("oclgrind" in d.platform.name.lower() for d in find_devices(""))
    assert all("oclgrind" in d.platform.name.lower() for d in find_devices("oclgrind"))


def test_devices_are_numbered(monkeypatch):
    monkeypatch.delenv(PLATFORM, raising=False)
    monkeypatch.setenv("PERFXLM_PLUGINS", "opencl")
    plugins = load_plugins()
    names = [d.name for d in plugins.devices]
    assert names == ["opencl", *(f"opencl:{i}" for i in range(1, len(names)))]
    assert len(names) >= 2
    assert plugins.device("opencl:1") is plugins.devices[1]


def test_an_unknown_platform_is_a_line_in_the_report(monkeypatch):
    monkeypatch.setenv(PLATFORM, "acme")
    monkeypatch.setenv("PERFXLM_PLUGINS", "opencl")
    (report,) = load_plugins().report
    assert "acme" in report.error
    assert "Portable Computing Language" in report.error


def test_profiles_fit_what_is_reported(device):
    assert choose(device.facts, "").name == "cpu"


@pytest.mark.parametrize("name", NAMES)
def test_a_forced_profile_has_only_what_the_device_has(open_device, name):
    plain, rich = open_device("pocl", name).profile, open_device("intel", name).profile
    assert plain.name == rich.name == name
    assert not (plain.fp16)
    assert not (plain.subgroup)
    assert not (plain.dot_product)
    assert plain.activation == "float32"
    wants = name in ("intel", "adreno", "mali")
    assert rich.fp16 == rich.dot_product == wants
    assert rich.subgroup == {"intel": 16, "adreno": 64}.get(name, 0)


def test_an_unknown_profile_lists_the_known(monkeypatch, device):
    monkeypatch.setenv(PROFILE, "vulkan")
    with pytest.raises(DeviceError, match="generic, cpu, intel, adreno, mali"):
        choose(device.facts)


@pytest.mark.parametrize(
    ("platform", "name", "profile"),
    [
        ("QUALCOMM Snapdragon(TM)", "QUALCOMM Adreno(TM) 740", "adreno"),
        ("QUALCOMM Snapdragon(TM)", "QUALCOMM", "adreno"),
        ("ARM Platform", "Mali-G710 r0p0", "mali"),
        ("Intel(R) OpenCL Graphics", "Intel(R) Iris(R) Xe Graphics", "intel"),
        ("Clover", "AMD Radeon Vega", "generic"),
    ],
)
def test_graphics_processors_by_name(device, platform, name, profile):
    facts = replace(device.facts, platform=platform, device=name, is_cpu=False)
    assert choose(facts, "").name == profile


def test_facts_are_those_of_the_device(device):
    facts = Facts.of(device.device)
    assert facts == device.facts
    assert facts.memory > facts.max_allocation > 1 << 20
