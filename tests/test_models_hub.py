"""`mlxarch models search` and `fetch`, with the real client against a hub on this machine."""

import hashlib
import json
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import commandline
import fake_hub
import pytest
import tiny
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from mlxarch import shards
from mlxarch.convert import download, resume, store
from mlxarch.convert import hub as hubs

REPO = "Nanbeige/Tiny"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    source = tiny.save(tmp_path / "source")
    with fake_hub.serve() as (hub, url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.put(REPO, {path.name: path.read_bytes() for path in source.iterdir()})
        hub.files(REPO)["modeling.py"] = b"raise SystemExit"
        yield hub


def blobs():
    return Path(constants.HF_HUB_CACHE, f"models--{REPO.replace('/', '--')}", "blobs")


@pytest.fixture
def mlxarch(monkeypatch, capsys):
    def run(*arguments):
        code = commandline.run(monkeypatch, "models", *arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_repository_is_fetched_whole_and_found_by_its_name(hub, mlxarch):
    code, out, _ = mlxarch("fetch", REPO, "--json")
    *steps, done = map(json.loads, out.splitlines())
    wanted = {name: c for name, c in hub.files(REPO).items() if name != "modeling.py"}
    assert (code, done["event"]) == (0, "done")
    assert steps[-1]["done"] == steps[-1]["total"] == sum(map(len, wanted.values()))
    assert all(one["done"] <= two["done"] for one, two in pairwise(steps))
    folder = download.resolve(REPO, offline=True)
    assert str(folder) == done["folder"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    assert shards.read_headers(shards.find(folder))


def test_what_was_cut_short_goes_on_where_it_was(hub, mlxarch, monkeypatch):
    monkeypatch.setattr(resume, "_LEAST", 1000)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    whole = hub.files(REPO)["model.safetensors"]

    def stop(done, total, file):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.resolve(REPO, watch=stop)
    (part,) = blobs().glob("*.incomplete")
    there = part.stat().st_size
    assert 0 < there < len(whole)
    assert store.look().models[0].unfinished == there
    # There is room for the rest, and for no byte more.
    monkeypatch.setattr(download, "free_bytes", lambda folder: len(whole) - there)
    code, out, _ = mlxarch("fetch", REPO, "--json")
    steps = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert hub.ranges == [f"bytes={there}-"]
    assert "Bearer hf_secret" in hub.tokens
    assert hub.strangers == {None}
    assert steps[0]["done"] >= there
    assert all(one["done"] <= two["done"] for one, two in pairwise(steps[:-1]))
    folder = download.resolve(REPO, offline=True)
    assert steps[-1]["folder"] == str(folder)
    assert (folder / "model.safetensors").read_bytes() == whole
    small = [name for name in hub.files(REPO) if name.endswith("tokenizer.json")]
    assert all(len([p for m, p in hub.requests if m == "GET" and name in p]) == 1 for name in small)


def test_a_part_that_is_of_something_else_is_found_out(hub, mlxarch, monkeypatch):
    monkeypatch.setattr(resume, "_LEAST", 1000)
    name = hashlib.sha256(hub.files(REPO)["model.safetensors"]).hexdigest()
    blobs().mkdir(parents=True)
    part = blobs() / f"{name}.mlxarch.incomplete"
    part.write_bytes(b"x" * 100)
    code, _, err = mlxarch("fetch", REPO)
    assert code == 6
    assert "fetch it again" in err
    assert mlxarch("fetch", REPO)[0] == 0
    folder = download.resolve(REPO, offline=True)
    assert (folder / "model.safetensors").read_bytes() == hub.files(REPO)["model.safetensors"]


def test_what_others_left_of_a_file_goes_once_it_is_whole(hub, mlxarch, monkeypatch):
    monkeypatch.setattr(resume, "_LEAST", 1000)
    name = hashlib.sha256(hub.files(REPO)["model.safetensors"]).hexdigest()
    blobs().mkdir(parents=True)
    (blobs() / f"{name}.0a1b2c3d.incomplete").write_bytes(b"x" * 100)
    # More than the file has: of no use.
    (blobs() / f"{name}.mlxarch.incomplete").write_bytes(b"x" * 10_000_000)
    hub.files(REPO)["tokenizer.json"] = b"{}"
    assert mlxarch("fetch", REPO)[0] == 0
    assert not list(blobs().glob("*.incomplete"))
    assert hubs.kept(REPO) == download.resolve(REPO, offline=True)
    # One of a file that is there does not make it any less whole.
    (blobs() / f"{name}.4e5f6a7b.incomplete").write_bytes(b"x" * 100)
    assert hubs.kept(REPO) == download.resolve(REPO, offline=True)


def test_what_another_process_fetches_is_waited_for_and_told(hub, monkeypatch):
    monkeypatch.setattr(resume, "_LEAST", 1000)
    monkeypatch.setattr(resume, "_LOOK", 0.01)
    whole = hub.files(REPO)["model.safetensors"]
    name = hashlib.sha256(whole).hexdigest()
    part = blobs() / f"{name}.mlxarch.incomplete"
    lock = Path(constants.HF_HUB_CACHE, ".locks", blobs().parent.name, f"{name}.lock")
    for folder in (blobs(), lock.parent):
        folder.mkdir(parents=True)
    told = []
    with ExitStack() as other:
        other.enter_context(WeakFileLock(lock))

        def watch(done, total, file):
            if file != "model.safetensors" or part.with_name(name).exists():
                return
            told.append(done)
            there = part.stat().st_size if part.exists() else 0
            part.write_bytes(whole[: there + 1000])
            if len(told) == 5:
                part.write_bytes(whole)
                part.rename(part.with_name(name))
                other.close()

        folder = download.resolve(REPO, watch=watch)
    assert len(told) == 5
    assert told == [told[0] + 1000 * i for i in range(5)]
    assert (folder / "model.safetensors").read_bytes() == whole
    assert not hub.ranges


def test_a_model_that_others_fetched_without_its_readme_is_whole(hub, mlxarch):
    hub.put(REPO, {**hub.files(REPO), "tokenizer.json": b"{}", "README.md": b"hello"})
    assert mlxarch("fetch", REPO)[0] == 0
    folder = download.resolve(REPO, offline=True)
    (folder / "README.md").unlink()
    assert hubs.kept(REPO) == download.resolve(REPO, offline=True) == folder
    (folder / "model.safetensors").unlink()
    assert hubs.kept(REPO) is None


def test_what_has_no_room_on_the_disk_is_refused_before_the_first_byte(hub, mlxarch, monkeypatch):
    monkeypatch.setattr(download, "free_bytes", lambda folder: 1000)
    code, out, err = mlxarch("fetch", REPO)
    assert (code, out) == (4, "")
    assert "make room" in err
    assert not hub.asked("/resolve/")


def test_names_that_lead_nowhere_are_said(hub, mlxarch):
    assert mlxarch("fetch", "no/body")[0] == 3
    assert mlxarch("fetch", "nobody")[0] == 3
    hub.put("some/thing", {"README.md": b"hello"})
    code, _, err = mlxarch("fetch", "some/thing")
    assert code == 3
    assert "holds no model" in err


def test_only_what_is_ported_is_found(hub, mlxarch):
    hub.put("other/Tiny-GPT", {"config.json": b'{"model_type": "gpt2"}'})
    code, out, _ = mlxarch("search", "tiny", "--json")
    (found,) = map(json.loads, out.splitlines())
    assert (code, found["repo"], found["family"]) == (0, REPO, "Nanbeige 4.1")
    assert REPO in mlxarch("search", "tiny")[1]
    code, out, err = mlxarch("search", "absent")
    assert (code, out) == (0, "")
    assert "No repository" in err


def test_without_a_network_it_says_so_at_once(hub, monkeypatch, mlxarch):
    monkeypatch.setattr(hubs, "reachable", lambda: False)
    assert mlxarch("search", "tiny")[0] == 6
    assert mlxarch("fetch", REPO)[0] == 6
    assert not hub.requests


def test_search_asks_for_what_it_shows(hub):
    (found,) = download.search("Tiny")
    assert found.bytes == sum(map(len, hub.files(REPO).values()))
