"""Finding plugins, and surviving them: a vendor's bug is a line in a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import Any

from perfxlm_core.errors import DeviceError, PluginError
from perfxlm_core.registry import hooks
from perfxlm_core.registry.device import Device, kind_of
from perfxlm_core.registry.kernels import Registry

GROUP = "perfxlm.plugins"


@dataclass(frozen=True)
class Loaded:
    """What became of one plugin.

    Attributes:
        name: entry point's name.
        distribution: name and version of what was installed.
        devices: found on this machine.
        kernels: how many it delivered.
        error: why it was left out, in one line; None if it works.
    """

    name: str
    distribution: str
    devices: tuple[Device, ...] = ()
    kernels: int = 0
    error: str | None = None


@dataclass
class Plugins:
    """All plugins of this process, loaded."""

    report: list[Loaded] = field(default_factory=list)
    registry: Registry = field(default_factory=Registry)

    @property
    def devices(self) -> list[Device]:
        """Every device found, in the order of the plugins' names."""
        return [d for loaded in self.report for d in loaded.devices]

    def device(self, name: str | None = None) -> Device:
        """The device called `name` ("opencl" means its first); the first of all when None.

        Raises:
            DeviceError: there is none; the message lists what was found and what went wrong.
        """
        wanted = None if name in (None, "auto") else name
        for device in self.devices:
            if wanted is None or device.name == wanted or kind_of(device) == wanted:
                return device
        raise DeviceError(self._absence(wanted))

    def _absence(self, wanted: str | None) -> str:
        lines = [f"no device called {wanted!r}" if wanted else "no plugin offers a device"]
        if self.devices:
            lines.append(f"found: {', '.join(d.name for d in self.devices)}")
        lines += [f"plugin {r.name} ({r.distribution}): {r.error}" for r in self.report if r.error]
        lines += [
            f"plugin {r.name} ({r.distribution}): no devices on this machine"
            for r in self.report
            if not r.error and not r.devices
        ]
        if not self.report:
            lines.append(f"no plugin is installed{_filter_note()}")
        if not self.devices and not any(r.error for r in self.report):
            lines.append('install one, for example: pip install "perfxlm[cpu]"')
        return "; ".join(lines)


def _filter_note() -> str:
    chosen = os.environ.get("PERFXLM_PLUGINS")
    return "" if chosen is None else f" (PERFXLM_PLUGINS={chosen!r} restricts them)"


def chosen_names() -> set[str] | None:
    """Names of the plugins that `PERFXLM_PLUGINS` asks for; None where it does not restrict."""
    allowed = os.environ.get("PERFXLM_PLUGINS")
    return None if allowed is None else {n.strip() for n in allowed.split(",")}


def load_plugins(found: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load every installed plugin; one that fails is reported, and the rest still load.

    `PERFXLM_PLUGINS`, a comma-separated list of names, restricts which are looked at.

    Args:
        found: entry points to load instead of the installed ones.
    """
    plugins = Plugins()
    names = chosen_names()
    points = entry_points(group=GROUP) if found is None else found
    for point in sorted(points, key=lambda e: e.name):
        if names is not None and point.name not in names:
            continue
        own = Registry()
        try:
            devices = _load_one(point, own)
        except (Exception, SystemExit) as error:  # a vendor's bug is not ours to die from
            plugins.report.append(Loaded(point.name, _distribution(point), error=_one_line(error)))
            continue
        kernels = [k for ks in own.kernels.values() for k in ks]
        plugins.registry.extend(kernels)
        plugins.report.append(
            Loaded(point.name, _distribution(point), devices, kernels=len(kernels))
        )
    return plugins


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "?"


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _load_one(point: EntryPoint, registry: Registry) -> tuple[Device, ...]:
    import pluggy

    plugin: Any = point.load()
    _check_version(plugin)
    manager = pluggy.PluginManager("perfxlm")
    manager.add_hookspecs(hooks)
    manager.register(plugin, point.name)
    manager.check_pending()
    devices = tuple(d for found in manager.hook.perfxlm_probe_devices() for d in found)
    _check_devices(point.name, devices)
    if devices:
        manager.hook.perfxlm_register_kernels(registry=registry)
    return devices


def _check_version(plugin: Any) -> None:  # noqa: ANN401
    version = getattr(plugin, "PERFXLM_API_VERSION", None)
    accepted = (hooks.API_VERSION, hooks.API_VERSION - 1)
    if version not in accepted or version < 1:
        raise PluginError(
            f"written for plugin API {version}, this perfxlm speaks {hooks.API_VERSION}; "
            "install matching versions of perfxlm and the plugin"
        )


_DEVICE_METHODS = (
    "describe", "free_memory", "dtypes", "allocate", "view", "copy_in", "copy_out", "synchronize",
    "program",
)  # fmt: skip


def _check_devices(name: str, devices: Sequence[Device]) -> None:
    for device in devices:
        lacking = [m for m in _DEVICE_METHODS if not callable(getattr(device, m, None))]
        if lacking or not isinstance(getattr(device, "name", None), str):
            raise PluginError(f"{name}: device {device!r} lacks {', '.join(lacking) or 'a name'}")


def plugin_namespace(**hookimpls: Any) -> SimpleNamespace:  # noqa: ANN401
    """A plugin object from functions, for tests and programs that bring their own device."""
    return SimpleNamespace(PERFXLM_API_VERSION=hooks.API_VERSION, **hookimpls)
