"""What a plan costs in quality: of its output, or of what it would write."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxarch.names.rules import Weights
from mlxarch.quantize import picture, quality, report
from mlxarch.quantize.quality import Text
from mlxarch.quantize.report import Stored
from mlxarch.quantize.stream import Stream

from . import card, manifest
from .durable import write_text
from .partial import check_target
from .plan import Output, Plan
from .reader import Reader
from .safetensors import MLX
from .tensors import Read

COMPARISON, COMPARISON_PICTURE = "compare.json", "compare.svg"

# What a packed tensor consists of.
_ENDS = ("weight", "scales", "biases")

Watch = Callable[[int, int], None]


def written(
    plan: Plan, out: Path, text: Text, watch: Watch = lambda done, total: None
) -> dict[str, Any]:
    """Measure a plan's output, and put the report beside its weights and into its card.

    Args:
        watch: Called with the steps that are done, and all of them.

    Raises: CheckpointError if a model computes what is no number; FormatError.
    """
    found = _report(plan, Stream(out, text.tokens), text, watch)
    made = manifest.read(out)
    own = {report.NAME, report.PICTURE, card.NAME}
    found["files"] = {
        name: {"bytes": entry.bytes, "sha256": entry.sha256}
        for name, entry in (made.files if made else {}).items()
        if name not in own
    }
    write_text(out / report.NAME, report.text(found))
    write_text(out / report.PICTURE, picture.quality(found))
    readme = (out / card.NAME).read_text(encoding="utf-8")
    write_text(out / card.NAME, card.with_report(readme, found))
    manifest.renew(out, own)
    return found


def unwritten(plan: Plan, text: Text, watch: Watch = lambda done, total: None) -> dict[str, Any]:
    """Measure what a plan would write, which is made layer by layer and forgotten.

    Raises: CheckpointError if a model computes what is no number.
    """
    return _report(plan, Stream((plan.config, weights(plan)), text.tokens), text, watch)


def check_place(plan: Plan, out: Path) -> None:
    """Refuse a place for a comparison where something else is, or that lies in the source.

    Raises: MlxarchError.
    """
    known = {COMPARISON, COMPARISON_PICTURE}
    if not (out.is_dir() and {path.name for path in out.iterdir()} <= known):
        check_target(out, plan.source.folder)


def store(out: Path, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write what was measured of several plans for one source into a folder of its own.

    Args:
        reports: What `unwritten` has found of each, by the name of each.
    """
    found = report.comparison(reports)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / COMPARISON, report.text(found))
    write_text(out / COMPARISON_PICTURE, picture.comparison(found))
    return found


def read_text(plan: Plan, file: Path | None = None) -> Text:
    """What is read to measure a plan: a file, or the text that ships with mlxarch.

    Raises: FormatError if the file is too short.
    """
    assert plan.source.folder is not None, "only headers were fetched"
    return quality.read_text(plan.source.folder, file)


def weights(plan: Plan) -> Weights:
    """All tensors of the output, lazily: evaluated, they are what its files would hold."""
    read = Reader(plan.source.tensors, lambda shard: shard)
    return {name: array for output in plan.outputs for name, array in _parts(output, read).items()}


def _parts(output: Output, read: Read) -> Weights:
    """A tensor, or what it is packed into, expert by expert."""
    pieces = (piece.astype(MLX[output.dtype]) for piece in output.tensor.pieces(read))
    if output.scheme is None:
        return {output.name: mx.concatenate(list(pieces))}
    layout = output.scheme.group_size, output.scheme.bits, output.scheme.mode
    packed = zip(*(mx.quantize(piece, *layout) for piece in pieces), strict=True)
    names = (part.name for part in output.parts)
    return {name: mx.concatenate(list(arrays)) for name, arrays in zip(names, packed, strict=True)}


def _report(plan: Plan, output: Stream, text: Text, watch: Watch) -> dict[str, Any]:
    assert plan.source.folder is not None, "only headers were fetched"
    assert plan.schemes is not None, "nothing is quantized"
    source, original = plan.source, Stream(plan.source.folder, text.tokens)
    return report.make(
        quality.compare(original, output, text, watch),
        _stored(plan),
        plan.schemes.kind,
        name=source.name.rsplit("/", 1)[-1],
        recipe=str(plan.schemes.recipe),
        bytes=plan.bytes_out,
        original_bytes=plan.bytes_in,
        parameters=plan.parameters,
        bits_per_weight=plan.bits_per_weight,
        source={"name": source.name, "repo": source.repo, "revision": source.revision},
        made_by=manifest.versions(),
    )


def _stored(plan: Plan) -> Iterator[Stored]:
    """The tensors of the output; what the source has packed already is one tensor as well."""
    outputs = {output.name: output for output in plan.outputs}
    common = plan.config.get("quantization") or {}
    for name, output in outputs.items():
        path, _, last = name.rpartition(".")
        groups = outputs.get(f"{path}.scales")
        if groups is None:
            yield Stored(name, output.shape, output.bytes)
        elif last == "weight":
            own = [outputs[part] for end in _ENDS if (part := f"{path}.{end}") in outputs]
            size = common.get(path, common)["group_size"]
            shape = (*groups.shape[:-1], groups.shape[-1] * size)
            yield Stored(name, shape, sum(part.bytes for part in own))
        elif last not in _ENDS:
            yield Stored(name, output.shape, output.bytes)
