"""Which tensor gets how many bits. Imports nothing heavy, so that `--help` may read it.

Linear layers, embeddings and the output head are quantized; norms, biases and routers never: they
are small, and a router that errs sends a token to the wrong experts.

Source: mlx, python/mlx/nn/layers/quantized.py; mlx-lm, utils.py, `quantize_model`.
"""

import re
from dataclasses import dataclass

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)

_ROUTER = re.compile(r"(^|[._])(gate|router)\.")


@dataclass(frozen=True)
class Scheme:
    """Rows in groups of `group_size`, each value in `bits` bits, with one scale and bias a group.

    Raises: ValueError if MLX has no such format.
    """

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"

    def __post_init__(self):
        if self.bits not in BITS:
            raise ValueError(f"{self.bits} bits; MLX has {', '.join(map(str, BITS))}.")
        if self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise ValueError(f"Groups of {self.group_size} weights; MLX has {sizes}.")

    def __str__(self) -> str:
        return f"{self.bits}-bit {self.mode}, groups of {self.group_size}"


def quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor, in mlx-lm's spelling, is of a kind that may be quantized."""
    return len(shape) == 2 and name.endswith(".weight") and not _ROUTER.search(name)


def scheme_for(name: str, shape: tuple[int, ...], wanted: Scheme | None) -> Scheme | None:
    """The scheme of one tensor: the wanted one, or None where it stays as it is.

    A row that is no multiple of the group size stays.
    """
    if wanted is None or not quantizable(name, shape) or shape[-1] % wanted.group_size:
        return None
    return wanted
