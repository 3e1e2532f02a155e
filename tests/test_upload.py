"""Uploading a checkpoint: to a hub on this machine, with the real client and its real store."""

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import commandline
import fake_hub
import pytest
import tiny
from huggingface_hub import _upload_pipeline, constants
from huggingface_hub.utils import _http

from mlxarch.convert import manifest, upload

REPO = "me/tiny-4bit"
TOKEN = "hf_veryverysecret"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub.serve() as (hub, url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
        hub.url = url
        yield hub


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint with its mlxarch.json."""
    folder = tiny.save(tmp_path / "out")
    (folder / "README.md").write_text("# Tiny\n\nmlxarch chat path/to/this/folder\n")
    manifest.write(folder, source={}, options={}, tensors={})
    return folder


@pytest.fixture
def mlxarch(monkeypatch, capfd):
    """The command; its exit code, stdout and stderr, in neither of which is the token."""

    def run(*arguments):
        code = commandline.run(monkeypatch, *arguments)
        told = capfd.readouterr()
        assert TOKEN not in told.out + told.err
        return code, told.out, told.err

    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_checkpoint_arrives_whole_and_its_address_is_printed(hub, folder, mlxarch):
    code, out, err = mlxarch("upload", folder, REPO)
    assert (code, out) == (0, f"{hub.url}/{REPO}\n")
    assert "6 files" in err
    there = hub.files(REPO)
    assert set(there) == names(folder) | {".gitattributes"}
    for name in names(folder) - {"model.safetensors"}:
        assert there[name] == (folder / name).read_bytes()
    # The client's own hash of what it sent, not ours.
    entry = manifest.read(folder).files["model.safetensors"]
    assert there["model.safetensors"] == fake_hub.Large(entry.sha256, entry.bytes)
    assert hub.repos[REPO]["private"] is False
    assert f"Bearer {TOKEN}" in hub.tokens


def test_options_reach_the_hub(hub, folder, mlxarch):
    options = ("--private", "--revision", "four", "--message", "In 4 bits")
    code, out, _ = mlxarch("upload", folder, REPO, *options)
    assert (code, out) == (0, f"{hub.url}/{REPO}/tree/four\n")
    assert hub.repos[REPO]["private"] is True
    assert hub.messages == ["In 4 bits"]
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert names(folder) <= set(hub.files(REPO, "four"))


def test_what_goes_on_in_json(hub, folder, mlxarch):
    code, out, err = mlxarch("upload", folder, REPO, "--json")
    plan, done = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert plan["files"] == {
        path.name: plan["files"][path.name] for path in sorted(folder.iterdir())
    }
    assert plan["files"]["config.json"] == (folder / "config.json").stat().st_size
    assert done["url"] == f"{hub.url}/{REPO}"
    assert done["commit"] == fake_hub.COMMIT


def test_a_dry_run_asks_nothing_and_changes_nothing(hub, folder, mlxarch, monkeypatch):
    card = (folder / "README.md").read_text()
    code, out, _ = mlxarch("upload", folder, REPO, "--dry-run")
    assert code == 0
    assert {line.split()[-1] for line in out.splitlines()[:-1]} == names(folder)
    assert out.splitlines()[-1].endswith(f"in 6 files to {REPO}")
    assert hub.requests == []
    assert (folder / "README.md").read_text() == card
    for name in ("nowhere", "x" * 300):
        code, _, err = mlxarch("upload", folder / name, REPO, "--dry-run")
        assert (code, "is no folder" in err) == (3, True)
    monkeypatch.chdir(folder)
    assert mlxarch("upload", ".", REPO, "--dry-run")[:2] == (0, out)


def test_the_card_names_the_repository_and_the_manifest_knows_it(hub, folder, mlxarch):
    (folder / "README.md").write_text("Written on by hand.\n\nmlxarch chat path/to/this/folder\n")
    for repo in (REPO, "me/elsewhere"):
        assert mlxarch("upload", folder, repo)[0] == 0
        card = hub.files(repo)["README.md"]
        assert card == b"Written on by hand.\n\nmlxarch chat %s\n" % repo.encode()
        listed = json.loads(hub.files(repo)["mlxarch.json"])["files"]["README.md"]
        assert listed["bytes"] == len(card)


def test_a_converted_checkpoint_is_uploaded_as_it_is(hub, tmp_path, mlxarch):
    tiny.save(tmp_path / "source")
    out = tmp_path / "converted"
    assert mlxarch("convert", tmp_path / "source", out)[0] == 0
    code, printed, err = mlxarch("upload", out, REPO)
    assert (code, printed) == (0, f"{hub.url}/{REPO}\n"), err
    assert f"mlxarch chat {REPO}\n".encode() in hub.files(REPO)["README.md"]


def test_leftovers_and_hidden_files_stay_here(hub, folder, mlxarch):
    unwanted = (".DS_Store", ".cache/huggingface/x.json", ".git/config", "a.incomplete", "b.tmp")
    unwanted += ("old.partial/model.safetensors", "__pycache__/m.pyc", "notes~", "c.lock")
    for name in unwanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "extra").mkdir()
    (folder / "extra" / "[a].txt").write_text("kept, although its name is a pattern")
    assert mlxarch("upload", folder, REPO)[0] == 0
    wanted = {path.name for path in folder.iterdir() if path.suffix in (".json", ".md")}
    wanted |= {"model.safetensors", "extra/[a].txt", ".gitattributes"}
    assert set(hub.files(REPO)) == wanted


def broken(change, folder):
    config = folder / "config.json"
    if change == "no config":
        config.unlink()
    elif change == "unfinished":
        (folder / ".mlxarch-partial").touch()
    elif change == "truncated":
        os.truncate(folder / "model.safetensors", 100_000)
    elif change == "no shards":
        (folder / "model.safetensors").unlink()
    elif change == "missing shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif change == "stray shard":
        shard = (folder / "model.safetensors").read_bytes()
        (folder / "old.safetensors").write_bytes(shard)
    elif change == "other size":
        config.write_text(config.read_text() + "\n")
    elif change == "file gone":
        (folder / "tokenizer.json").unlink()
    elif change == "link out":
        secret = folder.parent / "secret"
        secret.write_text("mine")
        (folder / "notes.txt").symlink_to(secret)
    elif change == "linked folder":
        (folder.parent / "private").mkdir()
        (folder / "docs").symlink_to(folder.parent / "private")
    else:
        (folder / "dangling").symlink_to("nothing")


BROKEN = {
    "no config": (3, "has no config.json"),
    "unfinished": (1, "is not finished; give the command that writes it again"),
    "truncated": (1, "model.safetensors is truncated or damaged"),
    "no shards": (1, "has no model*.safetensors"),
    "missing shard": (1, "lacks model-00001-of-00002.safetensors"),
    "stray shard": (1, "has old.safetensors, which its index does not name"),
    "other size": (1, "config.json has 263 bytes where mlxarch.json promises 262"),
    "file gone": (1, "lacks tokenizer.json, which mlxarch.json lists"),
    "link out": (1, "notes.txt is a link to "),
    "linked folder": (1, "docs is a link to "),
    "dangling": (1, "dangling is a link to nothing"),
}


@pytest.mark.parametrize("change", BROKEN)
def test_what_is_no_whole_checkpoint_is_refused_before_the_network(hub, folder, mlxarch, change):
    broken(change, folder)
    code, out, err = mlxarch("upload", folder, REPO)
    expected, message = BROKEN[change]
    assert (code, out) == (expected, "")
    assert message in err
    assert err.count("\n") == 1
    assert hub.requests == []


def test_an_unfinished_conversion_is_named(hub, folder, mlxarch):
    partial = folder.rename(folder.with_name("out.partial"))
    assert "is not finished" in mlxarch("upload", partial, REPO)[2]
    code, _, err = mlxarch("upload", folder, REPO)
    assert (code, f"{folder} is not finished; give the command" in err) == (1, True)


def test_a_link_within_the_folder_is_a_file(hub, folder, mlxarch):
    (folder / "LICENSE").write_text("terms")
    (folder / "COPYING").symlink_to("LICENSE")
    assert mlxarch("upload", folder, REPO)[0] == 0
    assert hub.files(REPO)["COPYING"] == b"terms"


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "me/", "me/a--b", "me/x.git", "../x", "me/ö x"])
def test_a_name_that_the_hub_would_refuse_is_a_usage_error(hub, folder, mlxarch, name):
    code, _, err = mlxarch("upload", folder, name)
    assert code == 2
    assert "is no repository's name; wanted is OWNER/NAME" in " ".join(err.split())
    assert hub.requests == []


def test_without_a_token_it_says_how_to_log_in(hub, folder, mlxarch, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = mlxarch("upload", folder, REPO)
    assert (code, hub.requests) == (6, [])
    assert err.splitlines()[-1].endswith("log in with `hf auth login`.")


@pytest.mark.parametrize(
    ("part", "answer", "message"),
    [
        ("repos/create", (401, "Invalid username or password."), "does not accept your token"),
        ("repos/create", (403, "No rights"), "You may not write to me/tiny-4bit: No rights. Take"),
        ("/commit/", (403, "Storage limit reached"), "Storage limit reached. Take a repository"),
        ("/preupload/", (400, "Bad name"), "the hub answers 400, Bad name. What has arrived is"),
        ("/xet-write-token/", (403, "No"), "could not be uploaded whole"),
        ("/commit/", (422, f"u?sig=s {TOKEN}"), "answers 422, u?*** ***. What has arrived"),
    ],
)
def test_every_refusal_says_what_to_do(hub, folder, mlxarch, part, answer, message):
    hub.refuse[part] = answer
    code, out, err = mlxarch("upload", folder, REPO)
    assert (code, out) == (6, "")
    assert message in err
    assert err.splitlines()[-1].startswith("HubError: ")


def test_a_public_repository_is_not_taken_for_a_private_one(hub, folder, mlxarch):
    hub.put(REPO, {}, private=False)
    code, _, err = mlxarch("upload", folder, REPO, "--private")
    assert (code, hub.files(REPO)) == (6, {})
    assert "is there already and public" in err


def test_a_repository_that_exists_is_added_to(hub, folder, mlxarch):
    hub.put(REPO, {"card.png": b"kept"}, private=True)
    assert mlxarch("upload", folder, REPO, "--private")[0] == 0
    assert names(folder) | {"card.png"} == set(hub.files(REPO))


@pytest.fixture
def small_commits(monkeypatch):
    """A commit for each file, and no waiting between tries."""
    monkeypatch.setattr(_upload_pipeline, "REGULAR_CONTENT_BYTES_BUDGET", 1)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))


def test_an_upload_that_was_cut_off_goes_on(hub, folder, mlxarch, small_commits):
    hub.commits_left = 2
    code, out, err = mlxarch("upload", folder, REPO)
    assert (code, out) == (6, "")
    assert "run the same command again and it goes on" in err
    arrived = list(hub.sent)
    assert 0 < len(arrived) < len(names(folder))
    hub.commits_left = None
    assert mlxarch("upload", folder, REPO)[0] == 0
    assert sorted(hub.sent) == sorted(names(folder))
    assert names(folder) <= set(hub.files(REPO))
    # A third time there is nothing left to send.
    assert mlxarch("upload", folder, REPO)[:2] == (0, f"{hub.url}/{REPO}\n")
    assert sorted(hub.sent) == sorted(names(folder))


def test_what_arrives_otherwise_is_noticed(hub, folder, mlxarch):
    hub.spoil["tokenizer.json"] = b"{}"
    code, _, err = mlxarch("upload", folder, REPO)
    assert (code, "tokenizer.json has 6,344 bytes and the hub has 2" in err) == (6, True)


def test_a_file_that_changed_since_it_was_written_is_noticed(hub, folder, mlxarch):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = mlxarch("upload", folder, REPO)
    assert (code, "model.safetensors on the hub is not what mlxarch.json says" in err) == (6, True)


def test_offline_and_out_of_reach_are_said_at_once(hub, folder, mlxarch, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = mlxarch("upload", folder, REPO)
    assert (code, "HF_HUB_OFFLINE is set" in err, hub.requests) == (6, True, [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = mlxarch("upload", folder, REPO)
    assert (code, err.splitlines()[-1]) == (
        6,
        "HubError: The hub cannot be reached; check the network and run again.",
    )


@pytest.mark.usefixtures("foreground")
def test_ctrl_c_ends_it_and_says_that_it_goes_on(hub, folder):
    hub.hold = threading.Event()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxarch.app", "upload", str(folder), REPO],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder.parent / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert hub.reached.wait(60), process.communicate(timeout=5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        hub.hold.set()
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert "What has arrived is kept; run the same command again to go on." in err
    assert "Traceback" not in err


def test_messages_lose_what_opens_doors():
    text = "403 for https://cdn.example/a?X-Amz-Signature=abc&b=1 with hf_AbC123\nmore"
    assert upload.plain(text) == "403 for https://cdn.example/a?*** with ***"
