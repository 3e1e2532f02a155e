"""Other formats of weights, brought into MLX's: what a checkpoint's quantization_config names.

Integers of four bits stay packed, because the packing is MLX's own; eight-bit floats become
bfloat16. Everything is lazy, as the checkpoint is.

Source: the compressed-tensors format, vllm-project/compressed-tensors; block-wise FP8,
arXiv:2412.19437, section 3.3.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from .errors import FormatError
from .names.rules import Rule, Shaped, Step, Weights, apply


def quantization(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What MLX's keys would say of a checkpoint's packed tensors, or None if it has none.

    Raises: FormatError for a quantization_config that is not read.
    """
    if isinstance(own := raw.get("quantization"), Mapping):
        return own
    found = _config(raw)
    if found is None or _is_fp8(found):
        return None
    if found.get("quant_method") == "compressed-tensors" and _is_int4(found):
        return {"group_size": _group(found)["group_size"], "bits": 4, "mode": "affine"}
    raise FormatError(
        f"The source is quantized as {_summary(found)}, which is not read yet; read are FP8 in "
        "blocks and symmetric INT4 in groups. Start from one of these, or from the original."
    )


def names_a_format(raw: Mapping[str, Any]) -> bool:
    """Whether config.json says that weights are in another format than they were trained in."""
    return _config(raw) is not None


def without(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json less what it says of a format that `decode` has undone."""
    kept = {key: value for key, value in raw.items() if key != "quantization_config"}
    if isinstance(text := kept.get("text_config"), Mapping):
        kept["text_config"] = {k: v for k, v in text.items() if k != "quantization_config"}
    return kept


def rules(raw: Mapping[str, Any]) -> list[Rule]:
    """What brings a checkpoint's tensors into MLX's formats; nothing for those that are.

    Raises: FormatError for a quantization_config that is not read.
    """
    if isinstance(raw.get("quantization"), Mapping) or not names_a_format(raw):
        return []
    quantization(raw)
    return [_Decode((_config(raw) or {}).get("weight_block_size"))]


def decode(raw: Mapping[str, Any], weights: Weights) -> Weights:
    """A checkpoint's tensors in MLX's formats; those that already are stay as they are.

    Raises: FormatError for a quantization_config that is not read.
    """
    return apply(rules(raw), weights)


@dataclass(frozen=True)
class _Decode(Rule):
    block: list[int] | None

    def steps(self, weights: Mapping[str, Shaped]) -> Iterator[Step]:
        for name in weights:
            if name.endswith(".weight_packed"):
                base = name.removesuffix("weight_packed")
                if (scale := f"{base}weight_scale") not in weights:
                    raise FormatError(f"{name} has no {scale} beside it.")
                # Four-bit numbers are stored plus eight, lowest first: MLX's layout.
                yield Step(f"{base}weight", (name,), lambda w: w.view(mx.uint32))
                yield Step(f"{base}scales", (scale,))
                yield Step(f"{base}biases", (scale,), lambda s: -8 * s)
                yield Step(None, (f"{base}weight_shape",))
            elif (scale := f"{name}_scale_inv") in weights:
                yield Step(name, (name, scale), partial(_from_fp8, name, block=self.block))


def _from_fp8(name: str, weight: mx.array, scales: mx.array, block: list[int] | None) -> mx.array:
    """Eight-bit floats (M, N), and a scale for each block of them, as bfloat16."""
    if not block:
        raise FormatError(f"{name} is FP8 in blocks, but config.json gives no weight_block_size.")
    rows, columns = weight.shape
    if scales.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise FormatError(
            f"{name}_scale_inv has shape {list(scales.shape)}; blocks of {list(block)} do not make "
            f"{list(weight.shape)} of it."
        )
    spread = mx.repeat(mx.repeat(scales, block[0], axis=0), block[1], axis=1)[:rows, :columns]
    return (mx.from_fp8(weight, dtype=mx.float32) * spread).astype(mx.bfloat16)


def _config(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = raw.get("text_config") or {}
    return raw.get("quantization_config") or text.get("quantization_config")


def _is_fp8(found: Mapping[str, Any]) -> bool:
    return found.get("quant_method") == "fp8" and bool(found.get("weight_block_size"))


def _is_int4(found: Mapping[str, Any]) -> bool:
    weights = _group(found)
    return (
        found.get("format") == "pack-quantized"
        and weights.get("num_bits") == 4
        and weights.get("symmetric") is True
        and weights.get("group_size") in (32, 64, 128)
    )


def _group(found: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = list((found.get("config_groups") or {}).values())
    return groups[0].get("weights") or {} if len(groups) == 1 else {}


def _summary(found: Mapping[str, Any]) -> str:
    more = {key: found[key] for key in ("format", "quant_algo", "bits") if key in found}
    more |= {k: v for k, v in _group(found).items() if k in ("num_bits", "symmetric")}
    words = [repr(found.get("quant_method")), *(f"{key} {value!r}" for key, value in more.items())]
    return ", ".join(words)
