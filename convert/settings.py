"""config.json of what is written: spelled as mlx-lm spells it, with nothing left to be guessed.

Source: mlx-lm, utils.py, `load_model` and `save_config`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlxarch import formats, registry
from mlxarch.quantize.scheme import Scheme

if TYPE_CHECKING:
    from .plan import Output


def write(
    raw: Mapping[str, Any],
    outputs: "Sequence[Output]",
    dtype: str | None,
    scheme: Scheme | None,
) -> dict[str, Any]:
    """config.json as mlx-lm reads it: the source's, and what it would leave to be guessed."""
    architecture = registry.find(raw)
    config = architecture.model.Config.from_hub(raw)
    written = {key: value for key, value in formats.without(raw).items() if key != "_name_or_path"}
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
    return written | _quantization(formats.quantization(raw), outputs, scheme)


def _quantization(
    packed: Mapping[str, Any] | None, outputs: "Sequence[Output]", scheme: Scheme | None
) -> dict[str, Any]:
    """What config.json says of it, under both of the names that are looked for.

    `packed` speaks of the tensors that the source has in few bits and that stay as they are.
    """
    if scheme is None:
        return {} if packed is None else {"quantization": packed, "quantization_config": packed}
    entry: dict[str, Any] = {
        "group_size": scheme.group_size,
        "bits": scheme.bits,
        "mode": scheme.mode,
    }
    if packed is not None and packed != entry:
        stay = [output.name for output in outputs if output.stored == "U32"]
        entry |= {name.removesuffix(".weight"): dict(packed) for name in stay}
    return {"quantization": entry, "quantization_config": entry}
