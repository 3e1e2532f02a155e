"""A conversion that is stopped, however and whenever, goes on and ends with the same bytes."""

import errno
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from commandline import contents, run

from mlxarch.app.cli import main
from mlxarch.convert import inventory, manifest, partial, plan
from mlxarch.convert import write as writing
from mlxarch.errors import CheckpointError, DoesNotFit, MlxarchError
from mlxarch.quantize.recipes import candidate

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
# Runs the command again and again, killing it after so many milliseconds, until it ends by itself.
AGAIN = """
import os, signal, sys, time
from mlxarch.app.cli import main
from mlxarch.convert import plan, write  # imported once, for all forks
delays, sys.argv = sys.argv[1], ["mlxarch", *sys.argv[2:]]
for kills, delay in enumerate(map(float, delays.split(","))):
    child = os.fork()
    if child == 0:
        try:
            main()
        except SystemExit as ended:
            os._exit(ended.code or 0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status != signal.SIGKILL:
        assert status == 0, status
        break
print(kills)
"""


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source")


def planned(source, **wishes):
    return plan.make(inventory.look(source), **wishes)


def stop_at(count, error):
    """A watcher that fails at the end of a file of tensors."""
    seen = []

    def watch(event):
        seen.append(event)
        if sum(isinstance(e, writing.ShardWritten) for e in seen) == count:
            raise error

    return watch


def test_a_kill_at_any_moment_leaves_no_target_and_the_next_run_goes_on(source, tmp_path):
    events = []
    small = planned(source, shard_bytes=40_000)
    writing.write(small, tmp_path / "whole", events.append)
    ends = [n for n, e in enumerate(events, 1) if isinstance(e, writing.ShardWritten)]
    # The first bytes, the first tensor, a file's end, after it, and when only small files are left.
    moments = [1, 3, ends[0], ends[1] + 1, len(events)]
    assert ends[-1] == len(events)
    subprocess.run([sys.executable, "-c", KILLED, source, *map(str, moments)], check=True)

    for n in moments:
        out, left = tmp_path / f"out{n}", tmp_path / f"out{n}.partial"
        assert not out.exists()
        assert list(left.glob("*.safetensors")), "killed before anything was written"
        before = sum(end <= n for end in ends)
        assert len(writing.finished(small, out)) == before
        (left / "stale.txt").write_text("of an earlier run")
        later = []
        writing.write(small, out, later.append)
        written = [e for e in later if isinstance(e, writing.ShardWritten)]
        assert [e.earlier for e in written] == [i < before for i in range(len(ends))]
        assert [e.done for e in later if isinstance(e, writing.Progress)][-1] == small.bytes_out
        assert not left.exists()
        assert contents(out) == contents(tmp_path / "whole")


def test_the_command_killed_at_random_ends_with_the_same_bytes(source, tmp_path, monkeypatch):
    options = ["--bits", "4", "--group-size", "32", "--shard-size", "5kB"]
    assert run(monkeypatch, "convert", source, tmp_path / "whole", *options) == 0
    chance = random.Random(0)
    delays = [chance.uniform(0.8, 1.2) * 0.002 * i for i in range(40)] + [60.0]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, ",".join(map(str, delays)), "convert", source,
         tmp_path / "out", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout.splitlines()[-1]) > 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source", "whole"]


def test_a_journal_that_was_cut_short_counts_as_far_as_it_goes(source, tmp_path):
    small, out = planned(source, shard_bytes=40_000), tmp_path / "out"
    writing.write(small, tmp_path / "whole")
    with pytest.raises(RuntimeError):
        writing.write(small, out, stop_at(3, RuntimeError("now")))
    journal = partial.place(out) / ".mlxarch-journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    for cut, count in (
        (b"".join(lines), 3),
        (b"".join(lines)[:-20], 2),
        (b"".join(lines[:2]) + b"{}\n", 1),
        (b"null\n", 0),
        (b"\xff", 0),
        (b"", 0),
    ):
        journal.write_bytes(cut)
        assert len(writing.finished(small, out)) == count
    journal.write_bytes(b"".join(lines)[:-20])
    assert len(writing.finished(small, out)) == 2
    writing.write(small, out)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["a byte", "the length", "gone"])
def test_a_finished_file_that_was_changed_is_written_again(source, tmp_path, change):
    small, out = planned(source, shard_bytes=40_000), tmp_path / "out"
    writing.write(small, tmp_path / "whole")
    with pytest.raises(RuntimeError):
        writing.write(small, out, stop_at(2, RuntimeError("now")))
    shard = partial.place(out) / small.shards[0].file
    if change == "gone":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data if change == "a byte" else data[:-1])
    writing.write(small, out)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_what_is_stopped_before_a_file_is_whole_leaves_nothing(
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


def test_ctrl_c_and_a_full_disk_say_what_is_kept(source, tmp_path, monkeypatch, capsys):
    out, synced = tmp_path / "out", writing.sync
    arguments = ["convert", source, out, "--shard-size", "40kB"]
    for error, code in ((KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "full"), 4)):

        def sync(path, error=error):
            if path.name.startswith("model-00003"):
                raise error
            synced(path)

        monkeypatch.setattr(writing, "sync", sync)
        assert run(monkeypatch, *arguments) == code
        told = capsys.readouterr().err
        assert f"{out}.partial keeps 2 of 6 shards; the same command goes on from there." in told
        assert not out.exists()
    monkeypatch.setattr(writing, "sync", synced)
    assert run(monkeypatch, *arguments) == 0
    assert "Going on: 2 of 6 shards were written before." in capsys.readouterr().err


