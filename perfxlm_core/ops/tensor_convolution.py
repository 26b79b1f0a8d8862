"""Convolution in any number of dimensions."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import F, rounded
from perfxlm_core.ops.types import Array


def _known_padding(dims: object, *, auto_pad: str = "NOTSET", **_: object) -> None:
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad={auto_pad!r}, want NOTSET, VALID, SAME_UPPER or SAME_LOWER")


def _widths(
    lengths: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    """Elements added before and after each spatial axis."""
    rank = len(lengths)
    if auto_pad.startswith("SAME"):
        needed = [
            max((-(-n // s) - 1) * s + span - n, 0)
            for n, s, span in zip(lengths, strides, spans, strict=True)
        ]
        small = [(n // 2, n - n // 2) for n in needed]
        return small if auto_pad == "SAME_UPPER" else [(b, a) for a, b in small]
    if auto_pad == "VALID" or pads is None:
        return [(0, 0)] * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


@op(onnx=Standard("Conv", 22), requires=_known_padding)
def convolve(
    x: Annotated[Array, "...", F],
    weight: Annotated[Array, "...", F],
    bias: Annotated[Array, "...", F] | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Annotated[Array, "...", F]:
    """Slide `weight` [out, in / group, *kernel] over `x` [batch, in, *space] and sum the products.

    Args:
        auto_pad: "SAME_UPPER" and "SAME_LOWER" pad so that the output has `ceil(n / stride)`
            elements; "NOTSET" takes `pads`.
        dilations: distance between neighbouring taps; 1 when left out.
        group: channels are divided into this many groups that do not see each other.
        kernel_shape: accepted; it is the weight's.
        pads: elements of 0 added before each axis, then after each.
        strides: distance between neighbouring outputs; 1 when left out.

    Raises:
        ValueError: channels do not divide into the groups.

    Numerics:
        Sums in float32 at least, one rounding.

    Source:
        ONNX Conv-22.
    """
    kernel = np.asarray(weight).shape[2:]
    rank = len(kernel)
    steps, gaps = ([1] * rank if given is None else list(given) for given in (strides, dilations))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
    widths = _widths(np.asarray(x).shape[2:], spans, steps, pads, auto_pad)
    channels = np.asarray(x).shape[1]
    if channels % group or np.asarray(weight).shape[:2] != (
        np.asarray(weight).shape[0] // group * group,
        channels // group,
    ):
        raise ValueError(
            f"{channels} channels in {group} groups, weight {np.asarray(weight).shape}"
        )

    def body(v: np.ndarray, w: np.ndarray, *b: np.ndarray) -> np.ndarray:
        v = np.pad(v, [(0, 0), (0, 0), *widths])
        axes = tuple(range(2, 2 + rank))
        windows = np.lib.stride_tricks.sliding_window_view(v, spans, axis=axes)
        places = tuple(slice(None, None, s) for s in steps)
        taps = tuple(slice(None, None, d) for d in gaps)
        windows = windows[(slice(None), slice(None), *places, *taps)]
        batch, _, *space = windows.shape[: 2 + rank]
        parts = windows.reshape(batch, group, channels // group, int(np.prod(space)), -1)
        w = w.reshape(group, len(w) // group, channels // group, -1)
        y = np.einsum("bgcsk,gock->bgos", parts, w).reshape(batch, -1, *space)
        return y + b[0].reshape(-1, *(1,) * rank) if b else y

    return rounded(body, x, weight, *(() if bias is None else (bias,)))


convolve.shapes(lambda x, *_, **__: (TensorType(None, x.dtype),))
