"""A format of few bits. Imports nothing heavy, so that `--help` may read it.

Source: mlx, python/src/ops.cpp, `quantize`, for what there is; mlx-lm, utils.py, `quantize_model`,
for what goes without saying.
"""

import re
from dataclasses import dataclass
from typing import Any

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (16, 32, 64, 128)
# The bits and group sizes of each mode.
MODES = {
    "affine": (BITS, (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
GRAMMAR = "2, 3, 4, 5, 6 or 8, with g32, g64 or g128 behind it, or mxfp4, mxfp8, nvfp4"


@dataclass(frozen=True)
class Scheme:
    """Rows in groups of `group_size`, each value in `bits` bits.

    A group has a scale, and in affine mode a bias, of the weight's own type; the other modes have a
    scale of 8 bits.

    Raises: ValueError if MLX has no such format.
    """

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"{self.mode!r} is no mode; MLX has {', '.join(MODES)}.")
        bits, sizes = MODES[self.mode]
        if self.bits not in bits:
            raise ValueError(f"{self.mode} with {self.bits} bits; MLX has it with {_either(bits)}.")
        if self.group_size not in sizes:
            raise ValueError(
                f"{self.mode} in groups of {self.group_size}; MLX has it in {_either(sizes)}."
            )

    @classmethod
    def of(
        cls, mode: str = "affine", bits: int | None = None, group_size: int | None = None
    ) -> "Scheme":
        """A scheme of which nothing has to be said that is usual for its mode.

        Raises: ValueError.
        """
        usual = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}.get(mode, (4, 64))
        return cls(bits or usual[0], group_size or usual[1], mode)

    @classmethod
    def parse(cls, text: str) -> "Scheme":
        """The scheme that a word stands for: "4", "4g32", "mxfp4" ...

        Raises: ValueError.
        """
        if text in MODES and text != "affine":
            return cls.of(text)
        if (parts := re.fullmatch(r"(\d+)(?:g(\d+))?", text)) is None:
            raise ValueError(f"{text!r} is no format; wanted is {GRAMMAR}.")
        bits, size = parts.groups()
        return cls(int(bits), int(size or 64))

    @property
    def word(self) -> str:
        """What `parse` reads."""
        if self.mode != "affine":
            return self.mode
        return f"{self.bits}" if self.group_size == 64 else f"{self.bits}g{self.group_size}"

    @property
    def affine(self) -> bool:
        """Whether a group has a bias, and its scale the weight's own type."""
        return self.mode == "affine"

    @property
    def bits_per_weight(self) -> float:
        """Scales and biases included, where a weight's own type has 16 bits."""
        return self.bits + (32 if self.affine else 8) / self.group_size

    @property
    def entry(self) -> dict[str, Any]:
        """What config.json says of a tensor."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether rows are a multiple of the group size."""
        return shape[-1] % self.group_size == 0

    def __str__(self) -> str:
        return f"{self.bits}-bit {self.mode}, groups of {self.group_size}"


def _either(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
