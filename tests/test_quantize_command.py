"""`mlxarch quantize` on the command line."""

import json
import re

import pytest
import tiny
from commandline import run

EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source", **EVEN)


@pytest.fixture(autouse=True)
def short_text(monkeypatch):
    monkeypatch.setattr("mlxarch.quantize.quality._TOKENS", 64)


def test_stdout_lists_each_tensor_s_error_and_then_the_model_s(
    source, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    assert run(monkeypatch, "quantize", source, out) == 0
    told = capsys.readouterr()
    head, *rows = told.out.splitlines()
    assert head == "relative error  scheme  tensor"
    tensors, figures = rows[:30], rows[30:]
    assert all(re.fullmatch(r" +0\.\d{4}  \d       [\w.]+\.weight", row) for row in tensors)
    assert not any("norm" in row for row in tensors)
    assert re.fullmatch(
        r"perplexity ratio  \d\.\d{4} ± \d\.\d{4} \(\d+ to \d+\)\n"
        r"mean KL           \d\.\d{4} ± 0\.\d{4} nats "
        r"\(256 tokens of the text that comes with mlxarch\)\n"
        r"median KL         \d\.\d{4} nats\n"
        r"99% KL            \d\.\d{4} nats\n"
        r"top-1 agreement   \d\d\.\d% ± \d\.\d%\n"
        r"bits per weight   5\.\d\d\n"
        r"size              727 kB to 1\d\d kB",
        "\n".join(figures),
    )
    assert told.err.endswith(
        f"{out} is whole; what follows only measures it.\n"
        f"The report is in quality.json, quality.svg and README.md of {out}.\n"
    )
    raw = json.loads((out / "config.json").read_text())
    assert raw["quantization"].items() >= {"group_size": 64, "bits": 4, "mode": "affine"}.items()


def test_json_ends_with_the_quality(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "quantize", source, tmp_path / "out", "--bits", 8, "--json") == 0
    told = capsys.readouterr()
    assert told.err == ""
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [e["event"] for e in events] == [
        "plan", *["tensor"] * 39, "shard", "done", "quality"
    ]  # fmt: skip
    found = events[-1]
    assert 0 < found["mean_kl"] < 0.1
    assert 0.8 < found["top1_agreement"] <= 1
    assert (found["tokens"], found["text"]) == (256, "the text that comes with mlxarch")


def test_quantize_writes_what_convert_with_bits_writes(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "convert", source, tmp_path / "a", "--bits", 3, "--group-size", 32) == 0
    assert (
        run(monkeypatch, "quantize", source, tmp_path / "b", "--bits", 3, "--group-size", 32) == 0
    )
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert b.keys() - a.keys() == {"quality.json", "quality.svg"}
    assert b["README.md"].startswith(a["README.md"])
    differ = {"README.md", "mlxarch.json"}
    assert all(a[name] == b[name] for name in a.keys() - differ)


def test_a_dry_run_measures_nothing(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "quantize", source, tmp_path / "out", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "bits per weight  5." in shown
    assert "KL" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_repository_that_is_not_here_is_not_downloaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run(monkeypatch, "quantize", "them/theirs", tmp_path / "out") == 6
    assert "them/theirs is not, or not wholly, in the hub's cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "3", "--mode", "mxfp4"], "mxfp4 with 3 bits; MLX has it with 4."),
        (["--mode", "nvfp4", "--group-size", "32"], "nvfp4 in groups of 32; MLX has it in 16."),
        (["--group-size", "16"], "affine in groups of 16; MLX has it in 32, 64 or 128."),
        (["--recipe", "best"], "'best' is not one of"),
        (["--override", "lm_head"], "'lm_head' has no REGEX=BITS"),
        (["--override", "lm_head=7"], "affine with 7 bits"),
        (["--override", "(=4"], "'(' is no regular expression"),
    ],
)
def test_what_mlx_has_not_is_refused_at_once(tmp_path, monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, "quantize", tmp_path / "no source", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_override_that_finds_nothing_is_refused_before_a_byte(
    source, tmp_path, monkeypatch, capsys, dry_run
):
    arguments = ["--override", "o_proj=8", "--override", "k_norm=8", *["--dry-run"] * dry_run]
    assert run(monkeypatch, "quantize", source, tmp_path / "out", *arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "'k_norm' finds no tensor that can be quantized; there are lm_head.weight" in told.err
    assert "model.layers.{i}.mlp.down_proj.weight" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_dry_run_says_what_each_kind_of_tensor_gets(source, tmp_path, monkeypatch, capsys):
    arguments = ["--mode", "mxfp4", "--recipe", "uniform", "--override", "lm_head|v_proj=6"]
    arguments += ["--override", "embed=keep", "--override", "layers.3.mlp=8g128", "--dry-run"]
    assert run(monkeypatch, "quantize", source, tmp_path / "out", *arguments) == 0
    _, shown = capsys.readouterr().out.split("quantized        ")
    recipe, head, *rows = shown.splitlines()
    assert recipe.startswith("27 of 39, uniform, 4-bit mxfp4, groups of 32, lm_head|v_proj=6, emb")
    assert head.split() == ["kind", "gets", "tensors", "bytes"]
    kinds, rest = rows[:-2], rows[-2:]
    assert [tuple(row.rsplit(maxsplit=4)[:3]) for row in kinds] == [
        ("attention", "mxfp4", "8"),
        ("embedding", "F32", "1"),
        ("head", "6", "1"),
        ("keys", "mxfp4", "4"),
        ("mlp", "8g128", "1"),
        ("mlp", "F32", "2"),
        ("mlp", "mxfp4", "9"),
        ("norms, biases", "F32", "9"),
        ("values", "6", "4"),
    ]
    assert all("rows of 64" in row and "layers.3.mlp." in row for row in rest)
