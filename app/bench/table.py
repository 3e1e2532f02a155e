"""What was measured, for people and for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from mlxarch.words import size

from .measure import Row, Spread


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rows have in common."""

    model: str
    architecture: str
    quantization: str | None
    device: str
    bandwidth: float  # bytes a second that were read from memory
    weights: int  # bytes
    weights_read: int  # bytes of them for each token
    tokens: int
    rounds: int
    versions: dict[str, str]

    def read(self, row: Row) -> int:
        """Bytes that a token is computed from at least: weights, and the cache as it is."""
        return self.weights_read + max((run.cache for run in row.runs), default=0)

    def share(self, row: Row) -> float | None:
        """The share of the memory's bandwidth that decoding comes to, where nobody guesses."""
        if row.decode is None or row.accepted is not None or not row.runner.ours:
            return None
        return self.read(row) * row.decode.median / self.bandwidth


def heading(setting: Setting) -> Text:
    """What was measured, and where."""
    packed = f", {setting.quantization}" if setting.quantization else ""
    rounds = "one run" if setting.rounds == 1 else f"median of {setting.rounds} (least-most)"
    return Text(
        f"{setting.model} ({setting.architecture}{packed})\n"
        f"{size(setting.weights)} of weights, {size(setting.weights_read)} read for a token; "
        f"{setting.device}, {setting.bandwidth / 1e9:.1f} GB/s\n"
        f"tokens a second: {rounds}"
    )


def table(setting: Setting, rows: Sequence[Row]) -> Table:
    """The rows of one prompt; how often others' speed goes into ours stands behind theirs."""
    ours = rows[0]
    shown = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    shown.title = f"{rows[0].context:,} tokens of prompt"
    for name in ("", "prefill", "decode", "bandwidth", "right", "memory"):
        shown.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for row in rows:
        name = row.runner.name
        if row.prompt < row.context:
            name += f", {row.prompt:,} tokens"
        shown.add_row(
            name,
            _spread(row.prefill),
            _spread(row.decode),
            _percent(setting.share(row)),
            _percent(row.accepted),
            size(row.memory),
        )
        if row is not ours:
            shown.add_row(
                f"  {ours.runner.name} is" if not row.runner.ours else f"  of {ours.runner.name}",
                _times(*_order(row, ours.prefill, row.prefill)),
                _times(*_order(row, ours.decode, row.decode)),
            )
    return shown


def as_json(setting: Setting, tables: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Everything, in tokens, bytes and seconds."""
    return {**asdict(setting), "rows": [_row(setting, row) for rows in tables for row in rows]}


def _row(setting: Setting, row: Row) -> dict[str, Any]:
    return {
        "runner": row.runner.name,
        "context": row.context,
        "prompt": row.prompt,
        "prefill": row.prefill and asdict(row.prefill),
        "decode": row.decode and asdict(row.decode),
        "accepted": row.accepted,
        "bytes_per_token": setting.read(row) if row.runner.ours else None,
        "bandwidth_share": setting.share(row),
        "memory": row.memory,
        "runs": [asdict(run) for run in row.runs],
    }


def _order(
    row: Row, ours: Spread | None, its: Spread | None
) -> tuple[Spread | None, Spread | None]:
    """Ours over theirs, but another way of ours over the plain one."""
    return (its, ours) if row.runner.ours else (ours, its)


def _times(above: Spread | None, below: Spread | None) -> str:
    if above is None or below is None:
        return ""
    return f"{_figure(above.median / below.median)} x"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.most:
        return _figure(spread.median)
    return f"{_figure(spread.median)} ({_figure(spread.least)}-{_figure(spread.most)})"


def _figure(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
