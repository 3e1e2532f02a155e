"""Whether a converted checkpoint is what it should be: its bytes, its tensors, and its source's.

Damage is a finding, whatever it is; nothing here ends at the first one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxarch import backend, shards
from mlxarch.errors import CheckpointError, MlxarchError
from mlxarch.shards import TensorInfo

from . import manifest
from .against import Compared, Side, compare
from .manifest import Manifest
from .safetensors import READ, word
from .scan import Finding, scan

# Of the prompt that both models read.
_TOKENS = 64
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class VerificationFailed(MlxarchError):  # noqa: N818  (reads better than VerificationFailedError)
    """Something is not as it should be."""

    exit_code = 5


@dataclass(frozen=True)
class Progress:
    """What is being done, and how much of it is done."""

    stage: str  # "Reading", "Comparing" or "Computing"
    done: int
    total: int


@dataclass(frozen=True)
class Layers:
    """Both models on a short prompt, in float32."""

    errors: tuple[float, ...]  # ‖it - source‖ / ‖source‖ after each layer
    mean_kl: float  # nats
    top1_agreement: float
    text: str


@dataclass
class Report:
    """What was looked at and what was found."""

    written: Manifest | None = None  # None: there is nothing to hold the bytes against
    tensors: int = 0
    compared: list[Compared] = field(default_factory=list)
    layers: Layers | None = None
    unmeasured: str | None = None  # why there are no layers, where there is a source
    findings: list[Finding] = field(default_factory=list)

    def check(self, out: Path) -> None:
        """Raises: VerificationFailed if anything was found."""
        if self.findings:
            first, count = self.findings[0], len(self.findings)
            more = f", and {count - 1} more" if count > 1 else ""
            raise VerificationFailed(
                f"{out} is not as it should be: {first.where} {first.what.rstrip('.')}{more}."
            )


Watch = Callable[[Progress | Finding | Compared], None]


def verify(
    out: Path,
    source: Path | None = None,
    *,
    threshold: float | None = None,
    watch: Watch = lambda event: None,
) -> Report:
    """Look at a checkpoint, and hold it against its source where that is given.

    Args:
        threshold: The largest relative error of a quantized tensor, instead of what is recorded.
        watch: Called with each thing as it is found, and with what is done of it.

    Raises: ConfigError, CheckpointError, FormatError if the source cannot be read.
    """
    report = Report()

    def found(where: str, what: str) -> None:
        finding = Finding(where, what)
        report.findings.append(finding)
        watch(finding)

    try:
        report.written = manifest.read(out)
    except MlxarchError as error:
        found(manifest.NAME, f"cannot be read: {error}")
    infos, ours = _structure(out, report.written, found)
    modes = _modes(ours) if ours else {}
    try:
        for finding in scan(out, report.written, modes, lambda *n: watch(Progress("Reading", *n))):
            found(finding.where, finding.what)
    except MlxarchError as error:
        found(out.name, str(error))
    report.tensors = len(infos)
    if source is None:
        return report
    theirs = shards.read_headers(shards.find(source))
    if ours is not None:
        exact = mx.float32 if _option(report.written, "dtype") == "float32" else None
        both = ours, Side(shards.read_config(source), theirs, exact)
        _compare(*both, threshold, report, found, watch)
    if report.findings:
        report.unmeasured = "layers are compared when all else is well"
    elif reason := _too_large(infos, theirs):
        report.unmeasured = reason
    else:
        report.layers = _measure(out, source, found, watch)
    return report


def _option(written: Manifest | None, name: str) -> Any:
    return written.options.get(name) if written else None


def _structure(
    out: Path, written: Manifest | None, found: Callable[[str, str], None]
) -> tuple[dict[str, TensorInfo], Side | None]:
    """The tensors of a checkpoint, where they are all there and as config.json makes them."""
    infos: dict[str, TensorInfo] = {}
    try:
        raw = shards.read_config(out)
        infos = shards.read_headers(shards.find(out))
        if odd := sorted(name for name, info in infos.items() if info.dtype not in READ):
            raise CheckpointError(f"{odd[0]} is {infos[odd[0]].dtype}, which is not read.")
        side = Side(raw, infos)
    except MlxarchError as error:
        found(out.name, f"holds no whole model: {error}")
        return infos, None
    dtype = _option(written, "dtype")
    if isinstance(dtype, str) and isinstance(wanted := getattr(mx, dtype, None), mx.Dtype):
        for name, info in infos.items():
            if mx.issubdtype(READ[info.dtype], mx.floating) and info.dtype != word(wanted):
                found(name, f"is {info.dtype}; all of it was written as {word(wanted)}.")
    return infos, side


def _modes(side: Side) -> dict[str, str]:
    """Of scales in eight bits, the mode of what they scale."""
    schemes = {name: side.scheme(name) for name in side.names}
    return {
        f"{name.removesuffix('weight')}scales": scheme.mode
        for name, scheme in schemes.items()
        if scheme is not None and not scheme.affine
    }


def _compare(
    ours: Side,
    theirs: Side,
    threshold: float | None,
    report: Report,
    found: Callable[[str, str], None],
    watch: Watch,
) -> None:
    """Every tensor against the source's."""
    for name in sorted({*ours.names} ^ {*theirs.names}):
        where = "is not in the source" if name in ours.names else "is in the source and not here"
        found(name, f"{where}; is it the source of this one?")
    both = [name for name in ours.names if name in {*theirs.names}]
    for done, name in enumerate(both):
        watch(Progress("Comparing", done, len(both)))
        entry = report.written.tensors.get(name) if report.written else None
        try:
            compared = compare(name, ours, theirs, entry, threshold)
        except MlxarchError as error:
            found(name, f"cannot be compared: {error}")
            continue
        mx.clear_cache()
        report.compared.append(compared)
        watch(compared)
        if compared.relative_error > compared.limit:
            wanted = f"at most {compared.limit:.4g}" if compared.limit else "the same numbers"
            found(name, f"is off its source by {compared.relative_error:.4g}; wanted is {wanted}.")


