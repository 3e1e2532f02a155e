"""Other formats of weights, brought into MLX's: what a checkpoint's quantization_config names.

Numbers of few bits stay packed where MLX has their layout: whole numbers in groups, MXFP4, MXFP8.
FP8 and NVFP4, whose scales MLX's layers have no place for, become bfloat16. Everything is lazy, as
the checkpoint is, and what a tensor is made of is known from the headers.

    method              what is read
    compressed-tensors  INT2 to INT8, FP8, MXFP4, MXFP8, NVFP4
    fp8, mxfp8          scales of blocks, rows or tensors
    modelopt            FP8, NVFP4
    mxfp4               blocks of 16 bytes
    awq                 4 bits
    gptq                2, 4 or 8 bits, columns in order
"""

from collections.abc import Mapping
from typing import Any

from mlxarch.errors import FormatError
from mlxarch.names.rules import Drop, Rule, Weights, apply

from .columns import Awq, Gptq
from .compressed import Compressed
from .floats import Blocks, Float8, Mxfp8, Nvfp4
from .layout import MXFP4, MXFP8, Layout
from .mlx import Dequantize

__all__ = ["Layout", "decode", "names_a_format", "quantization", "rules", "without"]

_READ = "compressed-tensors, fp8, modelopt, mxfp4, mxfp8, awq and gptq"
_MODELOPT = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "MIXED_PRECISION")
_ACTIVATIONS = Drop(
    r"\.((in|out)put|activation|q|k|v|kv|prob)(_output)?(_global)?_(scale|zero_point)(_inv)?$",
    why="activations and caches are floats",
)


def rules(raw: Mapping[str, Any], *, packed: bool = True) -> list[Rule]:
    """What brings a checkpoint's tensors into MLX's formats.

    Args:
        packed: Keep numbers of few bits packed, where MLX can compute with them.

    Raises: FormatError for a quantization_config that is not read.
    """
    if isinstance(own := raw.get("quantization"), Mapping):
        return [Dequantize(own, packed)]
    if (found := _config(raw)) is None:
        return []
    try:
        return [_ACTIVATIONS, *_rules(found, packed)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"quantization_config in config.json is damaged: {error!r}.") from error


def _rules(found: Mapping[str, Any], packed: bool) -> list[Rule]:
    match found.get("quant_method"):
        case "compressed-tensors":
            return [Compressed.of(found, packed=packed)]
        case "fp8" if "e5m2" not in str(found.get("fmt")):
            return [Float8.of(found.get("weight_block_size"))]
        case "mxfp8":
            return [Mxfp8(packed)]
        case "mxfp4":
            return [Blocks(packed)]
        case "modelopt" if _algorithms(found).issubset(_MODELOPT):
            return [Nvfp4(), Float8()]
        case "awq" if (found.get("version") or "gemm") == "gemm":
            return [Awq(packed)]
        case "gptq" if found.get("checkpoint_format") in (None, "gptq", "gptq_v2"):
            symmetric = found.get("sym") is not False
            less_one = found.get("checkpoint_format") != "gptq_v2"
            unused = Drop(r"\.qzeros$", why="all are half of what bits can say")
            return [Gptq(packed, symmetric, less_one), *([unused] if symmetric else [])]
    raise FormatError(
        f"The source is quantized as {_summary(found)}, which is not read; read are {_READ}. "
        "Start from one of these, or from the original in bfloat16, float16 or float32."
    )


def quantization(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What MLX's keys say of most packed tensors of a checkpoint, or None if it keeps none packed.

    Raises: FormatError for a quantization_config that is not read.
    """
    if isinstance(own := raw.get("quantization"), Mapping):
        return own
    for rule in rules(raw):
        match rule:
            case Compressed():
                layouts = (group.layout for group in rule.groups)
                return next((layout.keys for layout in layouts if layout), None)
            case Mxfp8():
                return MXFP8.keys
            case Blocks():
                return MXFP4.keys
            case Awq() | Gptq():
                found = _config(raw) or {}
                size = found.get("group_size") or 128
                layout = Layout.affine(found.get("bits") or 4, size, size) or Layout(4, 128)
                return layout.keys
    return None


def names_a_format(raw: Mapping[str, Any]) -> bool:
    """Whether config.json says that weights are in another format than they were trained in."""
    return _config(raw) is not None


def without(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json less what it says of a format that `decode` has undone."""
    kept = {key: value for key, value in raw.items() if key not in _KEYS}
    if isinstance(text := kept.get("text_config"), Mapping):
        kept["text_config"] = {k: v for k, v in text.items() if k not in _KEYS}
    return kept


def decode(raw: Mapping[str, Any], weights: Weights) -> Weights:
    """A checkpoint's tensors in MLX's formats; those that already are stay as they are.

    Raises: FormatError for a quantization_config that is not read.
    """
    return apply(rules(raw), weights)


_KEYS = ("quantization_config", "compression_config")


def _config(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = raw.get("text_config") or {}
    nodes = [node.get(key) for node in (raw, text) for key in _KEYS]
    found = next((node for node in nodes if isinstance(node, Mapping) and node), None)
    if found is not None and isinstance(inner := found.get("quantization"), Mapping):
        # As hf_quant_config.json has it.
        return {"quant_method": "modelopt", **inner}
    return found


def _algorithms(found: Mapping[str, Any]) -> set[str]:
    layers = (found.get("quantized_layers") or {}).values()
    return {str(found.get("quant_algo")), *(str(layer.get("quant_algo")) for layer in layers)}


def _summary(found: Mapping[str, Any]) -> str:
    keys = ("quant_algo", "format", "fmt", "checkpoint_format", "version", "bits")
    more = [f"{key} {found[key]!r}" for key in keys if found.get(key) is not None]
    return ", ".join([repr(found.get("quant_method")), *more])
