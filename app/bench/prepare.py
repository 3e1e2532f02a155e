"""What a bench needs before its first run: weights, runners and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import click
import mlx.core as mx
import numpy as np

from mlxarch import anatomy, backend, checkpoint, compat, registry, shards
from mlxarch.cache import Past
from mlxarch.convert import durable
from mlxarch.errors import DoesNotFit, MlxarchError
from mlxarch.quantize import synthetic
from mlxarch.quantize.recipes import Recipe
from mlxarch.tokenizer import Tokenizer

from .. import model as models
from ..loading import check_same_tokens, needed
from .runners import Ours, Runner, Theirs
from .table import Setting


@dataclass(frozen=True)
class Bench:
    """Models in memory, and what they are asked."""

    name: str
    folder: Path
    runners: Sequence[Runner]  # the first is our plain one
    prompts: Sequence[Sequence[int]]

    def setting(self, tokens: int, rounds: int) -> Setting:
        """What the table says above its rows."""
        plain = self.runners[0]
        assert isinstance(plain, Ours)
        raw = shards.read_config(self.folder)
        weights = checkpoint.parameters(plain.model)
        heads = sum(w.nbytes for name, w in weights.items() if name.startswith("mtp."))
        return Setting(
            model=self.name,
            architecture=registry.find(raw).name,
            quantization=anatomy.quantization(raw),
            device=backend.device(),
            bandwidth=backend.bandwidth(),
            weights=sum(w.nbytes for w in weights.values()) - heads,
            weights_read=anatomy.bytes_read(plain.model),
            tokens=tokens,
            rounds=rounds,
            versions={name: version(name) for name in ("mlxarch", "mlx", "mlx-lm")},
        )


def synthesize(config: Path, folder: Path, layers: int | None, recipe: Recipe) -> None:
    """Write random weights in the shape of a config.json's first layers.

    Raises: DoesNotFit if they have no room in memory or on the disk; ConfigError.
    """
    raw = synthetic.shortened(shards.read_config(config), layers)
    found = anatomy.examine(raw)
    size = int(found.total.parameters * recipe.base.bits_per_weight / 8)
    places = {"memory": backend.free_memory(), f"disk in {folder}": durable.free_bytes(folder)}
    for place, free in places.items():
        if size > free:
            raise DoesNotFit(
                f"{len(found.layers)} layers of {config.name} take {size / 1e9:.1f} GB of {place}, "
                f"and {free / 1e9:.1f} GB are free. Give fewer --layers."
            )
    click.echo(f"Making {size / 1e9:.2f} GB of random weights ...", err=True)
    synthetic.write(raw, folder, recipe)


def prepare(
    folder: Path,
    name: str | None,
    draft: str,
    kv_bits: int | None,
    against: bool,
    question: str,
    contexts: Sequence[int],
) -> Bench:
    """Load who takes part, and make the prompts that the model's context holds.

    Args:
        name: What random weights are called; None where they are no random ones.
        draft, kv_bits: As `Load` wants them.
        against: Whether mlx-lm takes part.

    Raises: UsageError if no prompt fits; DoesNotFit if the weights of all do not; ConfigError if a
        smaller model has other tokens; MlxarchError if mlx-lm cannot load the weights.
    """
    raw = shards.read_config(folder)
    config = registry.find(raw).model.Config.from_hub(raw)
    if not (fitting := [length for length in contexts if length < config.context]):
        raise click.UsageError(
            f"The model's context holds {config.context:,} tokens; give a shorter --context."
        )
    tokenizer = Tokenizer(folder) if name is None else None
    smaller = None if draft in models.WITHOUT_MODEL else Path(draft)
    # On a CPU mlx-lm takes part twice.
    needed(folder, smaller, *[folder] * (against * (2 if backend.device() == "CPU" else 1)))
    if smaller is not None and tokenizer is not None:
        check_same_tokens(smaller, folder, tokenizer)
    model = checkpoint.load(folder, heads=draft == "heads")
    stop_ids = tokenizer.stop_ids if tokenizer else frozenset()
    runners: list[Runner] = [Ours("plain", model, stop_ids)]
    if smaller is not None:
        past = Past(checkpoint.load(smaller, heads=False))
        runners.append(Ours(models.name(smaller), model, stop_ids, draft=past))
    elif draft == "lookup" or (draft == "heads" and model.mtp):
        runners.append(Ours(draft, model, stop_ids, draft=draft))
    if kv_bits is not None:
        runners.append(Ours(f"{kv_bits}-bit cache", model, stop_ids, kv_bits=kv_bits))
    if against:
        runners += _mlx_lm(folder)
    if tokenizer is None:
        random = np.random.default_rng(0)
        prompts = [random.integers(0, config.vocab, length).tolist() for length in fitting]
    else:
        prompts = [_prompt(tokenizer, question, length) for length in fitting]
    return Bench(name or models.name(folder), folder, runners, prompts)


def _mlx_lm(folder: Path) -> list[Runner]:
    """mlx-lm as it comes, and with the floats that a CPU is quick with."""
    try:
        found: list[Runner] = [Theirs("mlx-lm", compat.load_model(folder)[0])]
        if backend.device() == "CPU":
            model = compat.load_model(folder)[0]
            model.set_dtype(mx.float32)
            found.append(Theirs("mlx-lm, float32", model))
    # It raises whatever its models do.
    except Exception as error:
        raise MlxarchError(f"mlx-lm cannot load {folder}: {error}. Leave --against out.") from error
    return found


def _prompt(tokenizer: Tokenizer, question: str, length: int) -> list[int]:
    """A question behind so many words of a text that it has about `length` tokens."""
    text = files("mlxarch.quantize").joinpath("calibration.txt").read_text(encoding="utf-8")
    words = text.split(" ")
    # No word is less than a token.
    words = (words * (1 + length // len(words)))[:length]

    def asked(count: int) -> list[int]:
        content = " ".join(words[:count]) + "\n\n" + question if count else question
        return tokenizer.prompt([{"role": "user", "content": content}]).tokens

    least, most = 0, len(words)
    while least + 1 < most:
        middle = (least + most) // 2
        least, most = (middle, most) if len(asked(middle)) <= length else (least, middle)
    return asked(least)
