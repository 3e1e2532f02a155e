"""`mlxarch convert` on the command line: what goes to stdout, what to stderr, and for whom."""

import io
import json
import re
import subprocess
import sys

import pytest
import tiny
from commandline import run

from mlxarch import words
from mlxarch.app import progress


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source", "cohere2")


def test_stdout_is_the_folder_and_stderr_the_talk(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "convert", source, out) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    first, last = told.err.splitlines()
    assert re.fullmatch(
        r"source \(Tiny Aya\): 34 tensors, 157 kB to 16\d kB, 32\.00 bits per weight, "
        r"peak memory 40\d MB\.",
        first,
    )
    assert re.fullmatch(r"Wrote 16\d kB in 1 shard, \d+\.\d s\.", last)


def test_json_is_one_event_a_line(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "convert", source, out, "--bits", 4, "--group-size", 32, "--json") == 0
    told = capsys.readouterr()
    assert told.err == ""
    events = [json.loads(line) for line in told.out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["plan", *["tensor"] * 34, "shard", "done"]
    planned, *tensors, shard, done = events
    assert (planned["tensors"], planned["quantized"], planned["shards"]) == (34, 25, 1)
    assert planned["unquantized"] == [f"model.layers.{i}.mlp.down_proj.weight" for i in range(4)]
    assert sum(t["bytes_in"] for t in tensors) == planned["bytes_in"]
    assert sum(t["bits"] == 4 and 0.05 < t["relative_error"] < 0.15 for t in tensors) == 24
    assert sum(t["bits"] == 6 and 0.01 < t["relative_error"] < 0.04 for t in tensors) == 1
    assert sum(t["bits"] is None and t["relative_error"] is None for t in tensors) == 9
    file = out / shard["file"]
    assert shard["bytes"] == planned["bytes_out"] == done["bytes"] == file.stat().st_size
    assert done["out"] == str(out)
    assert planned["peak_bytes"] > 0
    assert planned["free_bytes"] > 0


def test_a_dry_run_shows_the_plan_and_writes_nothing(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["convert", source, out, "--bits", "4", "--group-size", "32"]
    assert run(monkeypatch, *arguments, "--dry-run") == 0
    told = capsys.readouterr()
    assert told.err == ""
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in told.out.splitlines()[:9])
    assert shown["source"] == "source (Tiny Aya)"
    assert shown["tensors"] == "34, 39,328 parameters"
    assert shown["bytes in"] == "157 kB"
    assert shown["disk at worst"].startswith("50.")
    assert shown["quantized"] == "25 of 34, default, 4-bit affine, groups of 32"
    assert told.out.count("mlp.down_proj.weight, rows of 48") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert run(monkeypatch, *arguments) == 0
    assert "4 tensors stay unquantized, since their rows" in (err := capsys.readouterr().err)
    size = words.size((out / "model.safetensors").stat().st_size)
    assert f"to {size}," in err
    assert shown["bytes out"] == f"{size} in 1 shard"


def test_a_dry_run_for_programs_is_the_plan_alone(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "convert", source, tmp_path / "out", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["event"] == "plan"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_a_bar_and_its_colours_can_be_turned_off(monkeypatch, capsys, colour):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with progress.bar("Writing") as advance:
        advance(500_000, 2_000_000)
        print("data")
        advance(2_000_000, 2_000_000)
    shown = screen.getvalue()
    assert "Writing" in shown
    assert capsys.readouterr().out == "data\n", "stdout is not the bar's"
    assert "2.0/2.0 MB" in shown
    assert bool(re.search(r"\x1b\[(3[0-9]|38;)", shown)) == colour


def test_a_file_gets_no_bar(monkeypatch, capsys):
    with progress.bar("Writing") as advance:
        advance(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (6_700_000_000, "6.70 GB")],
)
def test_bytes_for_people(count, text):
    assert words.size(count) == text


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_help_teaches_and_is_quick(command):
    code = f"""
import sys
sys.argv = ["mlxarch", {command!r}, "--help"]
from mlxarch.app.cli import main
try:
    main()
finally:
    heavy = {{"mlx_lm", "transformers", "mlx.core", "huggingface_hub", "rich"}}
    print(sorted(heavy & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"mlxarch {command} ./" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "[]"
