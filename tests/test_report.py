"""The quality report: beside the weights, in the card, as a picture, and of several candidates."""

import hashlib
import json
import re
from xml.etree import ElementTree

import mlx.core as mx
import numpy as np
import pytest
import tiny
from commandline import contents, run
from releases import PACKINGS, packed

from mlxarch.convert import card, inventory, manifest, measure, plan
from mlxarch.convert.write import write
from mlxarch.quantize import picture, report, svg
from mlxarch.quantize.quality import Quality, Text
from mlxarch.quantize.recipes import UNIFORM, Override, Recipe, candidate
from mlxarch.quantize.report import Stored
from mlxarch.quantize.scheme import Scheme

EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("report") / "source", **EVEN)


@pytest.fixture(scope="module")
def text():
    return Text("numbers", mx.random.randint(0, 264, (2, 40), key=mx.random.key(5)))


@pytest.fixture
def measured(source, text, tmp_path):
    """A folder with its report, and the report."""
    made = plan.make(inventory.look(source), recipe=candidate("mixed:3g32"))
    write(made, tmp_path / "out")
    return tmp_path / "out", measure.written(made, tmp_path / "out", text)


@pytest.fixture(autouse=True)
def short_text(monkeypatch):
    monkeypatch.setattr("mlxarch.quantize.quality._TOKENS", 64)


def test_the_file_says_what_was_measured_and_of_what(measured):
    out, found = measured
    assert json.loads((out / "quality.json").read_text(encoding="utf-8")) == found
    assert (found["name"], found["recipe"]) == ("source", "mixed, 3-bit affine, groups of 32")
    assert found["source"] == {"name": "source", "repo": None, "revision": None}
    assert found["made_by"] == manifest.read(out).made_by
    assert (found["tokens"], found["positions"], found["text"]) == (80, 78, "numbers")
    assert found["bytes"] == (out / "model.safetensors").stat().st_size
    stored = mx.load(str(out / "model.safetensors"))
    bits = 8 * sum(array.nbytes for array in stored.values()) / found["parameters"]
    assert found["bits_per_weight"] == pytest.approx(bits)


def test_bits_are_counted_by_layer_and_by_kind(measured):
    out, found = measured
    stored = mx.load(str(out / "model.safetensors"))
    for i, layer in enumerate(found["layers"]):
        own = {name: a for name, a in stored.items() if f".layers.{i}." in name}
        bytes_ = sum(array.nbytes for array in own.values())
        # Scales of 16 weights' groups count the weights; what has none is not packed.
        weights = sum(32 * a.size for name, a in own.items() if name.endswith("scales"))
        weights += sum(a.size for name, a in own.items() if name.endswith("norm.weight"))
        assert layer["bits_per_weight"] == pytest.approx(8 * bytes_ / weights)
    assert len({layer["bits_per_weight"] for layer in found["layers"]}) > 1
    parts = found["parts"]
    assert [part["bytes"] for part in parts] == sorted((p["bytes"] for p in parts), reverse=True)
    assert sum(part["parameters"] for part in parts) == found["parameters"]
    assert sum(part["bytes"] for part in parts) == sum(a.nbytes for a in stored.values())
    assert len({part["kind"] for part in parts}) == len(parts) > 4


def test_what_a_source_has_packed_already_counts_as_what_it_stands_for(tmp_path, text):
    folder, how = tiny.save(tmp_path / "source", **EVEN), PACKINGS["int4"]
    stored = {}
    for name, weight in mx.load(str(folder / "model.safetensors")).items():
        whole = weight.ndim < 2 or "embed" in name or "lm_head" in name
        stored |= {name: weight} if whole else packed(how, name, np.array(weight))[0]
    mx.save_safetensors(str(folder / "model.safetensors"), stored)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": how.config}))

    # Some stay as they are, in groups of 32; the rest is packed anew, in groups of 64.
    recipe = Recipe(UNIFORM, Scheme(4, 64), (Override(r"down_proj|q_proj", Scheme(4, 32)),))
    made = plan.make(inventory.look(folder), recipe=recipe)
    found = measure.unwritten(made, text)
    # With scales and biases in bfloat16: 5 bits in groups of 32, 4.5 in groups of 64.
    small, large, norms = 128 * 64 + 64 * 64, 128 * 128 + 64 * 128, 2 * 64
    bits = (5 * small + 4.5 * large + 32 * norms) / (small + large + norms)
    assert [layer["bits_per_weight"] for layer in found["layers"]] == pytest.approx([bits] * 4)
    assert sum(part["parameters"] for part in found["parts"]) == found["parameters"] == 181_824
    write(made, tmp_path / "out")
    after = measure.written(made, tmp_path / "out", text)
    assert {key: after[key] for key in found} == found


