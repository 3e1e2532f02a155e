"""What a config.json describes: layers, parameters, bytes of weights and of cache.

The model is built and never evaluated, so that a trillion parameters take a moment and no memory.

    anatomy = examine(raw)              # config.json as a dict
    anatomy.total.parameters            # 398,635,286,016
    anatomy.cache_bytes(tokens=8192)    # of one sequence, in bfloat16

Counted is the language model. Heads for multi-token prediction are counted apart, since not every
program runs them, and so is a vision tower: it is loaded with the first picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import checkpoint, registry, shards
from .blocks.moe import MoE
from .errors import ConfigError
from .plan import Layer, layer
from .vision.sight import is_tower

_GROUP = 64  # weights that share a scale and a bias
# How many heads a release has for further tokens. Qwen3-Next does not say.
_HEADS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


@dataclass(frozen=True)
class Size:
    """Parameters, and their bytes in two formats.

    In 4 bits, rows of linear layers, experts and embeddings are affine in groups of 64, each with
    a scale and a bias in bfloat16: 4.5 bits a weight. Norms, biases, routers, gates with one
    output, convolutions and rows that are no multiple of 64 stay in bfloat16.
    """

    parameters: int = 0
    bf16: int = 0
    bits4: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(
            self.parameters + other.parameters, self.bf16 + other.bf16, self.bits4 + other.bits4
        )


@dataclass(frozen=True)
class Stored:
    """What lies in the files of a checkpoint."""

    files: int
    bytes: dict[str, int]  # by the format's word for the type: "BF16", "U32" ...


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A model, taken apart."""

    architecture: str  # for people
    model_type: str
    dim: int
    vocab: int
    context: int  # tokens
    layers: tuple[Layer, ...]
    total: Size  # without the heads for further tokens
    active: Size  # what one token is multiplied by, see `_sizes`
    heads: int
    mtp: Size  # of those heads together
    vision: Size  # of the tower, where there is one that is ported; it is never packed
    quantization: str | None  # how config.json says that tensors are packed
    stored: Stored | None  # None where only a config is there

    def cache_bytes(self, tokens: int, itemsize: int = 2) -> int:
        """Bytes that one sequence's cache needs after `tokens`, without further heads.

        Caches of keys and values grow in steps of 256 tokens, so what they hold is this for the
        next multiple. A window's cache holds all of a prompt while it reads it, and is cut to the
        window with the first token that is generated.
        """
        return sum(layer.mixer.cache_bytes(tokens, itemsize) for layer in self.layers)

    @property
    def cache_per_token(self) -> int:
        """Bytes in bfloat16 that each token adds once all windows are full."""
        return sum(2 * layer.mixer.per_token for layer in self.layers if not layer.mixer.window)

    @property
    def cache_fixed(self) -> int:
        """Bytes in bfloat16 of full windows and of states, however long the sequence."""
        mixers = [layer.mixer for layer in self.layers]
        return sum(mixer.cache_bytes(mixer.window or 0) for mixer in mixers)


def examine(raw: Mapping[str, Any], folder: Path | None = None) -> Anatomy:
    """Take apart what a config.json describes.

    Args:
        folder: Where the checkpoint's tensors lie, if they do; they say what further heads there
            are, which a config only announces.

    Raises: ConfigError; CheckpointError or FormatError if the folder's shards are not whole.
    """
    architecture = registry.find(raw)
    config = architecture.model.Config.from_hub(raw)
    try:
        model = architecture.model.build(config)
    except (ArithmeticError, IndexError, ValueError) as error:
        raise ConfigError(f"config.json describes no model that can be built: {error}") from error
    names = _announced(raw) if folder is None else _loaded(raw, folder)
    build_mtp = getattr(architecture.model, "build_mtp", None)
    heads = build_mtp(config, names) if names and build_mtp else []
    total, active = _sizes(model)
    return Anatomy(
        architecture=architecture.name,
        model_type=raw["model_type"],
        dim=config.dim,
        vocab=config.vocab,
        context=config.context,
        layers=tuple(layer(block) for block in model.layers),
        total=total,
        active=active,
        heads=len(heads),
        mtp=sum((_sizes(head)[0] for head in heads), Size()),
        vision=_tower(raw, folder),
        quantization=quantization(raw),
        stored=None if folder is None else _stored(folder),
    )


