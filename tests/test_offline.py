"""Without a network: nothing is asked of it, nothing waits for it, what is cached works."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from urllib.request import urlopen

import commandline
import fake_hub
import pytest
import tiny
from huggingface_hub import constants, file_download, get_session

from mlxarch.app import model
from mlxarch.convert import download
from mlxarch.convert import hub as hub_module
from mlxarch.errors import HubError

REPO = "Nanbeige/Nanbeige4.1-3B"
# Every Python process that starts with this on its path writes down whom it wants to speak to.
WATCH = """
import os, socket
def watched(name, inner):
    def call(*arguments, **options):
        if not (name == "connect" and arguments[0].family == socket.AF_UNIX):
            with open(os.environ["WATCHED"], "a") as file:
                file.write(f"{name} {arguments[1:]}\\n")
            raise OSError(name)
        return inner(*arguments, **options)
    return call
socket.socket.connect = watched("connect", socket.socket.connect)
socket.getaddrinfo = watched("getaddrinfo", socket.getaddrinfo)
"""


def keep(cache, source):
    """A folder's files as that repository in the cache."""
    snapshot = cache / "models--Nanbeige--Nanbeige4.1-3B" / "snapshots" / fake_hub.COMMIT
    snapshot.parent.mkdir(parents=True)
    source.rename(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(fake_hub.COMMIT)
    return snapshot


@pytest.fixture
def alone(tmp_path):
    """Runs the command in a process that is told whom it may speak to: nobody."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(WATCH)

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "mlxarch.app", *map(str, arguments)],
            env={
                **os.environ,
                "PYTHONPATH": str(tmp_path / "path"),
                "WATCHED": str(tmp_path / "watched"),
                "HF_HOME": str(tmp_path / "home"),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        watched = tmp_path / "watched"
        assert not watched.exists(), watched.read_text()
        return done

    run.cache = tmp_path / "home" / "hub"
    return run


def test_the_watch_sees_who_speaks(alone):
    with pytest.raises(AssertionError, match=r"getaddrinfo|connect"):
        alone("show", REPO)


@pytest.mark.parametrize("word", ["1", "ON", "YES", "TRUE", "true"])
def test_every_spelling_of_offline_is_understood(alone, word):
    done = alone("show", REPO, HF_HUB_OFFLINE=word)
    assert (done.returncode, done.stdout) == (6, "")
    assert "and mlxarch is offline" in done.stderr


@pytest.mark.slow
def test_whatever_is_cached_runs_and_nobody_is_spoken_to(alone, tmp_path):
    keep(alone.cache, tiny.save(tmp_path / "source"))
    (schema := tmp_path / "schema.json").write_text('{"const": 1}')
    for command in (
        ("show", REPO, "--offline"),
        ("convert", REPO, tmp_path / "out", "--offline"),
        ("quantize", REPO, tmp_path / "four", "--group-size", "32", "--dry-run"),
        ("run", REPO, "-p", "hi", "--max-tokens", "2", "--offline"),
        ("run", REPO, "-p", "hi", "--max-tokens", "2"),
        ("run", tmp_path / "out", "-p", "hi", "--max-tokens", "2", "--schema", schema),
        ("models",),
        ("upload", tmp_path / "out", "me/tiny", "--dry-run"),
    ):
        done = alone(*command)
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.slow
def test_what_is_cached_is_served_and_nobody_is_spoken_to(alone, tmp_path):
    keep(alone.cache, tiny.save(tmp_path / "source"))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxarch.app", "serve", REPO, "--port", "0"],
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path / "path"),
            "WATCHED": str(tmp_path / "watched"),
            "HF_HOME": str(tmp_path / "home"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        with urlopen(f"{process.stdout.readline().strip()}/models") as reply:
            assert json.load(reply)["data"][0]["id"] == REPO
        process.terminate()
    assert process.returncode == 0
    assert not (tmp_path / "watched").exists()


COMMANDS = {
    "convert": ("convert", REPO, "out"),
    "dry run": ("convert", REPO, "out", "--dry-run"),
    "run": ("run", REPO, "-p", "hi"),
    "show": ("show", REPO),
    "compare": ("compare", REPO, REPO),
}


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A machine without a network, where waiting is an error."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"{seconds} s of waiting"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def mlxarch(monkeypatch, capfd):
    def run(*arguments):
        code = commandline.run(monkeypatch, *arguments)
        told = capfd.readouterr()
        return code, told.out, told.err

    return run


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "run"])
def test_a_hub_out_of_reach_is_said_at_once(unreachable, mlxarch, command):
    code, out, err = mlxarch(*COMMANDS[command])
    assert (code, out, err.count("\n")) == (6, "", 1)
    assert "The hub cannot be reached" in err
    assert "check the network" in err


def test_a_cached_model_is_there_without_a_network(unreachable, tmp_path):
    snapshot = keep(unreachable, tiny.save(tmp_path / "source"))
    assert download.resolve(REPO) == snapshot
    assert hub_module.fetch_config(REPO) == snapshot / "config.json"


def test_a_model_that_is_wholly_here_is_found_without_a_try(unreachable, tmp_path, monkeypatch):
    snapshot = keep(unreachable, tiny.save(tmp_path / "source"))
    monkeypatch.setattr(hub_module, "reachable", lambda: pytest.fail("the hub was tried"))
    assert model.resolve(REPO) == snapshot
    assert model.resolve(REPO, "main") == snapshot
    assert model.resolve(REPO, fake_hub.COMMIT) == snapshot


@pytest.mark.parametrize("lack", ["shard", "index", "tokenizer", "blob", "config", "revision"])
def test_a_model_that_is_partly_here_is_not_taken_for_whole(unreachable, tmp_path, lack):
    snapshot = keep(unreachable, tiny.save(tmp_path / "source"))
    revision = None
    if lack == "shard":
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    elif lack == "index":
        (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    elif lack == "tokenizer":
        for file in snapshot.glob("tokenizer*"):
            file.unlink()
    elif lack == "blob":
        (snapshot.parent.parent / "blobs").mkdir()
        (snapshot.parent.parent / "blobs" / "0123.incomplete").touch()
    elif lack == "config":
        (snapshot / "config.json").unlink()
    else:
        revision = "other"
    assert hub_module.kept(REPO, revision) is None


def test_a_silent_hub_is_not_waited_for(unreachable, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub_module, "_PATIENCE", 0.05)
        with pytest.raises(HubError, match="cannot be reached"):
            hub_module.describe(REPO)


def test_a_hub_that_falls_silent_is_given_up(monkeypatch):
    """Once it has answered, no answer is waited for without end."""
    with fake_hub.serve() as (_, url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        assert hub_module.reachable(7.0)
        assert get_session().timeout.read == 7.0
        assert get_session().timeout.connect == 7.0


def test_a_network_that_vanishes_midway_keeps_what_came(monkeypatch, tmp_path):
    content = bytes(range(256)) * 4000
    with fake_hub.serve() as (hub, url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        nap = SimpleNamespace(**{**vars(file_download.time), "sleep": lambda seconds: None})
        monkeypatch.setattr(file_download, "time", nap)
        hub.put(REPO, {"config.json": b"{}", "model.safetensors": content})
        hub.cut_after = 100_000
        with pytest.raises(HubError, match="what came is kept") as lost:
            download.resolve(REPO)
        assert lost.value.exit_code == 6
        assert "incomplete message" in str(lost.value) or "without sending" in str(lost.value)
        assert hub.asked("/config.json")
        hub.cut_after, hub.requests[:] = None, []
        folder = download.resolve(REPO)
        assert (folder / "model.safetensors").read_bytes() == content
        assert not hub.asked("config.json")
