"""A folder of safetensors becomes a model: any spelling, strictly."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import backend, formats, registry, shards
from .decoder import Decoder
from .errors import CheckpointError, ConfigError, FormatError
from .names import rules
from .names.rules import Change, Rule, Weights

# Bytes evaluated at once: far below what trips Metal's watchdog, large enough to be quick.
_PIECE = 256 << 20


def load(
    path: str | Path,
    dtype: mx.Dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    heads: bool = True,
) -> Decoder:
    """Load a checkpoint: a hub folder, an mlx-community folder or ours, quantized or not.

    Args:
        dtype: Cast floating weights to this type; None keeps the stored one, except that the CPU
            always computes in float32 (see `backend.compute_dtype`).
        progress: Called with the bytes that are in memory and those that will be.
        heads: Whether to load the heads for further tokens, where there are any.

    Raises:
        ConfigError: config.json is absent, incomplete, or asks for what is not ported.
        CheckpointError: a tensor is missing, left over or misshapen.
        FormatError: a file is truncated or damaged.
    """
    folder = Path(path)
    raw = shards.read_config(folder)
    # Cast first: what rules compute, such as a norm's weight plus one, is then as exact as asked.
    model = assemble(raw, as_type(raw, read(folder), dtype), heads=heads)
    _evaluate(model, progress)
    backend.quicken(model)
    return model


def load_tower(path: str | Path, dtype: mx.Dtype | None = None) -> nn.Module:
    """Load the vision tower that lies beside a language model; for the arguments see `load`.

    Raises: ConfigError where none is ported; CheckpointError, FormatError.
    """
    folder = Path(path)
    raw = shards.read_config(folder)
    architecture = registry.find(raw)
    if not architecture.sees or not isinstance(raw.get("vision_config"), Mapping):
        raise ConfigError(f"{folder} has no vision tower that is ported.")
    names, config = architecture.names, architecture.vision.Config.from_hub(raw["vision_config"])
    weights = as_mlx(raw, as_type(raw, read(folder), dtype))
    weights = {name: w for name, w in weights.items() if name.startswith("vision.")}
    ours = rules.translate(names.tower(), rules.apply(names.tower_from_mlx(), weights))
    try:
        tower = architecture.vision.build(config).eval()
    except (ArithmeticError, IndexError, ValueError) as error:
        raise ConfigError(f"vision_config describes no tower that can be built: {error}") from error
    _check(tower, ours, rules.inverse(names.tower()))
    tower.load_weights(list(ours.items()))
    _evaluate(tower, None)
    backend.quicken(tower)
    return tower


def read(folder: Path) -> Weights:
    """All tensors of a checkpoint under the names they have there, lazily.

    Raises: CheckpointError, FormatError.
    """
    files = shards.find(folder)
    shards.read_headers(files)
    weights: Weights = {}
    for file in files:
        try:
            weights |= cast(Weights, mx.load(str(file)))
        except (RuntimeError, ValueError) as error:
            raise FormatError(f"{file} cannot be read by MLX: {error}.") from error
    return weights


def assemble(raw: Mapping[str, Any], weights: Weights, *, heads: bool = True) -> Decoder:
    """A model from config.json and a checkpoint's tensors, in any spelling; nothing is evaluated.

    Heads for further tokens are left out where they are not wanted.

    Raises: ConfigError, CheckpointError.
    """
    architecture = registry.find(raw)
    config = architecture.model.Config.from_hub(raw)
    weights = as_mlx(raw, weights)
    aside = ("vision.",) if heads else ("vision.", "mtp.")
    weights = {name: w for name, w in weights.items() if not name.startswith(aside)}
    table = architecture.names.table(config)
    ours = rules.translate(table, weights)
    try:
        model = architecture.model.build(config).eval()
        if any(name.startswith("mtp.") for name in ours):
            model.mtp = architecture.model.build_mtp(config, ours)
    except (ArithmeticError, IndexError, ValueError) as error:
        raise ConfigError(f"config.json describes no model that can be built: {error}") from error
    _quantize(model, raw, ours, rules.inverse(table))
    _check(model, ours, rules.inverse(table))
    model.load_weights(list(ours.items()))
    return model


def as_mlx(raw: Mapping[str, Any], weights: Weights) -> Weights:
    """A checkpoint's tensors in MLX's formats and the MLX community's spelling, lazily.

    Beside what mlx-lm knows, heads for further tokens are under `mtp`, a tower under `vision`.

    Raises: ConfigError, CheckpointError, FormatError.
    """
    return rules.apply(mlx_rules(raw), weights)


def mlx_rules(
    raw: Mapping[str, Any], dtype: mx.Dtype | None = None, *, packed: bool = True
) -> list[Rule]:
    """What makes a checkpoint's tensors those of `as_mlx`.

    Args:
        dtype: Cast floating tensors to this type before anything is computed of them.
        packed: Keep numbers of few bits packed; else they become floats.

    Raises: ConfigError, FormatError.
    """
    architecture = registry.find(raw)
    config = architecture.model.Config.from_hub(raw)
    unpacking = formats.rules(raw, packed=packed)
    if dtype is not None:
        cast = partial(_cast, dtype=dtype)
        unpacking = [*unpacking, Change("", cast, why="what is computed is as exact as asked")]
    return [*unpacking, *architecture.names.from_hub(config)]


def quantization(raw: Mapping[str, Any], model: nn.Module) -> dict[str, Any] | None:
    """What mlx-lm wants to know of a model's packed tensors; None if it has none.

    It is what most layers have, and what others have under their paths.
    """
    if isinstance(own := raw.get("quantization"), Mapping):
        return dict(own)
    architecture = registry.find(raw)
    table = architecture.names.table(architecture.model.Config.from_hub(raw))
    backwards, found = rules.inverse(table), {}
    for path, module in model.named_modules():
        if hasattr(module, "bits"):
            theirs = rules.rename(backwards, f"{path}.weight").removesuffix(".weight")
            found[theirs] = (module.group_size, module.bits, module.mode)
    if not found:
        return None
    common = Counter(found.values()).most_common(1)[0][0]
    others = {path: _keys(layout) for path, layout in found.items() if layout != common}
    return {**_keys(common), **others}


def _keys(layout: tuple[int, int, str]) -> dict[str, Any]:
    return dict(zip(("group_size", "bits", "mode"), layout, strict=True))


def parameters(model: nn.Module) -> Weights:
    """A model's tensors by their paths."""
    return dict(tree_flatten(model.parameters()))