def _tower(raw: Mapping[str, Any], folder: Path | None) -> Size:
    config, port = raw.get("vision_config"), registry.find(raw)
    there = folder is None or any(map(is_tower, shards.read_headers(shards.find(folder))))
    if not (there and port.sees and isinstance(config, Mapping)):
        return Size()
    try:
        tower = port.vision.build(port.vision.Config.from_hub(config))
    except (ArithmeticError, ConfigError, ValueError):
        return Size()  # text is read all the same
    count = sum(weight.size for weight in checkpoint.parameters(tower).values())
    return Size(count, 2 * count, 2 * count)


def _announced(raw: Mapping[str, Any]) -> set[str]:
    """Names that stand for the heads a config announces, in our spelling.

    Each is built as released: with an output head and an indexer of its own, where the
    architecture knows such.
    """
    text = _text(raw)
    count = next((text[key] for key in _HEADS if text.get(key)), 0)
    parts = ("head.weight", "block.mixer.indexer.wk.weight")
    return {f"mtp.{j}.{part}" for j in range(count) for part in parts}


def _loaded(raw: Mapping[str, Any], folder: Path) -> set[str]:
    """Names of the tensors for further heads that a checkpoint has, in our spelling."""
    model = checkpoint.assemble(raw, checkpoint.read(folder))
    return {name for name in checkpoint.parameters(model) if name.startswith("mtp.")}


def quantization(raw: Mapping[str, Any]) -> str | None:
    """How config.json says that tensors are packed, in words."""
    own = raw.get("quantization")
    if isinstance(own, Mapping):
        others = sum(isinstance(value, Mapping) for value in own.values())
        text = (
            f"{own.get('bits')}-bit {own.get('mode', 'affine')}, groups of {own.get('group_size')}"
        )
        if not others:
            return text
        return f"{text}; {others} {'layer' if others == 1 else 'layers'} otherwise"
    theirs = _text(raw).get("quantization_config") or {}
    return " ".join(str(theirs[key]) for key in ("quant_method", "format") if key in theirs) or None


def _text(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**raw, **(raw.get("text_config") or {})}


def _stored(folder: Path) -> Stored:
    files = shards.find(folder)
    by_type: dict[str, int] = {}
    for info in shards.read_headers(files).values():
        by_type[info.dtype] = by_type.get(info.dtype, 0) + info.bytes
    return Stored(len(files), by_type)


def bytes_read(model: nn.Module) -> int:
    """Bytes of weights that one token is computed from, without heads for further tokens.

    Of experts and of the embedding those count that count in `Anatomy.active`.
    """
    total, shares = 0, _shares(model)
    for path, module in model.named_modules():
        if path.startswith("mtp") or (path == "embed" and model.head is not None):
            continue
        chosen, experts = shares.get(path.rpartition(".")[0], (1, 1))
        tensors = {name: w for name, w in module.items() if isinstance(w, mx.array)}
        own = sum(w.nbytes for name, w in tensors.items() if not name.startswith("_"))
        total += own * chosen // experts
    return total


def _shares(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of each stack of experts, how many a token is sent to and how many there are."""
    return {
        f"{path}.experts": (module.router.top_k, module.experts.gate_proj.weight.shape[0])
        for path, module in model.named_modules()
        if isinstance(module, MoE)
    }


def _sizes(model: nn.Module) -> tuple[Size, Size]:
    """A model's size, and how much of it one token is multiplied by.

    Of the experts those count that a token is sent to. The input embedding is a lookup and counts
    only where it is the output head too. Publishers differ in this: an "A13B" counts now all, now
    neither embedding nor head, and lies within 1B of what is given here.
    """
    total = active = Size()
    shares = _shares(model)
    for path, module in model.named_modules():
        own = _own_size(path, module)
        total += own
        if path == "embed" and model.head is not None:
            continue
        chosen, experts = shares.get(path.rpartition(".")[0], (1, 1))
        numbers = (own.parameters, own.bf16, own.bits4)
        active += Size(*(number // experts * chosen for number in numbers))
    return total, active


def _own_size(path: str, module: nn.Module) -> Size:
    """The size of the tensors that a module has itself."""
    tensors = {name: w for name, w in module.items() if isinstance(w, mx.array)}
    kept = [w.size for name, w in tensors.items() if not name.startswith("_")]
    packed = 0
    if hasattr(module, "to_quantized") and path.rpartition(".")[2] != "gate":
        weight = tensors["weight"]
        packed = weight.size if weight.shape[-1] % _GROUP == 0 else 0
    return Size(
        sum(kept), 2 * sum(kept), 2 * (sum(kept) - packed) + packed // 2 + 4 * packed // _GROUP
    )
