"""The quality report: what was measured of a quantized model, and what was measured.

quality.json is one object. Sizes are in bytes, divergences in nats; the same model, text and
version give the same bytes.

    name, recipe                 for people
    perplexity, original_perplexity, perplexity_ratio, perplexity_ratio_standard_error
    mean_kl, mean_kl_standard_error, median_kl, kl_90, kl_99, max_kl
    top1_agreement, top1_agreement_standard_error
    tokens, positions, text      how many were read and compared, and of what
    bytes, original_bytes        tensors and their headers
    parameters, bits_per_weight
    layers                       for each: bits_per_weight, and the relative_error of the residual
                                 stream after it
    parts                        for each kind of tensor: kind, parameters, bytes, bits_per_weight
    kl_percentiles               0, 1, ... 100 per cent of positions have no larger divergence
    source                       name, repo, revision
    made_by                      versions of mlxarch and mlx
    files                        for each file but the report's own: bytes, sha256

compare.json has what candidates for one source have in common, and under `candidates` a list of
what differs, each with its name under `candidate`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .quality import Quality

VERSION = 1
NAME, PICTURE = "quality.json", "quality.svg"

_LAYER = re.compile(r"^(?!mtp\.|vision\.).*\blayers\.(\d+)\.")


@dataclass(frozen=True)
class Stored:
    """A tensor of a quantized checkpoint, in mlx-lm's spelling."""

    name: str
    shape: tuple[int, ...]  # before it is quantized
    bytes: int  # with scales and biases


# What a tensor is, by its name and shape.
Kind = Callable[[str, tuple[int, ...]], str]


def make(
    quality: "Quality",
    tensors: Iterable[Stored],
    kind: Kind,
    *,
    name: str,
    recipe: str,
    bytes: int,
    original_bytes: int,
    parameters: int,
    bits_per_weight: float,
    source: Mapping[str, Any],
    made_by: Mapping[str, str],
) -> dict[str, Any]:
    """The report as quality.json has it, but for the files, which may not be there."""
    tensors = list(tensors)
    figures = asdict(quality)
    percentiles, errors = figures.pop("kl_percentiles"), figures.pop("layer_errors")
    return {
        "version": VERSION,
        "name": name,
        "recipe": recipe,
        **figures,
        "bytes": bytes,
        "original_bytes": original_bytes,
        "parameters": parameters,
        "bits_per_weight": bits_per_weight,
        "layers": [
            {"bits_per_weight": bits, "relative_error": error}
            for bits, error in zip(_by_layer(tensors, len(errors)), errors, strict=True)
        ],
        "parts": _by_kind(tensors, kind),
        "kl_percentiles": list(percentiles),
        "source": dict(source),
        "made_by": dict(made_by),
    }


# What candidates for one source have in common.
_COMMON = (
    "version",
    "name",
    "original_perplexity",
    "tokens",
    "positions",
    "text",
    "original_bytes",
    "parameters",
    "source",
    "made_by",
)


def comparison(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Reports on candidates for one source, by their names, as compare.json has them."""
    common = {key: next(iter(reports.values()))[key] for key in _COMMON}
    candidates = [
        {"candidate": name, **{key: one[key] for key in one if key not in _COMMON}}
        for name, one in reports.items()
    ]
    return {**common, "candidates": candidates}


def text(report: Mapping[str, Any]) -> str:
    """A report, or a comparison, as a file holds it."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _by_kind(tensors: Iterable[Stored], kind: Kind) -> list[dict[str, Any]]:
    """The kind with most bytes first."""
    found: dict[str, list[Stored]] = {}
    for tensor in tensors:
        found.setdefault(kind(tensor.name, tensor.shape), []).append(tensor)
    parts = [{"kind": kind, **_bits(own)} for kind, own in found.items()]
    return sorted(parts, key=lambda part: (-part["bytes"], part["kind"]))


def _by_layer(tensors: Sequence[Stored], depth: int) -> list[float]:
    found: list[list[Stored]] = [[] for _ in range(depth)]
    for tensor in tensors:
        if match := _LAYER.match(tensor.name):
            found[int(match[1])].append(tensor)
    return [_bits(layer)["bits_per_weight"] for layer in found]


def _bits(tensors: Iterable[Stored]) -> dict[str, Any]:
    pairs = [(prod(tensor.shape), tensor.bytes) for tensor in tensors]
    parameters, size = (sum(column) for column in zip(*pairs, strict=True))
    return {"parameters": parameters, "bytes": size, "bits_per_weight": size * 8 / parameters}
