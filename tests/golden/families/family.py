"""What an architecture declares to get its golden files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ABSENT: Any = object()


def trace(model: str = "model", mixer: str = "self_attn") -> dict[str, str]:
    """Our paths of what a layer report compares, and patterns of the reference's modules."""
    return {
        "embed": rf"{model}\.embed_tokens",
        "layers.{i}.mixer": rf"{model}\.layers\.(\d+)\.({mixer})",
        "layers.{i}.mlp": rf"{model}\.layers\.(\d+)\.mlp",
        "layers.{i}": rf"{model}\.layers\.(\d+)",
        "norm": rf"{model}\.norm",
    }


def one_by_one(tensors: dict[str, Any]) -> dict[str, Any]:
    """Experts that the reference keeps fused, each with its own tensors, as on the hub."""
    found = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if not path.endswith(".experts"):
            found[name] = tensor
            continue
        for e, part in enumerate(tensor):
            if last == "gate_up_proj":
                gate, up = part.chunk(2)
                found[f"{path}.{e}.gate_proj.weight"] = gate.contiguous()
                found[f"{path}.{e}.up_proj.weight"] = up.contiguous()
            else:
                found[f"{path}.{e}.{last}.weight"] = part.contiguous()
    return found


def heads_as_layers(tensors: dict[str, Any], depth: int) -> dict[str, Any]:
    """Heads for further tokens under the names of layers past the last, as DeepSeek has them."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("mtp."):
            _, head, rest = name.split(".", 2)
            rest = rest.removeprefix("mtp_block.").replace("post_norm", "shared_head.norm")
            name = f"model.layers.{depth + int(head)}.{rest}"
        found[name] = tensor
    return found


@dataclass(frozen=True, kw_only=True)
class Family:
    """One tiny model: what to build, how the hub spells it, and what must matter in it.

    Make it odd: sizes that no other size is a multiple of, every kind of layer, a norm epsilon
    and a logit scale that show. A size that hides a mistake is a defect here.
    """

    name: str  # of the folder under data/
    reference: str  # class in transformers, or in a module beside make.py ("ling.LingForCausalLM")
    config: Mapping[str, Any]  # its config, as transformers 5 spells it

    # What config.json on the hub has beside or instead (transformers 4); ABSENT takes a key away.
    # rope_parameters and dtype are respelled without being asked.
    hub_config: Mapping[str, Any] = field(default_factory=dict)
    # The reference's tensors as the hub names and shapes them; for most, as they are.
    hub_weights: Callable[[dict[str, Any]], dict[str, Any]] = dict

    # Keys of `config` that are changed one at a time, to the value given; the logits must notice.
    audit: Mapping[str, Any]
    # Random weights have a variance of 1 / columns, times the square of the first gain that fits.
    gain: Mapping[str, float] = field(
        default_factory=lambda: {
            r"embed|lm_head": 2.0,
            r"[qk]_proj": 1.6,
        }
    )
    trace: Mapping[str, str] = field(default_factory=trace)
    # Heads for further tokens, each with a block like that of the layer given.
    heads: int = 0
    head_like: int = -1
    # The spellings of its config that the reference itself reads back.
    reads: tuple[str, ...] = ("config.json", "config_tf5.json")
    # Tensors that text does not touch.
    aside: str = r"vision|projector"

    seed: int
    dtype: str = "bfloat16"  # of the files; the reference computes in float32
    shards: int = 1
    long: int = 37  # tokens: past every window and every top-k
    short: int = 5  # tokens: inside them
    batch: int = 17  # tokens of each of two rows
    greedy: int = 24  # tokens after the short prompt, by the reference's own cache