def test_another_job_does_not_destroy_what_is_done(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        writing.write(planned(source, shard_bytes=40_000), out, stop_at(2, RuntimeError("now")))
    left = contents(partial.place(out))
    for other in ({"dtype": "float16"}, {"recipe": candidate("8g32")}, {"shard_bytes": 50_000}):
        with pytest.raises(MlxarchError, match="holds 2 finished files of another conversion"):
            writing.write(planned(source, **{"shard_bytes": 40_000, **other}), out)
    (source / "model.safetensors").touch()
    with pytest.raises(MlxarchError, match="of another source"):
        writing.write(planned(source, shard_bytes=40_000), out)
    assert contents(partial.place(out)) == left


def test_a_whole_target_is_found_to_be_whole(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "convert", source, out) == 0
    before = contents(out)
    capsys.readouterr()
    assert run(monkeypatch, "convert", source, out) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert "out is whole already" in told.err
    # As a kill just after it got its name leaves it.
    (out / ".mlxarch-partial").write_text("")
    (out / ".mlxarch-journal").write_text("")
    assert run(monkeypatch, "convert", source, out) == 0
    assert contents(out) == before
    assert run(monkeypatch, "convert", source, out, "--dtype", "float16") == 1
    assert "out exists; choose another name" in capsys.readouterr().err
    tiny.save(source, seed=3)
    assert run(monkeypatch, "convert", source, out) == 1, "the source is another one now"
    assert contents(out) == before


def test_shards_of_the_source_go_when_what_is_made_of_them_is_there(tmp_path, monkeypatch):
    first = tiny.save(tmp_path / "first")
    writing.write(planned(first, shard_bytes=20_000), tmp_path / "source")
    source, out = tmp_path / "source", tmp_path / "out"
    small = planned(source, shard_bytes=15_000, dtype="float16")
    writing.write(small, tmp_path / "whole")
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    kept = {path.name for path in source.iterdir()} - set(shards)

    def watch(event):
        present = {path.name for path in source.glob("*.safetensors")}
        if isinstance(event, writing.ShardWritten):
            index = small.shards.index(event.shard)
            needed = {path.name for used in small.uses[index:] for path in used}
            assert needed <= present
        if isinstance(event, writing.SourceDeleted):
            gone.append(event.file.name)
            assert event.file.name not in present
            if len(gone) == 3:
                raise KeyboardInterrupt

    gone = []
    with pytest.raises(KeyboardInterrupt):
        writing.write(small, out, watch, delete=True)
    assert len(gone) == 3
    # The rest of the source is no checkpoint any more; the same command still knows it.
    with pytest.raises(CheckpointError, match="lacks"):
        inventory.look(source)
    options = ["--shard-size", "15kB", "--dtype", "float16", "--delete-source-shards"]
    assert run(monkeypatch, "convert", source, out, *options) == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert {path.name for path in source.iterdir()} == kept
    assert len(shards) > 5


def test_nothing_is_deleted_that_does_not_read_back_as_it_was_written(source, tmp_path):
    before = contents(source)

    def watch(event):
        if isinstance(event, writing.ShardWritten):
            with (partial.place(tmp_path / "out") / event.shard.file).open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"\x7f")

    with pytest.raises(CheckpointError, match="does not read as it was written"):
        writing.write(planned(source), tmp_path / "out", watch, delete=True)
    assert contents(source) == before


def test_two_conversions_do_not_write_one_target(source, tmp_path):
    out = tmp_path / "out"
    with partial.partial(out) as journal:
        (journal.folder / "first").write_text("")
        with pytest.raises(MlxarchError, match=r"out\.partial is being written by another"):
            writing.write(planned(source), out)
        assert (journal.folder / "first").exists()
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
    out.rmdir()
    writing.write(planned(source), out)


def test_folders_above_the_target_are_made(source, tmp_path):
    out = tmp_path / "not" / "yet" / "out"
    writing.write(planned(source), out)
    assert (out / "config.json").exists()
    assert not list(out.glob(".*")), "the marker stays behind"


def test_the_manifest_has_the_hash_of_every_file(source, tmp_path):
    out = tmp_path / "out"
    writing.write(planned(source, shard_bytes=40_000, recipe=candidate("4g32")), out)
    raw = json.loads((out / "mlxarch.json").read_text())
    files = {path.name: path for path in Path(out).iterdir() if path.name != "mlxarch.json"}
    assert raw["files"].keys() == files.keys()
    for name, path in files.items():
        assert raw["files"][name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 0.05 < manifest.read(out).tensors["lm_head.weight"].relative_error < 0.15


def test_memory_is_looked_at_before_the_first_byte(source, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_PROGRAM_BYTES", 10**15)
    with pytest.raises(DoesNotFit, match=r"needs 1000000\.00 GB of memory, 0\.00 GB") as told:
        writing.write(planned(source), tmp_path / "out")
    assert told.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
