"""Programs that read weights in tiles: as images, or in blocks by subgroups, where they can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyopencl as cl

from perfxlm_core.plugin import FORMATS, Site
from perfxlm_opencl.kernels.packing import UNIT, Layout, Packed
from perfxlm_opencl.kernels.weights import Part, layout_of, parts_of
from perfxlm_opencl.launch import KINDS, Argument, Picture, Units, device_of, dtype_of
from perfxlm_opencl.programs import work_group_limit

Defines = dict[str, str | int | float]


@dataclass(frozen=True)
class Reads:
    """How a kernel reads weights, all of them in one way.

    Attributes:
        parts: the weights, packed.
        pictures: of each, if they are read as images.
        blocks: whether subgroups may read them in blocks: lanes beside each other have rows so.
    """

    parts: Sequence[Part]
    pictures: Sequence[Picture] | None
    blocks: bool

    @staticmethod
    def of(site: Site, names: Sequence[str], parts: Sequence[Part], aligned: bool = True) -> Reads:
        """The reads that suit the device best.

        Args:
            names: of the weights.
            parts: of each weight, the part that is read.
            aligned: whether lanes beside each other have rows of a tile beside each other.
        """
        layout = packed_of(parts[0]).layout
        made = [picture_of(site, n, p) for n, p in zip(names, parts, strict=True)]
        pictures = [p for p in made if p is not None]
        words = {packed_of(p).layout.words for p in parts}
        fits = device_of(site).profile.subgroup == layout.lanes == 16
        return Reads(
            parts,
            pictures if len(pictures) == len(made) else None,
            aligned and fits and words == {1},
        )

    @property
    def layout(self) -> Layout:
        """Of quantized weights, if there are any."""
        return min((packed_of(p).layout for p in self.parts), key=lambda found: found.words)

    @property
    def defines(self) -> Defines:
        """Macros of the reads that suit the device best, if it has any."""
        return {"IMAGE": 1} if self.pictures else {"BLOCK_READS": 1} if self.blocks else {}

    def arguments(self, index: int, chosen: Defines) -> list[Argument]:
        """A weight, its image, and where its extras begin.

        Args:
            index: which weight.
            chosen: what `program` chose.
        """
        part = self.parts[index]
        read: list[Argument] = []
        if self.pictures and "IMAGE" in chosen:
            read = [self.pictures[index]]
        return [Units(part.memory, UNIT // 4), *read, packed_of(part).unit_bytes // UNIT]

    def program(
        self,
        site: Site,
        source: str,
        kernel: str,
        defines: Defines,
        split: int,
        options: Sequence[Defines],
    ) -> tuple[Any, int, Defines] | None:
        """The program, its split as the compiled kernel allows, and which options it has.

        Args:
            options: defines of variants, the best first; an empty one has to compile.

        Returns:
            None where the driver refuses every option.
        """
        device, lanes = device_of(site), self.layout.lanes
        defines = {**defines, "LANES": lanes, "WORDS": self.layout.words}
        for chosen in options:
            std = "CL3.0" if chosen.get("DOT") == NATIVE else "CL1.2"
            make = device.programs.attempt if chosen else device.programs.build
            while True:
                program = make(source, {"DOT": 0, **defines, **chosen, "SPLIT": split}, std)
                if program is None:
                    break
                limit = work_group_limit(device.device, program, kernel)
                if split == 1 or lanes * split <= limit:
                    return program, split, chosen
                split //= 2
        return None

    def options(self, dot: int = 0) -> list[Defines]:
        """Variants that read weights as suits the device best, with integer products if asked.

        Args:
            dot: DOT of cl/dot.cl.
        """
        found: list[Defines] = [{**self.defines, "DOT": dot}, {"DOT": dot}] if dot else []
        return list(map(dict, {tuple(o.items()): 0 for o in [*found, self.defines, {}]}))


NATIVE, EMULATED = 1, 2
"""DOT of cl/dot.cl."""


def dot_of(site: Site, *weights: str) -> int:
    """DOT of cl/dot.cl: whether, and how, products of these weights are those of bytes.

    Never where the node wants exact activations.
    """
    device = device_of(site)
    if site.attrs.exact or not device.profile.dot_product:
        return 0
    if any(dtype_of(site, w) not in FORMATS for w in weights):
        return 0
    if not device.facts.has("cl_khr_integer_dot_product"):
        return EMULATED  # a test's profile: `choose` turns nothing on that is not reported
    return NATIVE if device.facts.c_version >= (3, 0) else 0


def packed_parts(site: Site, *names: str) -> list[Part] | None:
    """The weights, if each is packed and lies in one buffer."""
    if any(layout_of(site, n) is None for n in names):
        return None
    found = [parts_of(site, n) for n in names]
    return [parts[0] for parts in found] if all(len(parts) == 1 for parts in found) else None


def picture_of(site: Site, name: str, part: Part) -> Picture | None:
    """A packed weight as an image, where the profile reads weights so and the image can hold it."""
    device, packed = device_of(site), packed_of(part)
    if not device.profile.images or packed.layout.words != 4 or isinstance(part.memory, str):
        return None
    if dtype_of(site, name) not in FORMATS:
        return None
    region = part.memory.handle
    pixels = region.memory.size // UNIT
    if pixels > device.facts.image_buffer:
        return None
    pixel = cl.ImageFormat(cl.channel_order.RGBA, cl.channel_type.UNSIGNED_INT32)
    with device.errors("making an image of a weight"):
        image = cl.create_image(
            device.context, cl.mem_flags.READ_ONLY, pixel, shape=(pixels,), buffer=region.memory
        )
    return Picture(image, region.offset // UNIT)


def packed_of(part: Part) -> Packed:
    """Sizes of a part that is packed."""
    assert part.packed is not None
    return part.packed


def formats(site: Site, *weights: str) -> tuple[Defines, list[int]]:
    """FORMATS and FORMAT_n of cl/staged.cl and cl/fused.cl, and which of them each weight has."""
    names = [dtype_of(site, w) for w in weights]
    different = list(dict.fromkeys(names))
    made: Defines = {"FORMATS": len(different)}
    for n, name in enumerate(different):
        made[f"FORMAT_{n}"] = KINDS.get(name, name)
    return made, [different.index(n) for n in names]
