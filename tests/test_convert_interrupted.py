"""A conversion that is stopped, however and whenever, leaves nothing under the final name."""

import subprocess
import sys

import pytest
import tiny

from mlxarch.app.cli import main
from mlxarch.convert import inventory, partial, plan
from mlxarch.convert import write as writing
from mlxarch.errors import MlxarchError

# Kills itself at the n-th event of a conversion, once for each n; forks, to import only once.
KILLED = """
import os, signal, sys
from pathlib import Path
from mlxarch.convert import inventory, plan, write
planned = plan.make(inventory.look(Path(sys.argv[1])), shard_bytes=40_000)
for n in map(int, sys.argv[2:]):
    if os.fork() == 0:
        seen = []
        def watch(event):
            seen.append(event)
            if len(seen) == n:
                os.kill(os.getpid(), signal.SIGKILL)
        write.write(planned, Path(sys.argv[1]).parent / f"out{n}", watch)
        os._exit(0)
    assert os.wait()[1] == signal.SIGKILL
"""


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source")


def planned(source, **wishes):
    return plan.make(inventory.look(source), **wishes)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_kill_leaves_no_target_and_the_next_run_takes_over(source, tmp_path):
    events = []
    small = planned(source, shard_bytes=40_000)
    writing.write(small, tmp_path / "whole", events.append)
    ends = [n for n, e in enumerate(events, 1) if isinstance(e, writing.ShardWritten)]
    # The first bytes, the first tensor, between shards, and when only small files are left.
    moments = [1, 3, ends[0], ends[1] + 1, len(events)]
    assert ends[-1] == len(events)
    subprocess.run([sys.executable, "-c", KILLED, source, *map(str, moments)], check=True)

    for n in moments:
        out, left = tmp_path / f"out{n}", tmp_path / f"out{n}.partial"
        assert not out.exists()
        assert list(left.glob("*.safetensors")), "killed before anything was written"
        (left / "stale.txt").write_text("of an earlier run")
        writing.write(small, out)
        assert not left.exists()
        assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_ctrl_c_and_exceptions_remove_what_was_written(
    source, tmp_path, monkeypatch, capsys, interruption
):
    seen = []

    def interrupted(weight, scheme):
        seen.append(list((tmp_path / "out.partial").iterdir()))
        raise interruption("now")

    monkeypatch.setattr(writing, "pack", interrupted)
    monkeypatch.setattr(
        "sys.argv", ["mlxarch", "convert", str(source), str(tmp_path / "out"), "--bits", "4",
                     "--group-size", "32"]
    )  # fmt: skip
    with pytest.raises((SystemExit, RuntimeError)) as ended:
        main()
    assert seen, "it was not interrupted while it wrote"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    if interruption is KeyboardInterrupt:
        assert ended.value.code == 130
        assert capsys.readouterr().err.endswith("Interrupted.\n")


def test_two_conversions_do_not_write_one_target(source, tmp_path):
    out = tmp_path / "out"
    with partial.partial(out) as folder:
        (folder / "first").write_text("")
        with pytest.raises(MlxarchError, match=r"out\.partial is being written by another"):
            writing.write(planned(source), out)
        assert (folder / "first").exists()
    assert [path.name for path in out.iterdir()] == ["first"]


def test_somebody_s_own_folder_is_not_taken_for_a_leftover(source, tmp_path):
    mine = tmp_path / "out.partial" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(MlxarchError, match=r"out\.partial is in the way, and not ours"):
        writing.write(planned(source), tmp_path / "out")
    assert mine.read_text() == "years of work"


def test_a_target_that_appears_meanwhile_is_not_replaced(source, tmp_path):
    out = tmp_path / "out"

    def watch(event):
        out.mkdir(exist_ok=True)

    with pytest.raises(MlxarchError, match="out exists"):
        writing.write(planned(source), out, watch)
    assert list(out.iterdir()) == []
    assert not (tmp_path / "out.partial").exists()


def test_folders_above_the_target_are_made(source, tmp_path):
    out = tmp_path / "not" / "yet" / "out"
    writing.write(planned(source), out)
    assert (out / "config.json").exists()
    assert not list(out.glob(".*")), "the marker stays behind"
