"""Kernels: what a vendor declares, and which of them runs a node.

Decorating a function only puts it into the plugin's own `KernelSet`; a hook delivers the set.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from perfxlm_core.errors import AmbiguousKernelError, PluginError
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Op, TensorType, Unifier
from perfxlm_core.registry.device import Device, Launch, Operand

F = TypeVar("F", bound=Callable[..., Any])


class Dims(SimpleNamespace):
    """Lengths of an operator's dimension words, by name: `d.hidden`, `d.head_dim`.

    A length that changes with every step is a symbolic `Dim`; a word that the call leaves out
    (an optional argument's own) is absent. Leading dimensions (`*batch`) are a tuple, `d.batch`.
    """


class Attributes(SimpleNamespace):
    """A node's attributes, by name: `a.eps`."""


@dataclass(frozen=True)
class Site:
    """A node about to be bound: everything a `binds` kernel may ask for.

    Attributes:
        op: the operator.
        attrs: its attributes.
        operands: inputs and outputs by the names of the definition; an input that was left out
            is None; a constant input is a `Tensor` on the host, for the kernel to pack; an input
            that may be given many times is a tuple of these.
        scratch: memory asked for by the kernel's `scratch`, private while the node runs.
        device: where it will run.
        pack: allocates device memory that lives as long as the plan and is counted as weights.
    """

    op: Op[..., Any]
    attrs: Attributes
    operands: Mapping[str, Operand | Tensor | tuple[Operand | Tensor, ...] | None]
    scratch: Operand | None
    device: Device
    pack: Callable[[int], Any]

    def operand(self, name: str) -> Operand:
        """The placed operand called `name`; raises PluginError if it is a constant or absent."""
        found = self.operands.get(name)
        if not isinstance(found, Operand):
            raise PluginError(f"{self.op.name}: {name} is not a placed operand but {found!r}")
        return found

    def constant(self, name: str) -> Tensor:
        """The constant called `name`; raises PluginError if it is computed by the graph."""
        found = self.operands.get(name)
        if not isinstance(found, Tensor):
            raise PluginError(f"{self.op.name}: {name} is not a constant but {found!r}")
        return found


Accepts = Callable[[Dims, Attributes], bool]
Bind = Callable[[Site], Launch]


@dataclass(frozen=True)
class Kernel:
    """One way to run an operator on one kind of device.

    Attributes:
        op: what it implements.
        vendor: the plugin it belongs to.
        device: device kind it runs on: the part of a device's name before the colon.
        function: the simple form, `f(out, *inputs, **attributes)`, or the two-phase
            form, `f(site) -> launch`, when `two_phase`.
        dtypes: activation dtypes accepted; None means all.
        formats: formats of constant weights accepted; None means plain dtypes only.
        cache_dtypes: dtypes of KV caches accepted; None means all.
        when: further condition on dimensions and attributes.
        constants: names of inputs that must be constants.
        priority: the highest that accepts a node runs it.
        scratch: bytes of scratch memory for a node, from its dims with every symbol at its
            largest.
        batch_invariant: promises what `Op.batch_invariant` says, also where the operator does not
            ask for it.
    """

    op: Op[..., Any]
    vendor: str
    device: str
    function: Callable[..., Any]
    two_phase: bool
    dtypes: tuple[str, ...] | None = None
    formats: tuple[str, ...] | None = None
    when: Accepts | None = None
    constants: tuple[str, ...] = ()
    priority: int = 0
    scratch: Callable[[Dims, Attributes], int] | None = None
    cache_dtypes: tuple[str, ...] | None = None
    batch_invariant: bool = False

    @property
    def name(self) -> str:
        """For tables: vendor and function."""
        return f"{self.vendor}.{self.function.__name__}"

    @property
    def promises_rows(self) -> bool:
        """Whether a row's bits do not depend on its batch: by the operator's word or its own."""
        return self.op.batch_invariant or self.batch_invariant

    def refusal(self, query: Query) -> str | None:
        """Why the kernel cannot run the node; None if it can."""
        if self.device != query.device_kind:
            return f"runs on {self.device}"
        activation, weight = query.dtypes, query.formats
        if self.dtypes is not None and activation and not activation <= set(self.dtypes):
            return f"dtype {', '.join(sorted(activation))} not in {self.dtypes}"
        if self.cache_dtypes is not None and query.cache_dtype not in (None, *self.cache_dtypes):
            return f"cache dtype {query.cache_dtype} not in {self.cache_dtypes}"
        known = self.formats or ()
        strange = {f for f in weight if f not in known and (known or not _plain(f))}
        if strange:
            return f"format {', '.join(sorted(strange))} not in {known or 'plain dtypes'}"
        computed = [n for n in self.constants if n not in query.constants]
        if computed:
            return f"{', '.join(computed)} must be constant"
        if self.when is not None and not self.when(query.dims, query.attrs):
            return f"declines {_describe(query)}"
        return None


def _plain(format_name: str) -> bool:
    from perfxlm_core.ops.formats import FORMATS

    return format_name not in FORMATS


def _describe(query: Query) -> str:
    parts = [f"{k}={v}" for k, v in {**vars(query.dims), **vars(query.attrs)}.items()]
    return ", ".join(parts) or "this node"


@dataclass(frozen=True)
class Query:
    """A node as kernels see it when they are asked whether they take it."""

    op: Op[..., Any]
    device_kind: str
    dims: Dims
    attrs: Attributes
    dtypes: frozenset[str]
    formats: frozenset[str]
    constants: frozenset[str]
    cache_dtype: str | None = None

    @staticmethod
    def of(
        op: Op[..., Any],
        types: Mapping[str, Any],
        attrs: Mapping[str, Any],
        constants: Iterable[str],
        device_kind: str,
    ) -> Query:
        """The question for a node with inputs of these types."""
        env = Unifier(op)
        formats: set[str] = set()
        for param in op.params:
            given = types.get(param.name)
            for one in given if isinstance(given, list) else [given] if given is not None else []:
                env.match(param, one)
                if param.dtype.any_format:
                    formats.add(one.dtype)
        activation = "" if op.activation is None else op.activation.name
        floats = {d for n, d in env.dtypes.items() if n == activation}
        if not floats and "dtype" in attrs:
            floats = {attrs["dtype"]}
        words = {k.removeprefix("*"): v for k, v in env.dims.items()}
        return Query(
            op,
            device_kind,
            Dims(**words),
            Attributes(**attrs),
            frozenset(floats),
            frozenset(formats),
            frozenset(constants),
            env.dtypes.get("C"),
        )


class KernelSet:
    """The kernels of one plugin for one kind of device.

    >>> from perfxlm_core import ops
    >>> kernels = KernelSet(vendor="acme", device="npu")
    >>> @kernels.implements(ops.add)
    ... def add(out, a, b): out[...] = a + b
    >>> [k.name for k in kernels]
    ['acme.add']
    """

    def __init__(self, *, vendor: str, device: str) -> None:
        self.vendor = vendor
        self.device = device
        self._kernels: list[Kernel] = []

    def __iter__(self) -> Iterator[Kernel]:
        return iter(self._kernels)

    def __len__(self) -> int:
        return len(self._kernels)

    def implements(
        self,
        op: Op[..., Any],
        *,
        dtypes: Sequence[str] | None = None,
        formats: Sequence[str] | None = None,
        cache_dtypes: Sequence[str] | None = None,
        when: Accepts | None = None,
        priority: int = 0,
        batch_invariant: bool = False,
    ) -> Callable[[F], F]:
        """Declare a simple kernel: the operator's own parameters, outputs first.

        Inputs arrive as the device's arrays; constants of a quantized format as `Tensor`.

        Raises:
            PluginError: the function's parameters are not those of the operator.
        """

        def decorate(function: F) -> F:
            have = tuple(inspect.signature(function).parameters)
            if have != op.kernel_parameters:
                raise PluginError(
                    f"{function.__module__}.{function.__qualname__}: a kernel of {op.name} takes "
                    f"{list(op.kernel_parameters)}, this one has {list(have)}"
                )
            self._add(
                op, function, two_phase=False, dtypes=dtypes, formats=formats,
                cache_dtypes=cache_dtypes, when=when, priority=priority,
                batch_invariant=batch_invariant,
            )  # fmt: skip
            return function

        return decorate

    def binds(
        self,
        op: Op[..., Any],
        *,
        dtypes: Sequence[str] | None = None,
        formats: Sequence[str] | None = None,
        cache_dtypes: Sequence[str] | None = None,
        when: Accepts | None = None,
        constants: Sequence[str] = (),
        priority: int = 0,
        scratch: Callable[[Dims, Attributes], int] | None = None,
        batch_invariant: bool = False,
    ) -> Callable[[F], F]:
        """Declare a two-phase kernel: `f(site) -> launch`, called once for each node.

        Raises:
            PluginError: the function does not take exactly one argument.
        """

        def decorate(function: F) -> F:
            have = tuple(inspect.signature(function).parameters)
            if len(have) != 1:
                raise PluginError(
                    f"{function.__module__}.{function.__qualname__}: a two-phase kernel takes the "
                    f"site alone, this one has {list(have)}"
                )
            self._add(
                op, function, two_phase=True, dtypes=dtypes, formats=formats,
                cache_dtypes=cache_dtypes, when=when, constants=tuple(constants),
                priority=priority, scratch=scratch, batch_invariant=batch_invariant,
            )  # fmt: skip
            return function

        return decorate

    def _add(
        self,
        op: Op[..., Any],
        function: Callable[..., Any],
        *,
        two_phase: bool,
        dtypes: Sequence[str] | None,
        formats: Sequence[str] | None,
        cache_dtypes: Sequence[str] | None,
        **rest: Any,  # noqa: ANN401 - fields of Kernel
    ) -> None:
        if not isinstance(op, Op):
            raise PluginError(f"{function.__qualname__}: {op!r} is not an operator")
        self._kernels.append(
            Kernel(
                op,
                self.vendor,
                self.device,
                function,
                two_phase,
                dtypes=None if dtypes is None else tuple(dtypes),
                formats=None if formats is None else tuple(formats),
                cache_dtypes=None if cache_dtypes is None else tuple(cache_dtypes),
                **rest,
            )
        )


@dataclass
class Registry:
    """All kernels that loaded plugins delivered."""

    kernels: dict[str, list[Kernel]] = field(default_factory=dict)

    def extend(self, kernels: Iterable[Kernel]) -> None:
        """Take over the kernels of a set."""
        for kernel in kernels:
            if not isinstance(kernel, Kernel):
                raise PluginError(f"{kernel!r} is not a Kernel; deliver a KernelSet")
            self.kernels.setdefault(kernel.op.name, []).append(kernel)

    def resolve(self, query: Query, prefer: Mapping[str, str] | None = None) -> Resolution:
        """Choose the kernel for a node.

        Args:
            query: the node.
            prefer: operator name -> vendor, the user's answer to a tie.

        Raises:
            AmbiguousKernelError: two vendors accept the node with the same priority.
        """
        candidates = self.kernels.get(query.op.name, [])
        refusals = tuple((k.name, r) for k in candidates if (r := k.refusal(query)) is not None)
        taken = sorted(
            (k for k in candidates if k.refusal(query) is None), key=lambda k: -k.priority
        )
        wanted = (prefer or {}).get(query.op.name)
        if wanted is not None:
            taken = [k for k in taken if k.vendor == wanted] or taken
        if not taken:
            return Resolution(None, refusals)
        best = [k for k in taken if k.priority == taken[0].priority]
        vendors = sorted({k.vendor for k in best})
        if len(vendors) > 1:
            raise AmbiguousKernelError(
                f"{query.op.name}: {' and '.join(vendors)} both offer a kernel of priority "
                f"{best[0].priority}; choose one with kernels={{{query.op.name!r}: {vendors[0]!r}}}"
            )
        lower = tuple((k.name, f"priority {k.priority}") for k in taken if k is not best[0])
        return Resolution(best[0], refusals + lower)


@dataclass(frozen=True)
class Resolution:
    """The kernel chosen (None if no device kernel takes the node) and why not the others."""

    kernel: Kernel | None
    refusals: tuple[tuple[str, str], ...]


__all__ = [
    "Attributes",
    "Dims",
    "Kernel",
    "KernelSet",
    "Query",
    "Registry",
    "Resolution",
    "Site",
    "TensorType",
]
