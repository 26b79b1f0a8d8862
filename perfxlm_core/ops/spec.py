"""An operator is one annotated function; everything else about it is derived here.

    @op(onnx=Standard("RMSNormalization", 23, eps="epsilon"))
    def rms_norm(
        x: Annotated[Array, "*batch hidden", T],
        weight: Annotated[Array, "hidden", T],
        *,
        eps: float = 1e-6,
    ) -> Annotated[Array, "*batch hidden", T]:
        ...float32/float64 NumPy body...

Called on arrays the operator checks them and computes; called on a graph's values it adds a node.
Dimensions are words: the same word has one length throughout a call. `*word` stands for any
number of leading dimensions, `...` for any shape at all, `word+1` and numbers for themselves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from perfxlm_core.errors import OperatorError
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import DTypes, Shape, dtype_name

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of a value; `shape` is None where it is known only when the graph runs.

    `dtype` is a dtype's name or, for constants, a quantized format's.
    """

    shape: Shape | None
    dtype: str


@dataclass(frozen=True)
class Param:
    """One array that an operator takes or gives."""

    name: str
    dims: tuple[str, ...]
    dtype: DTypes
    optional: bool = False
    variadic: bool = False

    @property
    def any_shape(self) -> bool:
        """Whether the definition leaves the shape open."""
        return self.dims == ("...",)

    @property
    def is_cache(self) -> bool:
        """Whether it lies in the blocks of the paged cache."""
        return self.dims[:2] == ("blocks", "block_size")


@dataclass(frozen=True)
class Standard:
    """The ONNX operator that computes the same.

    Args:
        name: ONNX operator type.
        since: opset that introduced the form we map to.
        attributes: our attribute name -> ONNX attribute name.
    """

    name: str
    since: int
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __init__(self, name: str, since: int, **attributes: str) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "since", since)
        object.__setattr__(self, "attributes", attributes)


class Symbolic:
    """A value of a graph that is being built; operators called on one add a node to its graph."""

    type: TensorType

    def emit(
        self, node_op: Op[..., Any], inputs: Mapping[str, Any], attrs: Mapping[str, Any]
    ) -> Any:  # noqa: ANN401
        """Add a node and return what it gives."""
        raise TypeError(f"{type(self).__name__} does not build graphs")  # a subclass's duty


Inference = Callable[..., Sequence[TensorType]]