def _too_large(ours: Mapping[str, TensorInfo], theirs: Mapping[str, TensorInfo]) -> str | None:
    """Why both models cannot be computed here, one layer of each in memory."""
    needed = sum(_largest(infos) for infos in (ours, theirs))
    if needed <= (limit := backend.memory_limit()):
        return None
    return (
        f"a layer of both models at once needs {needed / 1e9:.1f} GB; this machine has "
        f"{limit / 1e9:.1f} GB for a model"
    )


def _largest(infos: Mapping[str, TensorInfo]) -> int:
    """Bytes of the largest layer, and of all that is in none, in float32 at worst."""
    layers: dict[str, int] = {}
    for name, info in infos.items():
        key = found[1] if (found := _LAYER.search(name)) else ""
        growth = 2 if info.dtype in ("BF16", "F16") else 1
        layers[key] = layers.get(key, 0) + growth * info.bytes
    return layers.pop("", 0) + max(layers.values(), default=0)


def _measure(
    out: Path, source: Path, found: Callable[[str, str], None], watch: Watch
) -> Layers | None:
    """Both models on a short prompt."""
    from mlxarch.quantize import quality
    from mlxarch.quantize.stream import Stream

    text = quality.read_text(source)
    prompt = quality.Text(text.name, text.tokens[:1, :_TOKENS])
    streams = (Stream(folder, prompt.tokens) for folder in (source, out))
    try:
        result = quality.compare(*streams, prompt, lambda *n: watch(Progress("Computing", *n)))
    except CheckpointError as error:
        found(out.name, f"cannot be computed: {error}")
        return None
    return Layers(result.layer_errors, result.mean_kl, result.top1_agreement, prompt.name)
