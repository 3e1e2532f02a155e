"""Which tensor gets how many bits. Imports nothing heavy, so that `--help` may read it.

Linear layers, experts, embeddings and the output head are quantized. Norms, biases, routers, gates,
convolutions and what weighs an indexer's heads never: they are small, and a router that errs sends
a token to the wrong experts. Nor what takes queries into latents and values out of them, whose
errors every head repeats.

Source: mlx, python/mlx/nn/layers/quantized.py; mlx-lm, utils.py, `quantize_model`.
"""

import re
from dataclasses import dataclass

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)

_KEPT = re.compile(
    r"(^|[._])(gate|router|conv1d|embed_q|unembed_out|weights_proj|g_proj|in_proj_[ab]|in_proj_ba)\."
    r"|router|mlp\.gate\.|^vision\."
)


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
    return len(shape) in (2, 3) and name.endswith(".weight") and not _KEPT.search(name)


def scheme_for(name: str, shape: tuple[int, ...], wanted: Scheme | None) -> Scheme | None:
    """The scheme of one tensor: the wanted one, or None where it stays as it is.

    A row that is no multiple of the group size stays.
    """
    if wanted is None or not quantizable(name, shape) or shape[-1] % wanted.group_size:
        return None
    return wanted