class Op(Generic[P, R]):
    """An operator: its definition, and what is derived from it.

    Attributes:
        name: snake_case noun phrase, unique.
        since: version of the definition, raised when its signature changes.
        params: arrays taken, in order.
        outputs: arrays given; empty for an operator that only `updates` its arguments.
        attributes: name -> default (`inspect.Parameter.empty` when it must be given).
        updates: names of params that the operator writes in place (caches).
        composite: the body is made of other operators, and may stand in for the node.
        tolerance: dtype name -> largest error allowed a kernel, against the float64 reference,
            relative to the largest magnitude in the same row of the result.
        onnx: the standard operator that it is, if there is one.
        batch_invariant: every kernel promises that a row of the result (an index of the leading
            dimension: a token, a sequence) has the same bits whatever other rows are computed with
            it, and wherever among them it stands.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        since: int,
        composite: bool,
        optional: bool,
        updates: Sequence[str],
        outputs: Sequence[str],
        requires: Callable[..., None] | None,
        tolerance: Mapping[str, float],
        onnx: Standard | None,
        batch_invariant: bool,
    ) -> None:
        self.fn = fn
        self.name = fn.__name__
        self.since = since
        self.composite = composite
        self.optional = optional
        self.updates = tuple(updates)
        self.requires = requires
        self.tolerance = dict(tolerance)
        self.onnx = onnx
        self.batch_invariant = batch_invariant
        self.__doc__ = fn.__doc__
        self.__name__ = fn.__name__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn
        self._infer: Inference | None = None
        self.params, self.attributes = _parse_parameters(fn)
        self.outputs = _parse_outputs(fn, outputs)
        self.signature = inspect.signature(fn)

    def __repr__(self) -> str:
        return f"ops.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.__module__, self.name)

    @property
    def kernel_parameters(self) -> tuple[str, ...]:
        """Names that a kernel takes, in order: outputs, inputs, then attributes by keyword."""
        return (*(o.name for o in self.outputs), *(p.name for p in self.params), *self.attributes)

    @property
    def activation(self) -> DTypes | None:
        """The dtype variable that a kernel's `dtypes` speak of; None if there is no choice.

        `T` where there is one, else that of the first input which leaves a choice.
        """
        found = [p.dtype for p in self.params if p.dtype.name not in ("C", "F32", "W")]
        named = [d for d in found if d.name == "T"] or [d for d in found if len(d.allowed) > 1]
        return named[0] if named else None

    def shapes(self, infer: Inference) -> Inference:
        """Decorator: replace derived shape inference by `infer(*types, **attrs) -> types`."""
        self._infer = infer
        return infer

    def bind(self, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
        """Split a call's arguments into arrays by name (None if left out) and attributes.

        Raises:
            OperatorError: arguments missing or unknown.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise OperatorError(f"{self.name}: {error}; signature is {self.signature}") from None
        bound.apply_defaults()
        names = {p.name for p in self.params}
        inputs = {k: v for k, v in bound.arguments.items() if k in names}
        attrs = {k: v for k, v in bound.arguments.items() if k not in names}
        return inputs, attrs

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute on arrays, or add a node when given a graph's values."""
        inputs, attrs = self.bind(*args, **kwargs)
        symbolic = next((v for v in _flatten(inputs.values()) if isinstance(v, Symbolic)), None)
        if symbolic is not None:
            return symbolic.emit(self, inputs, attrs)
        self.infer({k: type_of(v) for k, v in inputs.items()}, attrs)
        return self.fn(*args, **kwargs)

    def infer(self, inputs: Mapping[str, Any], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
        """Types of the outputs for inputs of these types; the arguments' check as well.

        Args:
            inputs: param name -> `TensorType`, None when left out, a list when variadic.
            attrs: attribute name -> value.

        Raises:
            OperatorError: a shape, dtype or attribute is outside the definition.
        """
        env = Unifier(self)
        for param in self.params:
            given = inputs.get(param.name)
            if given is None:
                if not param.optional:
                    raise OperatorError(f"{self.name}: {param.name} is missing")
                continue
            for one in given if isinstance(given, list | tuple) else [given]:
                env.match(param, one)
        if self.requires is not None:
            try:
                self.requires(env.dims, **attrs)
            except ValueError as error:
                raise OperatorError(f"{self.name}: {error}") from None
        if self._infer is not None:
            return tuple(self._infer(*(inputs.get(p.name) for p in self.params), **attrs))
        return tuple(env.make(out) for out in self.outputs)


class Unifier:
    """Words of an operator's annotations against the shapes and dtypes of one call."""

    def __init__(self, owner: Op[..., Any]) -> None:
        self.op = owner
        self.dims: dict[str, Any] = {}
        self.dtypes: dict[str, str] = {}

    def match(self, param: Param, given: TensorType) -> None:
        """Bind the words of `param` to `given`, or say what disagrees."""
        self._match_dtype(param, given.dtype)
        if given.shape is None or param.any_shape:
            return
        shape, dims = list(given.shape), list(param.dims)
        if dims and dims[0].startswith("*"):
            lead = len(shape) - (len(dims) - 1)
            if lead < 0:
                self._fail(param, given, f"at least {len(dims) - 1} dimensions")
            self._bind(param, given, dims.pop(0), tuple(shape[:lead]))
            shape = shape[lead:]
        if len(shape) != len(dims):
            self._fail(param, given, f"{len(dims)} dimensions ({' '.join(param.dims)})")
        for word, length in zip(dims, shape, strict=True):
            self._bind(param, given, word, length)

    def _match_dtype(self, param: Param, dtype: str) -> None:
        var = param.dtype
        if not var.accepts(dtype):
            allowed = ", ".join(var.allowed)
            raise OperatorError(f"{self.op.name}: {param.name} has dtype {dtype}, want {allowed}")
        if var.any_format or not var.allowed:
            return
        first = self.dtypes.setdefault(var.name, dtype)
        if first != dtype:
            raise OperatorError(
                f"{self.op.name}: {param.name} has dtype {dtype}, but {var.name} is {first} here"
            )

    def _bind(self, param: Param, given: TensorType, word: str, length: Any) -> None:  # noqa: ANN401
        if word == "_":
            return
        base, plus = (word[:-2], 1) if word.endswith("+1") else (word, 0)
        want = int(base) if base.isdigit() else self.dims.get(base)
        have = length - plus if plus else length
        if want is None:
            self.dims[base] = have
        elif want != have:
            self._fail(param, given, f"'{word}' = {want + plus if plus else want}")

    def _fail(self, param: Param, given: TensorType, want: str) -> None:
        raise OperatorError(f"{self.op.name}: {param.name} has shape {given.shape}, want {want}")

    def make(self, out: Param) -> TensorType:
        """The type of an output, from what the inputs bound."""
        dtype = self.dtypes.get(out.dtype.name) or out.dtype.allowed[0]
        shape: list[Any] = []
        for word in out.dims:
            base, plus = (word[:-2], 1) if word.endswith("+1") else (word, 0)
            if base.isdigit():
                shape.append(int(base))
            elif base not in self.dims:
                return TensorType(None, dtype)
            elif word.startswith("*"):
                shape.extend(self.dims[base])
            else:
                shape.append(self.dims[base] + plus if plus else self.dims[base])
        return TensorType(tuple(shape), dtype)


def op(
    *,
    since: int = 1,
    composite: bool = False,
    optional: bool = False,
    updates: Sequence[str] = (),
    outputs: Sequence[str] = ("out",),
    requires: Callable[..., None] | None = None,
    tolerance: Mapping[str, float] | None = None,
    onnx: Standard | None = None,
    batch_invariant: bool = False,
) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Make the decorated function an operator; see the module's docstring and `Op`.

    Args:
        since: version of the definition.
        composite: the body is made of other operators.
        optional: a capability; devices may lack it.
        updates: params written in place.
        outputs: names of the results, for kernels; more than one when a tuple is returned.
        requires: `(dims, **attrs)`, raises ValueError for what the definition forbids.
        tolerance: dtype -> relative error allowed (`Op.tolerance`).
        onnx: the standard operator that computes the same.
        batch_invariant: rows do not depend on their batch (`Op.batch_invariant`).
    """
    default = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}

    def decorate(fn: Callable[P, R]) -> Op[P, R]:
        return Op(
            fn,
            since=since,
            composite=composite,
            optional=optional,
            updates=updates,
            outputs=outputs,
            requires=requires,
            tolerance=default if tolerance is None else tolerance,
            onnx=onnx,
            batch_invariant=batch_invariant,
        )

    return decorate


def type_of(value: Any) -> Any:  # noqa: ANN401 - arrays, constants, lists of them, None
    """The `TensorType` of an argument (a list of them for a variadic one; None stays None)."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [type_of(v) for v in value]
    if isinstance(value, Symbolic):
        return value.type
    if isinstance(value, Tensor):
        return TensorType(value.shape, value.format)
    array = np.asarray(value) if np.isscalar(value) else value
    return TensorType(tuple(array.shape), dtype_name(array.dtype))


def _flatten(values: Any) -> Any:  # noqa: ANN401
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


_WORD = re.compile(r"\.\.\.|\*?[a-z_][a-z0-9_]*(\+1)?|\d+|_")


def _parse_array(name: str, hint: Any, *, optional: bool, variadic: bool) -> Param:  # noqa: ANN401
    _, dims, dtype = get_args(hint)
    words = tuple(dims.split())
    bad = [w for w in words if not _WORD.fullmatch(w)]
    if bad or not isinstance(dtype, DTypes):
        raise TypeError(f"{name}: annotation must be Annotated[Array, 'dims', DTypes], bad {bad}")
    return Param(name, words, dtype, optional, variadic)


def _array_hint(hint: Any) -> tuple[Any, bool] | None:  # noqa: ANN401
    """The Annotated part of `hint` and whether it sits inside a Sequence."""
    if get_origin(hint) is Annotated:
        return hint, False
    for arg in get_args(hint):
        if get_origin(arg) is Annotated:
            return arg, get_origin(hint) is not None and "equence" in str(get_origin(hint))
    return None


def _parse_parameters(fn: Callable[..., Any]) -> tuple[tuple[Param, ...], dict[str, Any]]:
    hints = get_type_hints(fn, include_extras=True)
    params: list[Param] = []
    attributes: dict[str, Any] = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        found = _array_hint(hints.get(name))
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            attributes[name] = parameter.default
        elif found is None:
            raise TypeError(f"{fn.__name__}: {name} must be an annotated array or keyword-only")
        else:
            hint, variadic = found
            params.append(
                _parse_array(name, hint, optional=parameter.default is None, variadic=variadic)
            )
    return tuple(params), attributes


def _parse_outputs(fn: Callable[..., Any], names: Sequence[str]) -> tuple[Param, ...]:
    hint = get_type_hints(fn, include_extras=True).get("return")
    if hint is None or hint is type(None):
        return ()
    hints = [hint] if get_origin(hint) is Annotated else list(get_args(hint))
    if any(get_origin(h) is not Annotated for h in hints):
        hints = [h for h in hints if get_origin(h) is Annotated]
        return tuple(
            _parse_array(n, h, optional=False, variadic=True)
            for n, h in zip(names, hints, strict=True)
        )
    return tuple(
        _parse_array(n, h, optional=False, variadic=False)
        for n, h in zip(names, hints, strict=True)
    )


def _find(module: str, name: str) -> Any:  # noqa: ANN401
    import importlib

    return getattr(importlib.import_module(module), name)