def as_type(raw: Mapping[str, Any], weights: Weights, dtype: mx.Dtype | None) -> Weights:
    """Floating tensors, scales included, in another type; None leaves it to the device."""
    wanted = backend.compute_dtype if dtype is None else lambda _: dtype
    weights = formats.decode(raw, weights)
    return {name: w.astype(wanted(w.dtype)) if _is_float(w) else w for name, w in weights.items()}


def _quantize(
    model: nn.Module, raw: Mapping[str, Any], ours: Weights, backwards: rules.Table
) -> None:
    """Replace the layers whose scales are in the checkpoint by quantized ones, in place.

    config.json's "quantization" holds the recipe of most layers, and all that there is to one that
    differs under its path in mlx-lm's spelling: mlx-lm gives routers among mxfp4 plain 8 bits.
    """
    common = formats.quantization(raw)
    if common is None:
        return
    keys = ("group_size", "bits", "mode")
    if absent := [key for key in keys[:2] if not isinstance(common.get(key), int)]:
        raise CheckpointError(f"quantization in config.json lacks {' and '.join(absent)}.")

    def chosen(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in ours or not hasattr(module, "to_quantized"):
            return False
        if not isinstance(raw.get("quantization"), Mapping):
            found = (ours[f"{path}.weight"].shape[-1], ours[f"{path}.scales"])
            return formats.Layout.found(module.weight.shape[-1], *found).keys
        theirs = rules.rename(backwards, f"{path}.weight").removesuffix(".weight")
        own = common.get(theirs)
        recipe = own if isinstance(own, Mapping) else common
        return formats.Layout.named(recipe, theirs).keys

    try:
        nn.quantize(model, class_predicate=chosen)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"quantization in config.json does not suit this model: {error}"
        ) from error


def _check(model: nn.Module, ours: Weights, backwards: rules.Table) -> None:
    """Raise CheckpointError unless the checkpoint has exactly the model's tensors."""
    wanted = parameters(model)

    def spelled(names: set[str]) -> str:
        listed = sorted(rules.rename(backwards, name) for name in names)
        more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
        return ", ".join(listed[:8]) + more

    if missing := wanted.keys() - ours.keys():
        raise CheckpointError(f"{len(missing)} tensors are missing: {spelled(missing)}.")
    if left := ours.keys() - wanted.keys():
        raise CheckpointError(
            f"{len(left)} tensors have no place: {spelled(left)}. "
            "The checkpoint is not what its config.json says, or has parts that are not ported."
        )
    for name, weight in wanted.items():
        if ours[name].shape != weight.shape:
            raise CheckpointError(
                f"{spelled({name})} has shape {list(ours[name].shape)}; "
                f"config.json makes it {list(weight.shape)}."
            )
        if _is_float(ours[name]) != _is_float(weight):
            raise CheckpointError(
                f"{spelled({name})} holds {_dtype(ours[name])}; "
                f"config.json makes it {_dtype(weight)}."
            )


def _cast(weight: mx.array, dtype: mx.Dtype) -> mx.array:
    return weight.astype(dtype) if _is_float(weight) else weight


def _is_float(weight: mx.array) -> bool:
    return mx.issubdtype(weight.dtype, mx.floating)


def _dtype(weight: mx.array) -> str:
    return str(weight.dtype).removeprefix("mlx.core.")


def _evaluate(model: nn.Module, progress: Callable[[int, int], None] | None) -> None:
    """Bring the weights into memory, piece by piece."""
    arrays = list(parameters(model).values())
    total, done, piece, size = sum(w.nbytes for w in arrays), 0, [], 0
    for weight in arrays:
        piece.append(weight)
        size += weight.nbytes
        if size >= _PIECE or weight is arrays[-1]:
            mx.eval(piece)
            done, piece, size = done + size, [], 0
            if progress is not None:
                progress(done, total)
