"""Random weights in any format, of a size that keeps activations of order one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perfxlm_core.conformance.plans.case import PlanCase
from perfxlm_core.conformance.values import SCALE_OFFSETS, constant, generator
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.types import numpy_dtype

STAND_IN = "float16"
"""Format of a weight whose rows are not whole blocks of the one wanted."""
SPREAD = 1.3
"""Standard deviation of a weight times the square root of its row's length."""


def random_weight(case: PlanCase, name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight called `name`, the same whenever it is asked for, between poisoned bytes.

    Matrices take one of the case's formats by their name; vectors are float32, around one.
    """
    rng = generator(case.seed, name, 0)
    if len(shape) < 2:
        return constant(name, (1 + 0.2 * rng.standard_normal(shape)).astype(np.float32))
    wanted = case.formats[zlib.crc32(name.encode()) % len(case.formats)]
    known = FORMATS.get(wanted)
    if known is not None and shape[-1] % known.block_size:
        known, wanted = None, STAND_IN
    spread = SPREAD / shape[-1] ** 0.5
    if known is None:
        values = rng.standard_normal(shape) * spread
        return constant(name, values.astype(numpy_dtype(wanted)))
    data = _blocks(rng, wanted, known.nbytes(shape), spread)
    return Tensor(name, shape, wanted, constant(name, data).data)


def _blocks(rng: np.random.Generator, name: str, nbytes: int, spread: float) -> Any:  # noqa: ANN401
    """Blocks of every code, their scales such that the decoded weights have this spread."""
    known = FORMATS[name]
    blocks = rng.integers(0, 256, nbytes, np.uint8).reshape(-1, known.block_bytes)
    _set_scales(blocks, name, np.ones(len(blocks)))
    unit = float(known.decode(blocks).std()) or 1.0
    signs = rng.choice([-1, 1], len(blocks)) if not known.has_min else np.ones(len(blocks))
    _set_scales(blocks, name, spread / unit * signs * rng.uniform(0.5, 1.5, len(blocks)))
    return blocks.reshape(-1)


def _set_scales(blocks: Any, name: str, scales: Any) -> None:  # noqa: ANN401
    stored = np.asarray(scales).astype("<f2").view(np.uint8).reshape(-1, 2)
    offsets = SCALE_OFFSETS[name]
    for at in offsets:
        blocks[:, at : at + 2] = stored


class RandomModel:
    """A checkpoint that was never trained: what `plan_model` needs of one."""

    graph_path: Path | None = None
    gguf_architecture: str | None = None

    def __init__(
        self, case: PlanCase, architecture: str, config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:  # fmt: skip
        self.architectures = [architecture]
        self.config = dict(config)
        self._case = case
        self._shapes = shapes
        self._made: dict[str, Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        """The weight called `name`, of the shape that the recipe wants."""
        if name not in self._made:
            self._made[name] = random_weight(self._case, name, self._shapes[name])
        return self._made[name]
