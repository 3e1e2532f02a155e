"""config.json of what is written: spelled as mlx-lm spells it, with nothing left to be guessed.

Source: mlx-lm, utils.py, `load_model` and `save_config`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlxarch import formats, registry
from mlxarch.quantize.recipes import Recipe

if TYPE_CHECKING:
    from .plan import Output

# Whose folder it was, and code that does not come along.
_LEFT = ("_name_or_path", "auto_map", "model_file")


def write(
    raw: Mapping[str, Any],
    outputs: "Sequence[Output]",
    dtype: str | None,
    recipe: Recipe | None,
    packed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """config.json as mlx-lm reads it: the source's, and what it would leave to be guessed.

    Args:
        packed: What mlx-lm wants to know of tensors that the source has in few bits.
    """
    architecture = registry.find(raw)
    config = architecture.model.Config.from_hub(raw)
    written = {key: value for key, value in formats.without(raw).items() if key not in _LEFT}
    keys = architecture.names.mlx_keys(config)
    if "model_type" in keys:
        # mlx-lm knows this language model only by itself.
        written |= written.pop("text_config", None) or {}
    inner = written.get("text_config")
    node = written if inner is None else dict(inner)
    node |= {k: v for k, v in config.spelled_out().items() if node.get(k) is None}
    node |= keys
    if inner is not None:
        written["text_config"] = node
    if dtype:
        written |= {"dtype": dtype, "torch_dtype": dtype}
    return written | _quantization(packed, outputs, recipe)


def layout(packed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """How a tensor is packed, by what config.json says of it."""
    own = packed.get(name.removesuffix(".weight"))
    entry = own if isinstance(own, Mapping) else packed
    found = {key: entry[key] for key in ("group_size", "bits", "mode") if entry.get(key)}
    return {"mode": "affine"} | found


def _quantization(
    packed: Mapping[str, Any] | None, outputs: "Sequence[Output]", recipe: Recipe | None
) -> dict[str, Any]:
    """What config.json says of it, under both of the names that are looked for.

    It holds what most layers have, and all that there is to one that differs under its path. Of one
    that is not quantized it says nothing: mlx-lm knows it by its lack of scales. `packed` speaks of
    the tensors that the source has in few bits and that stay as they are.
    """
    if recipe is None:
        return {} if packed is None else {"quantization": packed, "quantization_config": packed}
    common = recipe.base.entry
    entry: dict[str, Any] = dict(common)
    for output in outputs:
        if output.scheme:
            own = output.scheme.entry
        elif output.stored == "U32" and packed is not None:
            own = layout(packed, output.name)
        else:
            continue
        if own != common:
            entry[output.name.removesuffix(".weight")] = own
    return {"quantization": entry, "quantization_config": entry}
