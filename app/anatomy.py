"""A model's anatomy in words and figures, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from mlxarch import shards
from mlxarch.convert import hub
from mlxarch.errors import CheckpointError, FormatError
from mlxarch.files import local

from .model import name as called

if TYPE_CHECKING:
    from mlxarch.anatomy import Anatomy
    from mlxarch.plan import FeedForward, Mixer

LENGTHS = {"8k": 8_192, "32k": 32_768, "128k": 131_072}  # tokens

_WORDS = {"latent": "MLA", "delta": "DeltaNet", "lightning": "lightning"}


def look(model: str, *, revision: str | None = None, offline: bool = False) -> tuple[str, Anatomy]:
    """A model's name and its anatomy, from a folder, a config.json or a repository.

    Of a repository only config.json is fetched. Weights that lie beside a config but cannot be
    used are reported on stderr and left out.

    Raises: ConfigError, HubError.
    """
    path = local(model)
    if not os.path.exists(path):
        path = hub.fetch_config(model, revision=revision, offline=offline).parent
    raw = shards.read_config(path)
    # This imports mlx-lm, which takes seconds: what is not there is said before.
    from mlxarch.anatomy import examine

    if path.is_file():
        # Not the file's own path resolved: in the hub's cache that is a blob.
        name = called(path.parent) if path.name == "config.json" else path.stem
        return name, examine(raw)
    name = called(path)
    if not any(path.glob("model*.safetensors")):
        return name, examine(raw)
    try:
        return name, examine(raw, path)
    except (CheckpointError, FormatError) as error:
        click.echo(f"Shown from config.json alone. {type(error).__name__}: {error}", err=True)
        return name, examine(raw)


def as_json(name: str, anatomy: Anatomy) -> dict[str, Any]:
    """Everything that is known of a model, for programs: parameters, bytes and tokens."""
    cache = {"fixed": anatomy.cache_fixed, "per_token": anatomy.cache_per_token}
    cache |= {str(tokens): anatomy.cache_bytes(tokens) for tokens in LENGTHS.values()}
    return {"model": name, **asdict(anatomy), "cache": cache}


def mixer_word(mixer: Mixer) -> str:
    """A mixer in a word."""
    if mixer.kind == "attention":
        return "window" if mixer.window else "full"
    if mixer.kind == "sparse":
        return "sparse MLA" if mixer.indexed else "shared sparse MLA"
    return _WORDS[mixer.kind]


def mlp_word(mlp: FeedForward) -> str:
    """A feed-forward network in a word."""
    return "experts" if mlp.experts else "dense"


def mixer_details(mixer: Mixer) -> str:
    """What the word leaves out: "4,096 tokens in view, RoPE, 48/8 heads of 128"."""
    seen = mixer.window or mixer.chosen
    parts = [f"{seen:,} tokens in view"] if seen else []
    if mixer.kind == "sparse" and not mixer.indexed:
        parts.append("in view what a layer before has chosen")
    if mixer.kind != "delta":
        parts.append("RoPE" if mixer.rotated else "no position")
    heads = str(mixer.heads) + (f"/{mixer.kv_heads}" if mixer.kv_heads != mixer.heads else "")
    return ", ".join([*parts, f"{heads} heads of {mixer.head_dim}"])


def mlp_details(mlp: FeedForward) -> str:
    """What the word leaves out: "4 of 256, 3,072 wide, and a shared one of 3,072"."""
    if not mlp.experts:
        return f"{mlp.hidden:,} wide"
    shared = f", and a shared one of {mlp.shared:,}" if mlp.shared else ""
    return f"{mlp.chosen} of {mlp.experts}, {mlp.hidden:,} wide{shared}"


def plan(words: Sequence[str]) -> str:
    """What stands in which order: "3 x window, 1 x full, 15 times"."""
    runs = _runs(words)
    if unit := _unit(runs):
        times = len(runs) // unit
        text = f"{_spelled(runs[:unit])}, {times} times"
        rest = runs[unit * times :]
        return f"{text}, then {_spelled(rest)}" if rest else text
    if len(runs) <= 4:
        return ", then ".join(_spelled([run]) for run in runs)
    counts = {word: list(words).count(word) for word in words}
    return _spelled(counts.items()) + ", as drawn"


def period(words: Sequence[str]) -> int:
    """How many layers the plan repeats; 0 if it repeats nothing."""
    runs = _runs(words)
    return sum(length for _, length in runs[: _unit(runs)])


def _runs(words: Iterable[str]) -> list[tuple[str, int]]:
    return [(word, len(list(run))) for word, run in groupby(words)]


def _unit(runs: Sequence[tuple[str, int]]) -> int:
    """How many runs make the unit that a plan repeats; 0 if it repeats nothing."""
    for unit in range(2, len(runs) // 2 + 1):
        times = len(runs) // unit
        if list(runs[:unit]) * times == list(runs[: unit * times]):
            return unit
    return 0


def _spelled(runs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{length} x {word}" for word, length in runs)
