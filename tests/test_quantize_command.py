"""`mlxarch quantize` on the command line."""

import json
import re

import pytest
import tiny

from mlxarch.app.cli import main

EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source", **EVEN)


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["mlxarch", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_stdout_lists_each_tensor_s_error_and_then_the_model_s(
    source, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    assert run(monkeypatch, "quantize", source, out) == 0
    told = capsys.readouterr()
    head, *rows = told.out.splitlines()
    assert head == "relative error  bits  tensor"
    tensors, figures = rows[:30], rows[30:]
    assert all(re.fullmatch(r" +0\.\d{4}     4  [\w.]+\.weight", row) for row in tensors)
    assert not any("norm" in row for row in tensors)
    assert re.fullmatch(
        r"mean KL          \d\.\d{4} nats \(512 tokens of the text that comes with mlxarch\)\n"
        r"top-1 agreement  \d\d\.\d%\n"
        r"bits per weight  5\.09\n"
        r"size             727 kB to 1\d\d kB",
        "\n".join(figures),
    )
    assert told.err.endswith(f"{out} is whole; what follows only measures it.\n")
    raw = json.loads((out / "config.json").read_text())
    assert raw["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}


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
    assert (found["tokens"], found["text"]) == (512, "the text that comes with mlxarch")


def test_quantize_writes_what_convert_with_bits_writes(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "convert", source, tmp_path / "a", "--bits", 3, "--group-size", 32) == 0
    assert (
        run(monkeypatch, "quantize", source, tmp_path / "b", "--bits", 3, "--group-size", 32) == 0
    )
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert a == b


def test_a_dry_run_measures_nothing(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "quantize", source, tmp_path / "out", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "bits per weight  5.09" in shown
    assert "KL" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_repository_that_is_not_here_is_not_downloaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run(monkeypatch, "quantize", "them/theirs", tmp_path / "out") == 6
    assert "them/theirs is not, or not wholly, in the hub's cache" in capsys.readouterr().err
