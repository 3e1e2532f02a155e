"""A checkpoint of random numbers in the shape of a released model: for timing without a download.

    raw = shortened(json.loads(Path("config.json").read_text()), layers=4)
    write(raw, folder, Recipe())

Each packed tensor is drawn packed, so that gigabytes of it take seconds. What it says is noise.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxarch import checkpoint, registry
from mlxarch.errors import ConfigError

from .recipes import Recipe
from .scheme import Scheme
from .spelling import Spelling

_SHARD = 1 << 30  # bytes
_ROWS = 256  # that are drawn where a format has to be packed
_PARTS = ("weight", "scales", "biases")
_DEPTH = "num_hidden_layers"
# How many heads a release has for further tokens: random ones would never be right.
_HEADS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


def shortened(raw: Mapping[str, Any], layers: int | None) -> dict[str, Any]:
    """config.json of a model's first layers, without heads for further tokens; None: of all.

    Raises: ConfigError if it has not so many.
    """
    if isinstance(raw.get("text_config"), Mapping):
        return {**raw, "text_config": shortened(raw["text_config"], layers)}
    depth = raw.get(_DEPTH)
    if not isinstance(depth, int):
        raise ConfigError(f"config.json has no {_DEPTH}; it describes no language model.")
    layers = depth if layers is None else layers
    if not 1 <= layers <= depth:
        raise ConfigError(f"config.json has {depth} layers; --layers {layers} is not one of them.")
    # What is listed for each layer, and for the heads after them.
    listed = {k: v[:layers] for k, v in raw.items() if isinstance(v, list) and len(v) >= depth}
    return {**raw, **listed, **{key: 0 for key in _HEADS if key in raw}, _DEPTH: layers}


def write(raw: Mapping[str, Any], folder: Path, recipe: Recipe, *, seed: int = 0) -> None:
    """Write config.json and shards in mlx-lm's spelling, as `quantize` would.

    Raises: ConfigError; CheckpointError if an override of the recipe finds nothing.
    """
    architecture = registry.find(raw)
    try:
        model = architecture.model.build(architecture.model.Config.from_hub(raw))
    except (ArithmeticError, IndexError, ValueError) as error:
        raise ConfigError(f"config.json describes no model that can be built: {error}") from error
    # Lazily: of matrices only the shapes are wanted.
    tensors = Spelling(raw).theirs(checkpoint.parameters(model))
    schemes = recipe.fit(architecture, {name: w.shape for name, w in tensors.items()})
    found = {name: schemes.scheme(name, w.shape) for name, w in tensors.items()}
    random = np.random.default_rng(seed)
    shard: dict[str, mx.array] = {}
    files: dict[str, str] = {}
    count = 0
    for name, initial in tensors.items():
        scheme = found[name]
        if initial.ndim < 2:
            shard[name] = initial.astype(mx.bfloat16)
        elif scheme is None:
            drawn = mx.array(random.standard_normal(initial.shape, dtype=np.float32))
            shard[name] = (drawn / initial.shape[-1] ** 0.5).astype(mx.bfloat16)
        else:
            shard |= _packed(name, initial.shape, scheme, random)
        if name == list(tensors)[-1] or sum(w.nbytes for w in shard.values()) >= _SHARD:
            count += 1
            file = f"model-{count:05}.safetensors"
            mx.save_safetensors(str(folder / file), shard, metadata={"format": "mlx"})
            files |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    others = {
        name.removesuffix(".weight"): scheme.entry
        for name, scheme in found.items()
        if scheme is not None and scheme != recipe.base
    }
    quantization = {"quantization": {**recipe.base.entry, **others}}
    (folder / "config.json").write_text(json.dumps({**raw, **quantization}))


def _packed(
    name: str, shape: tuple[int, ...], scheme: Scheme, random: np.random.Generator
) -> dict[str, mx.array]:
    """A tensor of few bits whose numbers are about as large as those of a trained one."""
    *rows, columns = shape
    deviation = columns**-0.5
    if scheme.affine:
        # Codes from 0 to 2**bits - 1, evenly, about zero.
        words = (*rows, columns * scheme.bits // 32)
        codes = mx.array(random.integers(0, 1 << 32, words, dtype=np.uint32))
        step = deviation * 12**0.5 / (1 << scheme.bits)
        scales = mx.full((*rows, columns // scheme.group_size), step, dtype=mx.bfloat16)
        packed = [codes, scales, scales * -((1 << scheme.bits) - 1) / 2]
    else:
        # Some codes are no numbers: a few rows are packed, and repeated.
        few = mx.array(random.standard_normal((_ROWS, columns), dtype=np.float32)) * deviation
        own = mx.quantize(few, scheme.group_size, scheme.bits, scheme.mode)
        again = mx.arange(math.prod(rows)) % _ROWS
        packed = [part[again].reshape(*rows, -1) for part in own]
    base = name.removesuffix("weight")
    # Only affine has biases.
    return dict(zip((f"{base}{end}" for end in _PARTS), packed, strict=False))
