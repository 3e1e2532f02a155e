"""`mlxarch models search` and `fetch`, with the real client against a hub on this machine."""

import json
from itertools import pairwise

import commandline
import fake_hub
import pytest
import tiny
from huggingface_hub import constants

from mlxarch import shards
from mlxarch.convert import download, room
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
    folder = hubs.fetch(REPO, offline=True)
    assert str(folder) == done["folder"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    assert shards.read_headers(shards.find(folder))


def test_what_was_cut_short_goes_on_where_it_was(hub, mlxarch):
    hub.cut_after = len(hub.files(REPO)["model.safetensors"]) // 2
    code, _, err = mlxarch("fetch", REPO)
    assert code == 6
    assert "Try again" in err
    hub.cut_after = None
    before = len(hub.asked("model.safetensors"))
    code, out, _ = mlxarch("fetch", REPO)
    assert code == 0
    assert out == f"{hubs.fetch(REPO, offline=True)}\n"
    small = [name for name in hub.files(REPO) if name.endswith("tokenizer.json")]
    assert len(hub.asked("model.safetensors")) > before
    assert all(len([p for m, p in hub.requests if m == "GET" and name in p]) == 1 for name in small)


def test_what_has_no_room_on_the_disk_is_refused_before_the_first_byte(hub, mlxarch, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda folder: 1000)
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