def test_the_hashes_are_those_of_the_files(measured):
    out, found = measured
    own = {"quality.json", "quality.svg", "README.md", "mlxarch.json"}
    assert found["files"].keys() == contents(out).keys() - own
    everything = manifest.read(out).files
    assert everything.keys() == contents(out).keys() - {"mlxarch.json"}
    for name, data in contents(out).items():
        entries = [found["files"][name]] if name not in own else []
        entries += [vars(everything[name])] if name != "mlxarch.json" else []
        for entry in entries:
            assert entry["bytes"] == len(data)
            assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_measuring_again_gives_the_same_bytes(measured, source, text):
    out, _ = measured
    before = contents(out)
    made = plan.make(inventory.look(source), recipe=candidate("mixed:3g32"))
    measure.written(made, out, text)
    assert contents(out) == before


def test_the_card_has_the_figures_and_the_picture(measured):
    out, found = measured
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert readme.count("## Quality") == 1
    assert "](quality.svg)" in readme
    assert f"| mean KL | {found['mean_kl']:.4f} ± {found['mean_kl_standard_error']:.4f}" in readme
    assert f"| top-1 agreement | {found['top1_agreement']:.1%} ± " in readme
    assert f"| perplexity ratio | {found['perplexity_ratio']:.4f} ± " in readme
    assert "| recipe | mixed, 3-bit affine, groups of 32 |" in readme
    assert f"| bits per weight | {found['bits_per_weight']:.2f} |" in readme
    assert "| source | source |" in readme
    assert readme.startswith("---\nlibrary_name: mlx\n")


def test_an_older_section_of_the_card_is_replaced_and_nothing_else(measured):
    _, found = measured
    first = card.with_report("# Mine\n\nIt runs.\n", found)
    assert first.startswith("# Mine\n\nIt runs.\n\n## Quality\n\n")
    assert card.with_report(first, found) == first
    longer = f"{first}\n## Licence\n\nFree.\n"
    again = card.with_report(longer, {**found, "recipe": "another"})
    assert again.count("## Quality") == 1
    assert "| recipe | another |" in again
    assert "## Licence\n\nFree." in again
    assert "3-bit" not in again
    named = {**found, "source": {"name": "a", "repo": "them/theirs", "revision": "abc"}}
    assert "| source | them/theirs, revision abc |" in card.with_report("", named)
    either = card.with_report("", {**found, "recipe": "default, q_proj|k_proj=8"})
    assert r"| recipe | default, q_proj\|k_proj=8 |" in either


def places(drawing):
    """All horizontal and vertical places of a picture."""
    x, y = [], []
    for mark in drawing.iter():
        for key, value in mark.attrib.items():
            if key == "points":
                pairs = [pair.split(",") for pair in value.split()]
                x += [float(pair[0]) for pair in pairs]
                y += [float(pair[1]) for pair in pairs]
            elif key in ("x", "cx"):
                x.append(float(value))
                x += [float(value) + float(mark.get("width", 0))]
            elif key in ("y", "cy"):
                y.append(float(value))
                y += [float(value) + float(mark.get("height", 0))]
    return x, y


def check_picture(drawn):
    """It is SVG, in its frame, with numbers only, in colours that exist on light and on dark."""
    drawing = ElementTree.fromstring(drawn)
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    x, y = places(drawing)
    assert len(x) > 40
    assert 0 <= min(x) <= max(x) <= width
    assert 0 <= min(y) <= max(y) <= height
    assert not re.search(r"\bnan\b|\binf\b", drawn)
    light, dark = re.split(
        r"@media \(prefers-color-scheme:dark\)", drawing.find(f"{SVG}style").text
    )
    for style in {mark.get("class") for mark in drawing.iter() if mark.get("class")}:
        assert f".{style}{{" in light
        assert f".{style}{{" in dark
    # Contrast of what is read with what it stands on.
    for sheet in (light, dark):
        for ink in ("ink", "soft", "second"):
            for ground in ("page", "tile"):
                assert contrast(colour(sheet, ink), colour(sheet, ground)) > 3.2
    return drawing


def colour(sheet, style):
    return re.search(rf"\.{style}{{fill:#(\w{{6}})}}", sheet)[1]


