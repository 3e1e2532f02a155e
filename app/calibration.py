"""What a model's own outputs decide: which tensors get more bits, and how they are rounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxarch.errors import CheckpointError

from .progress import bar, emit

if TYPE_CHECKING:
    import mlx.core as mx

    from mlxarch.convert.inventory import Inventory
    from mlxarch.convert.plan import Plan
    from mlxarch.convert.target import Target
    from mlxarch.convert.write import Method
    from mlxarch.quantize.recipes import Recipe
    from mlxarch.quantize.sensitivity import Damage

SENSITIVITY = "sensitivity.json"

# Stretches of the text, and their tokens, on which each tensor's damage is measured.
_STRETCHES, _TOKENS = 4, 128


def plan(
    source: Inventory, recipe: Recipe, target: Target | None, file: Path | None, *, gptq: bool
) -> tuple[Plan, Method | None, dict[str, Damage]]:
    """What is written and how, and what was measured to hit a target.

    Args:
        file: The text that the model reads; None is the one that ships with mlxarch.

    Raises: DoesNotFit if the target is too small; FormatError if the text is too short.
    """
    from mlxarch.convert import plan
    from mlxarch.convert import target as targets
    from mlxarch.convert.safetensors import MLX
    from mlxarch.quantize.calibrate import Calibrated

    planned, damages = plan.make(source, recipe=recipe), {}
    if target is None and not gptq:
        return planned, None, damages
    tokens = _read(source, file)
    if target is not None:
        # From all over the text.
        some = tokens[:: max(1, tokens.shape[0] // _STRETCHES), :_TOKENS][:_STRETCHES]
        with bar("Measuring what each tensor is worth", bytes=False) as advance:
            recipe, damages = targets.choose(
                source, recipe, target, some, calibrated=gptq, watch=advance
            )
        planned = plan.make(source, recipe=recipe)
    if not gptq:
        return planned, None, damages
    assert source.folder is not None, "only headers were fetched"
    dtypes = {output.name: MLX[output.dtype] for output in planned.outputs}
    return planned, Calibrated(source.folder, tokens, dtypes), damages


def _read(source: Inventory, file: Path | None) -> mx.array:
    """The text, (N, L)."""
    from mlxarch.quantize import calibrate, quality

    assert source.folder is not None, "only headers were fetched"
    text = quality.read_text(source.folder, file, calibrate.TEXT, calibrate.STRETCHES)
    if text.is_noise:
        raise CheckpointError(
            f"{source.name} gets {text.name}; gptq and a target need text. Put its tokenizer "
            "beside the weights, or leave --method and the target out."
        )
    return text.tokens


def store(out: Path, plan: Plan, damages: dict[str, Damage], as_json: bool) -> None:
    """Put what was measured beside the weights: each tensor's divergence and its bits."""
    from mlxarch.convert import manifest
    from mlxarch.convert.durable import write_text

    rows: list[dict[str, Any]] = [
        {
            "name": output.name,
            "kl_in_3_bits": damages[output.name].kl,
            "scheme": output.scheme.word,
        }
        for output in plan.outputs
        if output.name in damages and output.scheme is not None
    ]
    write_text(out / SENSITIVITY, json.dumps({"version": 1, "tensors": rows}, indent=4))
    manifest.renew(out, [SENSITIVITY])
    if as_json:
        emit("sensitivity", tensors=rows)
        return
    click.echo("KL in 3 bits  scheme  tensor")
    for row in sorted(rows, key=lambda row: -row["kl_in_3_bits"]):
        click.echo(f"{row['kl_in_3_bits']:12.2e}  {row['scheme']:6}  {row['name']}")
