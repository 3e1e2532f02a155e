"""A repository is converted while it is fetched, shard by shard, and may go as it is converted."""

import shutil
import threading

import pytest
import tiny
from commandline import contents, run

from mlxarch import shards
from mlxarch.convert import download, hub, inventory, plan, room
from mlxarch.convert import write as writing
from mlxarch.errors import DoesNotFit, HubError

REPO, COMMIT = "Nanbeige/Nanbeige4.1-3B", "0123456789abcdef0123456789abcdef01234567"


class Remote:
    """A repository in several shards, and an empty cache in the hub's layout."""

    def __init__(self, tmp_path):
        tiny.save(tmp_path / "whole")
        self.folder, self.base = tmp_path / "remote", tmp_path / "cache" / "models--N--N"
        whole = plan.make(inventory.look(tmp_path / "whole"), shard_bytes=20_000)
        writing.write(whole, self.folder)
        self.fetched, self.lost = [], None

    def snapshot(self, file):
        return self.base / "snapshots" / COMMIT / file

    def describe(self, repo, *, revision=None):
        found = inventory.look(self.folder)
        tensors = {
            name: shards.TensorInfo(i.dtype, i.shape, i.bytes, i.shard.relative_to(self.folder))
            for name, i in found.tensors.items()
        }
        sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        return hub.Repository(COMMIT, dict(found.raw), tensors, sizes, None)

    def fetch_file(self, repo, file, revision, report=lambda count: None):
        assert (repo, revision) == (REPO, COMMIT)
        if file == self.lost:
            raise HubError("The network is gone.")
        blob, link = self.base / "blobs" / file, self.snapshot(file)
        if not link.exists():
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / file, blob)
            link.symlink_to(f"../../blobs/{file}")
            self.fetched.append(file)
        return link

    def converted(self, out):
        """What comes of it when all of it is here before."""
        source = inventory.look(self.folder, REPO, COMMIT)
        writing.write(plan.make(source, dtype="float16", shard_bytes=15_000), out)
        return contents(out)

    def cached(self, repo, file, revision):
        link = self.snapshot(file)
        return link if link.exists() else None


@pytest.fixture
def remote(tmp_path, monkeypatch):
    found = Remote(tmp_path)
    for name in ("describe", "cached"):
        monkeypatch.setattr(hub, name, getattr(found, name))
    monkeypatch.setattr(download, "fetch_file", found.fetch_file)
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    return found


def small(**wishes):
    return plan.make(inventory.look_afar(REPO), shard_bytes=15_000, **wishes)


def test_shards_are_fetched_in_the_order_in_which_they_are_needed(remote, tmp_path):
    planned, seen = small(dtype="float16"), []

    def watch(event):
        if isinstance(event, writing.ShardWritten):
            seen.append((event.shard, len(set(remote.fetched))))

    writing.write(planned, tmp_path / "out", watch)
    needed = set()
    for used, (shard, fetched) in zip(planned.uses, seen, strict=True):
        needed |= used
        # One shard ahead, and what a thread may have begun.
        assert fetched <= len(needed) + 1, shard.file
    near = plan.make(
        inventory.look(remote.folder, REPO, COMMIT), dtype="float16", shard_bytes=15_000
    )
    writing.write(near, tmp_path / "near")
    assert contents(tmp_path / "out") == contents(tmp_path / "near")
    assert not any(thread.name == "fetch" for thread in threading.enumerate())


def test_a_lost_network_keeps_what_is_done_and_the_command_goes_on(
    remote, tmp_path, monkeypatch, capsys
):
    order = sorted(path.name for path in remote.folder.glob("*.safetensors"))
    arguments = ["convert", REPO, tmp_path / "out", "--shard-size", "15kB", "--bits", 8]
    arguments += ["--group-size", 32]
    remote.lost = order[-3]
    assert run(monkeypatch, *arguments) == 6
    told = capsys.readouterr().err
    assert "The network is gone." in told
    assert "keeps" in told
    before = list(remote.fetched)
    assert before
    remote.lost = None
    assert run(monkeypatch, *arguments) == 0
    assert "were written before" in capsys.readouterr().err
    assert len(remote.fetched) == len(set(remote.fetched)), "a shard was fetched twice"
    assert run(monkeypatch, "convert", remote.folder, tmp_path / "near", *arguments[3:]) == 0
    theirs, ours = contents(tmp_path / "near"), contents(tmp_path / "out")
    for name in ("README.md", "mlxarch.json"):
        assert theirs.pop(name) != ours.pop(name), "these name the repository"
    assert ours == theirs


def test_a_disk_that_cannot_hold_both_is_enough(remote, tmp_path, monkeypatch):
    planned, out = small(dtype="float16"), tmp_path / "out"
    links = sorted(info for info in planned.source.shards)
    most = 0

    def watch(event):
        nonlocal most
        files = [*out.with_name("out.partial").glob("*"), *remote.base.glob("blobs/*.safetensors")]
        most = max(most, sum(path.stat().st_size for path in files if path.exists()))

    promised = room.disk(planned, delete=True)
    writing.write(planned, out, watch, delete=True)
    whole = planned.bytes_out + sum(planned.source.shards.values())
    assert most <= promised.both < whole + 50_000_000
    assert most < 0.8 * whole
    assert not [link for link in links if remote.cached(REPO, link.as_posix(), COMMIT)]
    assert list(remote.base.glob("blobs/*.safetensors")) == []
    near = plan.make(
        inventory.look(remote.folder, REPO, COMMIT), dtype="float16", shard_bytes=15_000
    )
    writing.write(near, tmp_path / "near")
    assert contents(out) == contents(tmp_path / "near")


def test_a_killed_run_with_deletion_goes_on(remote, tmp_path):
    planned, out, gone = small(dtype="float16"), tmp_path / "out", []

    def watch(event):
        if isinstance(event, writing.SourceDeleted):
            gone.append(event.file.name)
            if len(gone) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.write(planned, out, watch, delete=True)
    remote.fetched.clear()
    writing.write(small(dtype="float16"), out, delete=True)
    assert not set(gone) & set(remote.fetched), "a shard that nothing needs was fetched again"
    near = plan.make(
        inventory.look(remote.folder, REPO, COMMIT), dtype="float16", shard_bytes=15_000
    )
    writing.write(near, tmp_path / "near")
    assert contents(out) == contents(tmp_path / "near")


def test_a_blob_that_another_commit_needs_stays(remote):
    shard = sorted(path.name for path in remote.folder.glob("*.safetensors"))[0]
    link = remote.fetch_file(REPO, shard, COMMIT)
    other = remote.base / "snapshots" / "other" / shard
    other.parent.mkdir()
    other.symlink_to(f"../../blobs/{shard}")
    hub.forget(link)
    assert not link.is_symlink()
    assert other.exists()
    hub.forget(other)
    assert not list(remote.base.glob("blobs/*"))


def test_the_disk_is_counted_with_what_is_fetched(remote, tmp_path, monkeypatch):
    planned, usage = small(), shutil.disk_usage(tmp_path)
    both = room.disk(planned)
    assert both.both == both.out + sum(planned.source.shards.values())
    assert both.out > planned.bytes_out
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=both.both - 1))
    with pytest.raises(DoesNotFit, match="With --delete-source-shards less would do"):
        room.check(planned, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=both.both))
    room.check(planned, tmp_path / "out")
    less = room.disk(planned, delete=True).both
    assert less < both.both
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=less))
    room.check(planned, tmp_path / "out", delete=True)
    for shard in planned.source.shards:
        remote.fetch_file(REPO, shard.as_posix(), COMMIT)
    assert room.disk(planned).cache == 0
