"""What is tested: a plugin's device and kernels, and the plain facts about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Protocol

from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.check import Outcome, run_case
from perfxlm_core.conformance.device import DeviceCase, run_device_case
from perfxlm_core.errors import DeviceError, PluginError
from perfxlm_core.registry.device import Device, kind_of
from perfxlm_core.registry.kernels import Kernel
from perfxlm_core.registry.plugins import GROUP, Plugins, load_plugins


@dataclass(frozen=True)
class KernelFacts:
    """A kernel, as a process that does not load its plugin knows it.

    Attributes:
        op: name of the operator that it implements.
        name: for tables.
        dtypes: activation dtypes accepted; None means all.
        formats: formats of constant weights accepted; None means plain dtypes.
        cache_dtypes: dtypes of KV caches accepted; None means all.
        index: its place among the kernels; names need not be unique.
    """

    op: str
    name: str
    dtypes: tuple[str, ...] | None = None
    formats: tuple[str, ...] | None = None
    cache_dtypes: tuple[str, ...] | None = None
    index: int = 0

    @staticmethod
    def of(kernel: Kernel, index: int) -> KernelFacts:
        """The facts of a kernel."""
        return KernelFacts(
            kernel.op.name,
            kernel.name,
            _names(kernel.dtypes),
            _names(kernel.formats),
            _names(kernel.cache_dtypes),
            index,
        )

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> KernelFacts:
        """From its fields after a way through JSON, which knows no tuples."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        return KernelFacts(**fields)


@dataclass(frozen=True)
class Facts:
    """A plugin, as a process that does not load it knows it.

    Attributes:
        name: the plugin's, as the user gave it.
        distribution: name and version of what was installed; "" for a device made by hand.
        device: the device's name.
        description: what the device says about itself, label -> text.
        dtypes: activation dtypes of the device.
        kernels: those that run on this kind of device.
        composites: composite operators that random graphs can hold, as "module:name".
    """

    name: str
    distribution: str = ""
    device: str = ""
    description: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    kernels: tuple[KernelFacts, ...] = ()
    composites: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Facts:
        """From what `plain` gave, after a way through JSON."""
        kernels = tuple(KernelFacts.from_plain(one) for one in plain["kernels"])
        names = {k: tuple(plain[k]) for k in ("dtypes", "composites")}
        return Facts(**{**plain, **names, "kernels": kernels})


class Executor(Protocol):
    """Where cases run: in this process (`Target`) or in a worker (`Session`)."""

    @property
    def facts(self) -> Facts:
        """What is tested."""
        ...

    def run(self, kernel: int, case: Any) -> Outcome:  # noqa: ANN401 - a case of any kind
        """Try a kernel, by its index, with a case; raises Failure.

        The index does not matter for a case of a whole plan.
        """
        ...


@dataclass(frozen=True)
class Target:
    """A device and its kernels in this process.

    Attributes:
        name: the plugin's, for messages.
        device: its first.
        kernels: those that run on this kind of device.
        distribution: name and version of what was installed.
    """

    name: str
    device: Device
    kernels: tuple[Kernel, ...]
    distribution: str = ""

    @staticmethod
    def of(name: str, device: Device, kernels: Iterable[Kernel], distribution: str = "") -> Target:
        """The kernels among `kernels` that run on `device`."""
        own = tuple(k for k in kernels if k.device == kind_of(device))
        return Target(name, device, own, distribution)

    @staticmethod
    def load(name: str) -> Target:
        """An installed plugin, by its own name or that of one of its devices.

        Other plugins are loaded only if none has this name.

        Raises:
            PluginError: it is broken, or not installed.
            DeviceError: it finds no device on this machine.
        """
        base = name.split(":")[0]
        own = entry_points(group=GROUP, name=base)
        plugins = load_plugins(own) if own else load_plugins()
        found = next((r for r in plugins.report if r.name == base), None)
        if found is not None and found.error:
            raise PluginError(f"plugin {name} ({found.distribution}) is broken: {found.error}")
        if found is not None and not found.devices:
            raise DeviceError(f"plugin {name} ({found.distribution}) has no device on this machine")
        device = found.devices[0] if found and ":" not in name else _device(plugins, name)
        owner = next(r for r in plugins.report if device in r.devices)
        every = [k for kernels in plugins.registry.kernels.values() for k in kernels]
        return Target.of(name, device, every, owner.distribution)

    @cached_property
    def facts(self) -> Facts:
        """What is tested."""
        from perfxlm_core.conformance.plans import composites

        info = self.device.describe()
        return Facts(
            self.name,
            self.distribution,
            self.device.name,
            {
                "vendor": info.vendor,
                "description": info.description,
                "total_memory": int(info.total_memory),
                "details": {str(k): str(v) for k, v in info.details.items()},
            },
            tuple(map(str, self.device.dtypes())),
            tuple(KernelFacts.of(k, i) for i, k in enumerate(self.kernels)),
            composites(self),
        )

    def run(self, kernel: int, case: Any, guard: bool = False) -> Outcome:  # noqa: ANN401
        """Try a kernel, by its index, with a case; or all kernels with a case of a whole plan.

        Args:
            kernel: index of the kernel.
            case: the case.
            guard: forbid pages beside operands; see `run_case`.

        Raises:
            Failure: something is wrong.
        """
        from perfxlm_core.conformance.plans import run_plan_case

        if isinstance(case, DeviceCase):
            return run_device_case(self.device, case)
        if not isinstance(case, Case):
            return run_plan_case(self, case)
        return run_case(self.device, self.kernels[kernel], case, guard=guard)


def _device(plugins: Plugins, name: str) -> Device:
    try:
        return plugins.device(name)
    except DeviceError as error:
        installed = ", ".join(sorted(p.name for p in entry_points(group=GROUP)))
        raise DeviceError(
            f"no plugin called {name!r} is installed (there are: {installed or 'none'}), "
            f"and {error}"
        ) from None


def _names(declared: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if declared is None else tuple(map(str, declared))
