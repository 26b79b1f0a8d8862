"""Rotary frequencies: every published way of stretching them, from a model's configuration.

A configuration says it in one of three ways: `rope_parameters` (one dictionary with everything),
`rope_theta` beside `rope_scaling` (the older form), or an explicit list of divisors
(`rope_freq_factors`, as GGUF files carry it). `rope_parameters` makes the first of the other two.

Rounding follows transformers' `modeling_rope_utils` step by step in float32, because a difference
of one unit in the last place of a frequency is a visible angle after some thousand tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfxlm_core.errors import ConfigError

Frequencies = NDArray[np.float32]
_LARGE = 1e30


@dataclass(frozen=True)
class _Request:
    """What a rope type computes from.

    Attributes:
        type: name of the rope type, for messages.
        given: its parameters.
        dim: rotated elements of a head.
        trained: longest sequence of the model's configuration.
        length: longest sequence that will be run.
    """

    type: str
    given: Mapping[str, Any]
    dim: int
    trained: int
    length: int

    def number(self, name: str, default: float | None = None) -> float:
        """The parameter `name`, a positive number; `default` if it is left out or null."""
        value = self.given.get(name)
        value = default if value is None else value
        if isinstance(value, int | float) and value is not True and 0 < value < _LARGE:
            return value
        raise ConfigError(f"rope type {self.type!r} has {name}={value!r}, want a positive number")

    def factors(self, name: str) -> Frequencies:
        """The parameter `name`, a positive number for each frequency."""
        return _factors(f"rope type {self.type!r}: {name}", self.given.get(name), self.dim // 2)

    @property
    def original(self) -> float:
        """Longest sequence before stretching."""
        return self.number("original_max_position_embeddings", self.trained)

    @property
    def stretch(self) -> float:
        """`factor`, or the ratio of the trained to the original length."""
        return self.number("factor", self.trained / self.original)


def _factors(what: str, values: object, count: int) -> Frequencies:
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        array = np.zeros(0, np.float32)
    if array.shape != (count,) or not (array > 0).all():
        raise ConfigError(f"{what} must be {count} positive numbers, one for each frequency")
    return array


def _wavelengths(base: float, dim: int) -> Frequencies:
    """`base ** (2 i / dim)`: the power in float64, rounded once."""
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.power(np.float64(base), exponent.astype(np.float64)).astype(np.float32)


def _plain(r: _Request, theta: float) -> tuple[Frequencies, float]:
    return np.float32(1) / _wavelengths(theta, r.dim), 1.0


def _linear(r: _Request, theta: float) -> tuple[Frequencies, float]:
    """Positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""
    return _plain(r, theta)[0] / np.float32(r.number("factor")), 1.0


def _dynamic(r: _Request, theta: float) -> tuple[Frequencies, float]:
    """A larger base for sequences beyond the trained length (NTK-aware scaling)."""
    factor, length = r.number("factor"), max(r.length, r.trained)
    if r.dim <= 2:
        raise ConfigError(f"rope type {r.type!r} needs heads wider than {r.dim} elements")
    grown = (factor * length / r.trained - (factor - 1)) ** (r.dim / (r.dim - 2))
    return _plain(r, theta * grown)


def _by_wavelength(r: _Request, theta: float) -> tuple[Frequencies, float]:
    """Long wavelengths divided by `factor`, short ones kept, a ramp between (Llama 3.1)."""
    factor, original = r.number("factor"), r.original
    low, high = r.number("low_freq_factor"), r.number("high_freq_factor")
    if low == high:
        raise ConfigError(f"rope type {r.type!r}: low_freq_factor and high_freq_factor are equal")
    inverse = _plain(r, theta)[0]
    wavelength = np.float32(2 * math.pi) / inverse
    scaled = np.where(wavelength > original / low, inverse / np.float32(factor), inverse)
    smooth = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
    blended = (1 - smooth) * scaled / np.float32(factor) + smooth * scaled
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return np.where(between, blended, scaled).astype(np.float32), 1.0


