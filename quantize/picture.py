"""The quality report as a picture: what was lost, where, and for how many bits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlxarch.words import size

from . import svg

_WIDTH, _MARGIN, _GAP = 880.0, 32.0, 24.0
_HALF = (_WIDTH - 2 * _MARGIN - _GAP) / 2
_LEFT = 46.0  # columns beside a chart for what its rows stand for

Report = Mapping[str, Any]


def quality(report: Report) -> str:
    """quality.svg: the figures, where divergence lies, and how bits and errors are spread."""
    left, right = _MARGIN, _MARGIN + _HALF + _GAP
    parts = report["parts"]
    lower = 400.0
    height = max(170.0, 44 + 22 * len(parts))
    bottom = lower + height
    marks = [
        *_head(report["name"], _subtitle(report)),
        *_tiles(_figures(report), 92),
        svg.phrase(left, 206, "KL divergence by share of positions", "nats"),
        *_divergence(report["kl_percentiles"], left + _LEFT, 226, _HALF - _LEFT, 130),
        svg.phrase(right, 206, "Relative error of the residual stream", "after each layer"),
        *_layers(report["layers"], "relative_error", right + _LEFT, 226, _HALF - _LEFT, 130),
        svg.phrase(left, lower, "Bits per weight", "and share of all bytes"),
        *_parts(parts, left, lower + 22),
        svg.phrase(right, lower, "Bits per weight", "of each layer"),
        *_layers(
            report["layers"], "bits_per_weight", right + _LEFT, lower + 20, _HALF - _LEFT, 110
        ),
        svg.text(_MARGIN, bottom + 14, _footer(report), "soft", size=11),
    ]
    words = ", ".join(f"{label} {value}" for label, value, _ in _figures(report))
    return svg.document(_WIDTH, bottom + 36, f"{report['name']}: {words}", marks)


def comparison(report: Report) -> str:
    """compare.svg: candidates by the bits that they take and what they cost."""
    left, right = _MARGIN, _MARGIN + _HALF + _GAP
    found = report["candidates"]
    colours = [svg.SERIES[i % len(svg.SERIES)] for i in range(len(found))]
    top, base = 126.0, 346.0
    divergences = [one[key] for one in found for key in ("median_kl", "mean_kl", "kl_99")]
    y = svg.logarithmic(divergences, base, top)
    spans = [(one["mean_kl"], one["median_kl"], one["kl_99"]) for one in found]
    marks = [
        *_head(report["name"], f"{len(found)} candidates, from {size(report['original_bytes'])}"),
        svg.phrase(left, 106, "KL divergence", "mean; from the median to 99% of positions"),
        *_spread(found, spans, colours, y, left, base, _power),
    ]
    spans = []
    for one in found:
        middle, error = one["perplexity_ratio"], one["perplexity_ratio_standard_error"]
        spans.append((middle, middle - error, middle + error))
    y = svg.around([value for span in spans for value in span], base, top)
    marks += [
        svg.phrase(right, 106, "Perplexity ratio", "with its standard error"),
        *_spread(found, spans, colours, y, right, base, lambda value: f"{value:.4g}"),
        *_table(found, colours, base + 66),
    ]
    bottom = base + 66 + 22 * (len(found) + 1)
    marks.append(svg.text(_MARGIN, bottom + 14, _footer(report), "soft", size=11))
    words = "; ".join(f"{one['candidate']} mean KL {one['mean_kl']:.4f}" for one in found)
    return svg.document(_WIDTH, bottom + 36, f"{report['name']}: {words}", marks)


def _spread(
    found: Sequence[Report],
    spans: Sequence[tuple[float, float, float]],
    colours: Sequence[str],
    y: svg.Scale,
    left: float,
    base: float,
    words: Callable[[float], str],
) -> list[str]:
    """A dot for each candidate over the bits that it takes, and a line from low to high."""
    bits = [one["bits_per_weight"] for one in found]
    start, end = left + _LEFT, left + _HALF
    room = max(0.4, (max(bits) - min(bits)) * 0.08)
    x = svg.Scale(min(bits) - room, max(bits) + room, start, end)
    marks = [
        *svg.rows(y, start, end, words),
        *svg.columns(x.ticks, x, base, lambda value: f"{value:g}"),
        svg.text((start + end) / 2, base + 32, "bits per weight", "soft", anchor="middle"),
    ]
    for at, (middle, low, high), colour in zip(map(x, bits), spans, colours, strict=True):
        marks.append(svg.line([(at, y(low)), (at, y(high))], colour, width=2))
        marks.append(svg.dot(at, y(middle), colour, radius=5))
    return marks


def _table(found: Sequence[Report], colours: Sequence[str], top: float) -> list[str]:
    """What the colours stand for, with the figures."""
    places = (300, 390, 520, 630, 730, _WIDTH - _MARGIN)
    heads = ("bits per weight", "size", "perplexity ratio", "mean KL", "99% KL", "top-1")
    marks = [
        svg.text(place, top, head, "soft", size=11, anchor="end")
        for place, head in zip(places, heads, strict=True)
    ]
    for i, (one, colour) in enumerate(zip(found, colours, strict=True)):
        y = top + 22 * (i + 1)
        cells = (
            f"{one['bits_per_weight']:.2f}",
            size(one["bytes"]),
            f"{_ratio(one['perplexity_ratio'])} ± {_ratio(one['perplexity_ratio_standard_error'])}",
            f"{one['mean_kl']:.4f}",
            f"{one['kl_99']:.4f}",
            _percent(one["top1_agreement"]),
        )
        marks.append(svg.dot(_MARGIN + 6, y - 4, colour, radius=5))
        marks.append(svg.text(_MARGIN + 20, y, one["candidate"], bold=True))
        marks += [
            svg.text(place, y, cell, anchor="end")
            for place, cell in zip(places, cells, strict=True)
        ]
    return marks


def _head(name: str, subtitle: str) -> list[str]:
    return [
        svg.text(_MARGIN, 46, name, size=21, bold=True),
        svg.text(_MARGIN, 70, subtitle, "soft", size=13),
    ]


def _subtitle(report: Report) -> str:
    return (
        f"{report['recipe']} · {report['bits_per_weight']:.2f} bits per weight · "
        f"{size(report['bytes'])}, from {size(report['original_bytes'])}"
    )


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """A label, a value and what is to be said of it, four times."""
    r = report
    return [
        (
            "Perplexity ratio",
            _ratio(r["perplexity_ratio"]),
            f"± {_ratio(r['perplexity_ratio_standard_error'])} · "
            f"{r['original_perplexity']:.4g} to {r['perplexity']:.4g}",
        ),
        (
            "Mean KL divergence",
            f"{r['mean_kl']:.4f}",
            f"± {r['mean_kl_standard_error']:.4f} nats",
        ),
        (
            "99% of positions below",
            f"{r['kl_99']:.4f}",
            f"nats · median {r['median_kl']:.4f}",
        ),
        (
            "Top-1 agreement",
            _percent(r["top1_agreement"]),
            f"± {_percent(r['top1_agreement_standard_error'])}",
        ),
    ]


def _tiles(figures: Sequence[tuple[str, str, str]], y: float) -> list[str]:
    gap = 16.0
    width = (_WIDTH - 2 * _MARGIN - gap * (len(figures) - 1)) / len(figures)
    marks = []
    for i, (label, value, more) in enumerate(figures):
        x = _MARGIN + i * (width + gap)
        marks += [
            svg.rectangle(x, y, width, 82, "tile", radius=10),
            svg.text(x + 14, y + 22, label, "soft"),
            svg.text(x + 14, y + 50, value, size=22, bold=True),
            svg.text(x + 14, y + 70, more, "soft", size=11),
        ]
    return marks


def _divergence(
    percentiles: Sequence[float], left: float, top: float, width: float, height: float
) -> list[str]:
    """How large the divergence is of at most so many per cent of positions."""
    base = top + height
    x = svg.Scale(0, 100, left, left + width)
    # What rounding alone makes is not worth a decade.
    y = svg.logarithmic([p for p in percentiles if p > percentiles[99] * 1e-6], base, top)
    curve = [(x(i), y(max(p, y.low))) for i, p in enumerate(percentiles)]
    marks = [
        *svg.rows(y, left, left + width, _power),
        *svg.columns([0, 25, 50, 75, 100], x, base, lambda value: f"{value:.0f}%"),
        svg.area([(left, base), *curve, (left + width, base)], "first"),
        svg.line(curve, "first", width=2),
    ]
    for share, word in ((50, "median"), (90, "90%"), (99, "99%")):
        place = curve[share]
        marks.append(svg.dot(*place, "second"))
        marks.append(svg.text(place[0] - 7, place[1] - 7, word, "second", size=11, anchor="end"))
    return marks


def _layers(
    layers: Sequence[Report], key: str, left: float, top: float, width: float, height: float
) -> list[str]:
    """A bar for each layer."""
    base, style = top + height, "second" if key == "relative_error" else "third"
    values = [layer[key] for layer in layers]
    y = svg.linear(values, base, top)
    each = width / len(values)
    thick = max(1.0, each - max(1.0, min(4.0, each / 4)))
    marks = svg.rows(y, left, left + width, lambda value: f"{value:.3g}")
    for i, value in enumerate(values):
        at = left + (i + 0.5) * each
        marks.append(svg.rectangle(at - thick / 2, y(value), thick, base - y(value), style))
    # The first layer is number 0; a label needs some 25 points.
    step = max(1, round(svg.round_step(len(values), max(1, round(width / 40)))))
    middle = svg.Scale(0, len(values), left + each / 2, left + width + each / 2)
    marks += svg.columns(range(0, len(values), step), middle, base, lambda value: f"{value:.0f}")
    return marks


def _parts(parts: Sequence[Report], left: float, top: float) -> list[str]:
    """A bar for each kind of tensor."""
    names, numbers = 104.0, 96.0
    total = sum(part["bytes"] for part in parts)
    x = svg.linear(
        (part["bits_per_weight"] for part in parts), left + names, left + _HALF - numbers
    )
    marks = []
    for i, part in enumerate(parts):
        y = top + 22 * i
        bits, share = part["bits_per_weight"], _percent(part["bytes"] / total)
        marks += [
            svg.text(left + names - 10, y + 10, part["kind"], anchor="end"),
            svg.rectangle(x.start, y, max(1.0, x(bits) - x.start), 13, "third", radius=2),
            svg.phrase(x(bits) + 8, y + 11, f"{bits:.2f}", share),
        ]
    return marks


def _footer(report: Report) -> str:
    source = report["source"].get("repo") or report["source"]["name"]
    revision = report["source"].get("revision")
    made_by = report["made_by"]
    return (
        f"{report['positions']:,} positions of {report['text']} · "
        f"{source}{f' @ {revision[:12]}' if revision else ''} · "
        f"mlxarch {made_by['mlxarch']}, mlx {made_by['mlx']}"
    )


def _power(value: float) -> str:
    """A power of ten, as people write it where they can."""
    return f"{value:g}" if value >= 1e-4 else f"{value:.0e}".replace("e-0", "e-")


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _ratio(value: float) -> str:
    return f"{value:.4f}" if value < 10 else f"{value:.3g}"