def contrast(a, b):
    """As WCAG 2 defines it."""

    def luminance(hexadecimal):
        parts = [int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted([luminance(a), luminance(b)])
    return (light + 0.05) / (dark + 0.05)


def words(drawing):
    return [" ".join(mark.itertext()) for mark in drawing.iter(f"{SVG}text")]


def test_the_picture_shows_the_figures(measured):
    out, found = measured
    drawing = check_picture((out / "quality.svg").read_text(encoding="utf-8"))
    shown = words(drawing)
    assert f"{found['mean_kl']:.4f}" in shown
    assert f"{found['perplexity_ratio']:.4f}" in shown
    assert f"{found['top1_agreement']:.1%}" in shown
    for part in found["parts"]:
        assert part["kind"] in shown
    assert "mean KL" in drawing.find(f"{SVG}title").text.replace("Mean", "mean")
    bars = [mark for mark in drawing.iter(f"{SVG}rect") if mark.get("class") == "second"]
    heights = [float(bar.get("height")) for bar in bars]
    errors = [layer["relative_error"] for layer in found["layers"]]
    assert heights == pytest.approx([heights[0] * e / errors[0] for e in errors], rel=0.02)


def a_report(depth=32, kls=None, **changes):
    """A report as a large model has it."""
    kls = tuple(10 ** (i / 25 - 4) for i in range(101)) if kls is None else kls
    figures = dict.fromkeys(Quality.__dataclass_fields__, 1.0) | {
        "tokens": 2048,
        "positions": 2044,
        "text": "the text that comes with mlxarch",
        "kl_percentiles": kls,
        "layer_errors": tuple(0.01 * (i + 1) for i in range(depth)),
    }
    found = report.make(
        Quality(**figures),
        [Stored(f"model.layers.{i}.mlp.up_proj.weight", (100, 64), 3600) for i in range(depth)],
        lambda name, shape: "mlp",
        name="Model",
        recipe="default",
        bytes=10**12,
        original_bytes=2 * 10**12,
        parameters=10**12,
        bits_per_weight=4.5,
        source={"name": "them/Model", "repo": "them/Model", "revision": "0123456789abcdef"},
        made_by={"mlxarch": "1", "mlx": "2"},
    )
    return found | changes


@pytest.mark.parametrize(
    "found",
    [
        a_report(),
        a_report(depth=1),
        a_report(depth=120),
        a_report(kls=(0.0,) * 101, mean_kl=0.0),
        a_report(kls=(0.0,) * 99 + (1e-9, 3e-9)),
        a_report(kls=(40.0,) * 101, perplexity_ratio=1e9),
        a_report(name="<&\"'>", recipe="]]> & default"),
    ],
    ids=["large", "shallow", "deep", "equal", "nearly equal", "broken", "escaped"],
)
def test_any_report_can_be_drawn(found):
    drawing = check_picture(picture.quality(found))
    assert found["name"] in words(drawing)
    assert any("them/Model @ 0123456789ab ·" in line for line in words(drawing))
    assert picture.quality(found) == picture.quality(json.loads(report.text(found)))
    check_picture(picture.comparison(report.comparison({"a": found, "b & c": found})))


def test_no_number_that_json_lacks_is_written():
    with pytest.raises(ValueError, match="Out of range float"):
        report.text(a_report(mean_kl=float("nan")))


def test_scales_put_values_between_round_ticks():
    scale = svg.linear([0.3, 4.2], 100, 0)
    assert (scale(0), scale.ticks) == (100, [0, 2, 4, 6])
    assert scale(6) == 0
    scale = svg.logarithmic([0.002, 0, 3], 0, 100)
    assert scale.ticks == [0.001, 0.01, 0.1, 1, 10]
    assert scale(0.1) == pytest.approx(50)
    # Nothing is infinitely far below.
    assert scale(0) == 0
    scale = svg.around([0.98, 1.13], 0, 100)
    assert (scale.low, scale.high) == pytest.approx((0.95, 1.15))


def test_candidates_are_compared_in_one_table_and_one_picture(
    source, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    assert run(monkeypatch, "quantize", source, out, "--compare", "3, mxfp4,mixed:3g32") == 0
    told = capsys.readouterr()
    head, *rows = told.out.splitlines()
    assert re.split(r"  +", head) == [
        "candidate", "bits per weight", "size", "perplexity ratio", "mean KL", "median", "99%",
        "top-1", "seconds",
    ]  # fmt: skip
    assert [len(row) for row in rows] == [len(head)] * 3
    assert sorted(contents(out)) == ["compare.json", "compare.svg"]
    found = json.loads((out / "compare.json").read_text())
    assert [one["candidate"] for one in found["candidates"]] == ["3", "mxfp4", "mixed:3g32"]
    for row, one in zip(rows, found["candidates"], strict=True):
        cells = re.split(r"  +", row)
        assert cells[0] == one["candidate"]
        assert cells[1] == f"{one['bits_per_weight']:.2f}"
        ratio, error = one["perplexity_ratio"], one["perplexity_ratio_standard_error"]
        assert cells[3] == f"{ratio:.4f} ± {error:.4f}"
        assert cells[4:7] == [f"{one[key]:.4f}" for key in ("mean_kl", "median_kl", "kl_99")]
        assert cells[7] == f"{one['top1_agreement']:.1%}"
    assert (found["name"], found["tokens"], found["positions"]) == ("source", 256, 252)
    drawing = check_picture((out / "compare.svg").read_text(encoding="utf-8"))
    assert {"3", "mxfp4", "mixed:3g32"} <= set(words(drawing))
    assert "256 tokens of the text that comes with mlxarch were read" in told.err

    # What was said of a candidate is what its weights are worth, and is said again.
    before = contents(out)
    assert run(monkeypatch, "quantize", source, out, "--compare", "3,mxfp4,mixed:3g32") == 0
    assert contents(out) == before
    own = ("--recipe", "mixed", "--bits", 3, "--group-size", 32)
    assert run(monkeypatch, "quantize", source, tmp_path / "mixed", *own) == 0
    written = json.loads((tmp_path / "mixed" / "quality.json").read_text())
    third = found["candidates"][2]
    for key in third.keys() - {"candidate"}:
        assert written[key] == third[key]


def test_a_comparison_for_programs(source, tmp_path, monkeypatch, capsys):
    arguments = ("quantize", source, tmp_path / "out", "--compare", "3,8", "--json")
    assert run(monkeypatch, *arguments, "--override", "lm_head=keep") == 0
    told = capsys.readouterr()
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [event["event"] for event in events] == ["candidate", "candidate", "done"]
    assert told.err == ""
    first, second, _ = events
    assert first["mean_kl"] > second["mean_kl"]
    assert first["seconds"] > 0
    assert "lm_head" in first["recipe"]
    head = next(part for part in first["parts"] if part["kind"] == "head")
    assert head["bits_per_weight"] == 32


def test_a_dry_run_of_a_comparison_only_tells_sizes(source, tmp_path, monkeypatch, capsys):
    arguments = ("quantize", source, tmp_path / "out", "--compare", "3,8", "--dry-run")
    assert run(monkeypatch, *arguments) == 0
    rows = [re.split(r"  +", row) for row in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["candidate", "bits per weight", "size"]
    assert [row[0] for row in rows[1:]] == ["3", "8"]
    assert run(monkeypatch, *arguments, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f"{event['bits_per_weight']:.2f}" for event in events] == [row[1] for row in rows[1:]]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--compare", "4,7"), "7 bits"),
        (("--compare", "4,,8"), "nothing between two commas"),
        (("--compare", "4,8", "--bits", "3"), "--compare says which formats"),
        (("--text", "nowhere.txt"), "'nowhere.txt' does not exist"),
    ],
)
def test_what_cannot_be_compared_is_a_matter_of_usage(
    source, tmp_path, monkeypatch, capsys, arguments, said
):
    assert run(monkeypatch, "quantize", source, tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_comparison_takes_no_other_folder(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert run(monkeypatch, "quantize", source, out, "--compare", "8") == 1
    assert f"{out} exists; choose another name" in capsys.readouterr().err
    assert run(monkeypatch, "quantize", source, source / "in", "--compare", "8") == 1
    assert "which stays as it is" in capsys.readouterr().err
    assert contents(out) == {"mine.txt": b"mine"}


def test_a_text_that_is_too_short_is_said_before_anything_is_written(
    source, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "short.txt"
    file.write_text("Short.")
    assert run(monkeypatch, "quantize", source, tmp_path / "out", "--text", file) == 1
    assert "short.txt has 6 tokens; 100 are needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    file.write_text("Long enough. " * 20)
    assert run(monkeypatch, "quantize", source, tmp_path / "out", "--text", file) == 0
    assert "256 tokens of short.txt" in capsys.readouterr().out


def test_a_kill_while_measuring_leaves_a_whole_folder_that_the_same_command_measures(
    source, tmp_path, monkeypatch, capsys
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(monkeypatch, "quantize", source, whole) == 0
    capsys.readouterr()

    def killed(*arguments):
        raise KeyboardInterrupt

    # Before anything is measured, and between two of the report's files.
    for place in ("quality.compare", "picture.quality", "card.with_report"):
        with monkeypatch.context() as patched:
            patched.setattr(f"mlxarch.convert.measure.{place}", killed)
            assert run(patched, "quantize", source, out) == 130
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert run(monkeypatch, "quantize", source, out) == 0
    assert "is whole already" in capsys.readouterr().err
    assert contents(out) == contents(whole)