def _yarn(r: _Request, theta: float) -> tuple[Frequencies, float]:
    """Interpolation of slow frequencies only (Peng et al. 2023, arXiv:2309.00071)."""
    factor, half = r.stretch, r.dim // 2
    low, high = (
        r.dim * math.log(r.original / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (r.number("beta_fast", 32), r.number("beta_slow", 1))
    )
    if r.given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, r.dim - 1)
    high += 0.001 if low == high else 0.0
    steps = np.arange(half, dtype=np.float32)
    ramp = np.clip((steps - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    wavelengths = _wavelengths(theta, r.dim)
    kept = np.float32(1) / wavelengths
    stretched = np.float32(1) / (np.float32(factor) * wavelengths)
    weight = 1 - ramp
    return stretched * (1 - weight) + kept * weight, _yarn_attention(r, factor)


def _yarn_attention(r: _Request, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if r.given.get("attention_factor") is not None:
        return float(r.number("attention_factor"))
    if r.given.get("mscale") and r.given.get("mscale_all_dim"):
        return magnitude(r.number("mscale")) / magnitude(r.number("mscale_all_dim"))
    return magnitude(1)


def _longrope(r: _Request, theta: float) -> tuple[Frequencies, float]:
    """A searched divisor for each frequency (Ding et al. 2024, arXiv:2402.13753)."""
    long, short = r.factors("long_factor"), r.factors("short_factor")
    divisors = long if r.length > r.original else short
    inverse = np.float32(1) / (divisors * _wavelengths(theta, r.dim))
    factor = r.stretch
    default = math.sqrt(1 + math.log(factor) / math.log(r.original)) if factor > 1 else 1.0
    return inverse, float(r.number("attention_factor", default))


_Rule = tuple[Callable[[_Request, float], tuple[Frequencies, float]], frozenset[str]]
_STRETCHED = "factor original_max_position_embeddings attention_factor"
_TYPES: Mapping[str, _Rule] = {
    name: (rule, frozenset(parameters.split()))
    for name, rule, parameters in (
        ("default", _plain, ""),
        ("linear", _linear, "factor"),
        ("dynamic", _dynamic, "factor original_max_position_embeddings"),
        (
            "llama3",
            _by_wavelength,
            "factor low_freq_factor high_freq_factor original_max_position_embeddings",
        ),
        ("yarn", _yarn, f"{_STRETCHED} beta_fast beta_slow mscale mscale_all_dim truncate"),
        ("longrope", _longrope, f"{_STRETCHED} long_factor short_factor"),
    )
}
_ALIASES = {"none": "default", "su": "longrope"}
_SHARED = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
_NEUTRAL = {"extrapolation_factor": 1.0}

ROPE_TYPES = tuple(_TYPES)
"""Rope types that `inverse_frequencies` computes."""


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """One dictionary of rotary parameters from a configuration of either form.

    Args:
        config: a model's configuration; read are `rope_parameters`, `rope_scaling`, `rope_theta`,
            `partial_rotary_factor` and `original_max_position_embeddings`.

    Returns:
        At least `rope_type` and `rope_theta`; what stands inside wins over what stands beside,
        except for the original length.

    Raises:
        ConfigError: something other than a dictionary of numbers and lists, or one dictionary for
            each kind of layer.
    """
    inside = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(inside, Mapping):
        raise ConfigError(f"rope_parameters is {inside!r}, want a dictionary")
    nested = [name for name, value in inside.items() if isinstance(value, Mapping)]
    if nested:
        raise ConfigError(
            f"rope_parameters differ between kinds of layers ({', '.join(nested)}); this recipe "
            "rotates all layers alike"
        )
    found = {name: value for name, value in inside.items() if value is not None}
    found["rope_type"] = found.get("rope_type", found.pop("type", "default"))
    for name, default in (("rope_theta", 10_000.0), ("partial_rotary_factor", 1.0)):
        beside = config.get(name)
        found.setdefault(name, default if beside is None else beside)
    if config.get("original_max_position_embeddings") is not None:
        found["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    return found


def inverse_frequencies(
    parameters: Mapping[str, Any],
    head_dim: int,
    max_position_embeddings: int,
    *,
    length: int | None = None,
    freq_factors: Sequence[float] | None = None,
) -> tuple[Frequencies, float]:
    """Angle of one position step for each rotated pair of a head.

    Two types depend on the length of the sequence: `dynamic` stretches only beyond
    `max_position_embeddings`, and `longrope` has divisors for short and for long sequences. A
    running engine keeps the keys of many sequences in one cache, so the decision is taken once,
    for the longest sequence that it may see, and holds for all of them.

    Args:
        parameters: as `rope_parameters` gives them.
        head_dim: elements of a head; the first `int(head_dim * partial_rotary_factor)` turn.
        max_position_embeddings: longest sequence of the model's configuration.
        length: longest sequence that will be run; `max_position_embeddings` when None.
        freq_factors: `[half]`, divides the frequencies once more.

    Returns:
        float32 `[half]`, `half` being half of the rotated elements, and the factor for both the
        cosines and the sines.

    Raises:
        ConfigError: the type is unknown, or a parameter is missing, unknown or out of range.

    Source:
        Su et al. 2021, arXiv:2104.09864; for the types, the functions above; parameters and
        rounding as in transformers' `modeling_rope_utils`.
    """
    name = parameters["rope_type"]
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in _TYPES:
        raise ConfigError(f"unknown rope type {name!r}; known are {', '.join(ROPE_TYPES)}")
    rule, known = _TYPES[name]
    _refuse_unknown(name, parameters, known)
    share = parameters.get("partial_rotary_factor", 1.0)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"partial_rotary_factor={share!r}, want a number above 0, up to 1")
    dim = int(head_dim * share)
    if dim < 2 or dim % 2:
        raise ConfigError(
            f"rotary positions would turn {dim} of {head_dim} elements of a head; want an even "
            "number, at least 2"
        )
    longest = max_position_embeddings if length is None else length
    request = _Request(name, parameters, dim, max_position_embeddings, longest)
    inverse, attention_factor = rule(request, request.number("rope_theta"))
    if freq_factors is not None:
        inverse = inverse / _factors("rope_freq_factors", freq_factors, dim // 2)
    return inverse.astype(np.float32), attention_factor


def _refuse_unknown(name: str, parameters: Mapping[str, Any], known: frozenset[str]) -> None:
    for key, value in parameters.items():
        if key not in known and key not in _SHARED and value != _NEUTRAL.get(key):
            raise ConfigError(
                f"rope type {name!r} has the parameter {key}={value!r}; it takes "
                f"{', '.join(sorted(known)) or 'none'}"
            )
