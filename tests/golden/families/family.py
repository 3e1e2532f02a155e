"""What an architecture declares to get its golden files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ABSENT: Any = object()

# Our paths of what a layer report compares, and the reference's modules that say it.
TRACE = {
    "embed": "model.embed_tokens",
    "layers.{i}.mixer": "model.layers.{i}.self_attn",
    "layers.{i}.mlp": "model.layers.{i}.mlp",
    "layers.{i}": "model.layers.{i}",
    "norm": "model.norm",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One tiny model: what to build, how the hub spells it, and what must matter in it.

    Make it odd: sizes that no other size is a multiple of, every kind of layer, a norm epsilon
    and a logit scale that show. A size that hides a mistake is a defect here.
    """

    name: str  # of the folder under data/
    reference: str  # class in transformers
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
            r"embed_tokens|lm_head": 2.0,
            r"[qk]_proj": 1.6,
        }
    )
    trace: Mapping[str, str] = field(default_factory=lambda: TRACE)

    seed: int
    dtype: str = "bfloat16"  # of the files; the reference computes in float32
    shards: int = 1
    long: int = 37  # tokens: past every window and every top-k
    short: int = 5  # tokens: inside them
    batch: int = 17  # tokens of each of two rows
    greedy: int = 24  # tokens after the short prompt, by the reference's own cache
