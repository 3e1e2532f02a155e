"""Repositories of the hub, without a network: its cache, its headers and its refusals."""

import errno
import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import tiny
from commandline import run
from huggingface_hub import constants, errors

from mlxarch import shards
from mlxarch.convert import download, hub, inventory, plan
from mlxarch.errors import CheckpointError, DoesNotFit, HubError
from mlxarch.quantize.recipes import candidate

REPO = "Nanbeige/Nanbeige4.1-3B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def cached(cache, tmp_path):
    """A repository as the hub's cache lays it out: snapshots of links to blobs."""
    source = tiny.save(tmp_path / "source")
    base = cache / "models--Nanbeige--Nanbeige4.1-3B"
    snapshot = base / "snapshots" / COMMIT
    for folder in (base / "refs", base / "blobs", snapshot):
        folder.mkdir(parents=True)
    (base / "refs" / "main").write_text(COMMIT)
    for file in source.iterdir():
        file.rename(base / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    return snapshot


@pytest.fixture
def online(monkeypatch, cached, tmp_path):
    """The hub's answers about that repository; the list of what was downloaded."""
    downloaded = []
    tensors = shards.read_headers(shards.find(cached))
    entries = {
        name: SimpleNamespace(
            dtype=info.dtype, shape=list(info.shape), data_offsets=(0, info.bytes)
        )
        for name, info in tensors.items()
    }
    headers = {"model.safetensors": SimpleNamespace(tensors=entries)}
    siblings = [
        SimpleNamespace(rfilename=path.name, size=path.stat().st_size) for path in cached.iterdir()
    ]
    siblings.append(SimpleNamespace(rfilename="original/tokenizer.model", size=5))

    class Api:
        def model_info(self, repo, *, revision, files_metadata):
            assert files_metadata
            return SimpleNamespace(siblings=siblings, sha=COMMIT)

        def hf_hub_download(self, repo, file, *, revision):
            assert file in ("config.json", "README.md")
            return str(cached / file)

        def get_safetensors_metadata(self, repo, *, revision):
            return SimpleNamespace(files_metadata=headers)

    def snapshot(repo, **wishes):
        downloaded.append((repo, wishes))
        return str(cached)

    def one(repo, file, *, revision, tqdm_class=None, local_files_only=False):
        assert revision == COMMIT
        downloaded.append(file)
        return str(cached / file)

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one)
    return downloaded


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_offline_uses_the_cache(cached, monkeypatch, switch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "environment")
    assert download.resolve(REPO, offline=switch == "argument") == cached


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_offline_without_a_cache_fails_at_once(monkeypatch, tmp_path, capsys, switch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "environment")
    options = ["--offline"] if switch == "argument" else []
    assert run(monkeypatch, "convert", REPO, tmp_path / "out", *options) == 6
    told = capsys.readouterr().err
    assert "is not, or not wholly, in the hub's cache, and mlxarch is offline; run once" in told
    assert told.count("\n") == 1


def test_a_cached_repository_is_converted_and_quantized_offline(
    cached, tmp_path, monkeypatch, capsys
):
    assert run(monkeypatch, "convert", REPO, tmp_path / "out", "--offline") == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert "tokenizer.json" in files
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert f"base_model: {REPO}" in (tmp_path / "out" / "README.md").read_text()
    assert run(monkeypatch, "quantize", REPO, tmp_path / "four", "--group-size", 32) == 0


def test_what_is_fetched_is_all_that_a_conversion_needs(online, cached):
    told = []
    assert download.resolve(REPO, revision="v2", watch=lambda *what: told.append(what)) == cached
    # What is here already is not asked for.
    missing, (repo, wishes) = online
    assert missing == "original/tokenizer.model"
    assert told[0][0] + 5 == told[-1][0] == told[-1][1]
    assert (repo, wishes["revision"], wishes["local_files_only"]) == (REPO, "v2", False)
    wanted = set(wishes["allow_patterns"])
    names = [
        *("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("tokenizer.model", "chat_template.jinja", "merges.txt", "o200k.tiktoken", "LICENSE"),
        "additional_chat_templates/rag.jinja",
    ]
    kept = huggingface_hub.utils.filter_repo_objects(
        [*names, "modeling.py", "pytorch_model.bin", "consolidated.safetensors", "x.gguf"],
        allow_patterns=list(wanted),
    )
    assert list(kept) == names


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_offline_asks_nothing_of_the_network(online, cached, monkeypatch, switch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "environment")
    assert download.resolve(REPO, offline=switch == "argument") == cached
    assert online == []
    for file in cached.glob("tokenizer*"):
        file.unlink()
    download.resolve(REPO, offline=switch == "argument")
    assert online[0][1]["local_files_only"]


def test_a_folder_goes_before_a_repository(cached, monkeypatch):
    assert download.resolve(str(cached)) == cached
    monkeypatch.chdir(cached.parent)
    assert download.resolve(COMMIT).name == COMMIT
    monkeypatch.setenv("HOME", str(cached.parent))
    assert download.resolve(f"~/{COMMIT}") == cached


def test_headers_alone_make_the_same_plan(online, cached):
    wishes = {"dtype": "bfloat16", "recipe": candidate("4g32"), "shard_bytes": 40_000}
    afar = plan.make(inventory.look_afar(REPO), **wishes)
    near = plan.make(inventory.look(cached, REPO, COMMIT), **wishes)
    assert online == []
    assert [shard.header for shard in afar.shards] == [shard.header for shard in near.shards]
    assert afar.fingerprint == near.fingerprint
    assert afar.config == near.config
    assert afar.readme == near.readme
    assert afar.source.travellers == near.source.travellers


def test_a_dry_run_downloads_no_weights(online, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "convert", REPO, out, "--dry-run", "--json") == 0
    event = json.loads(capsys.readouterr().out)
    assert online == []
    assert run(monkeypatch, "convert", REPO, out) == 0
    assert sorted(online) == ["model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert event["bytes_out"] == (out / "model.safetensors").stat().st_size
    assert event["source"] == REPO


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"model_type": "gpt2"}, 3, "model_type is 'gpt2'"),
        ({"quantization_config": {"quant_method": "hqq"}}, 1, "as 'hqq'"),
    ],
)
def test_what_cannot_be_converted_is_not_downloaded(
    online, cached, tmp_path, monkeypatch, capsys, change, code, message
):
    raw = json.loads((cached / "config.json").read_text()) | change
    (cached / "config.json").write_text(json.dumps(raw))
    assert run(monkeypatch, "convert", REPO, tmp_path / "out") == code
    assert message in capsys.readouterr().err
    assert online == []


def test_nothing_is_downloaded_for_a_disk_without_room(online, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert run(monkeypatch, "convert", REPO, tmp_path / "out") == 4
    assert online == []


def refusal(kind):
    response = SimpleNamespace(headers={}, request=None)
    return kind("Refused.\nAt length.", response=response)


def timeout():
    return errors.LocalEntryNotFoundError("An error happened while trying to locate the files")


REFUSALS = {
    "gated": (refusal(errors.GatedRepoError), HubError, 6, "is gated; accept its terms at https"),
    "absent": (refusal(errors.RepositoryNotFoundError), HubError, 3, "The hub has no Nanbeige"),
    "revision": (refusal(errors.RevisionNotFoundError), HubError, 3, "has no revision 'v9'"),
    "no config": (refusal(errors.RemoteEntryNotFoundError), HubError, 3, "has no config.json"),
    "no safetensors": (errors.NotASafetensorsRepoError(), CheckpointError, 1, "needs safetensors"),
    "server": (refusal(errors.HfHubHTTPError), HubError, 6, r"could not be fetched: Refused\. Try"),
    "no network": (timeout(), HubError, 6, "cannot be reached .* check the network"),
    "connection": (errors.HTTPError(""), HubError, 6, "could not be fetched: HTTPError"),
    "full disk": (OSError(errno.ENOSPC, "full"), DoesNotFit, 4, "The disk is full, so Nanbeige"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_every_refusal_says_what_to_do(online, monkeypatch, case):
    raised, kind, code, message = REFUSALS[case]

    def refuse(*arguments, **wishes):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "get_safetensors_metadata", refuse)
    for ask in (download.resolve, hub.describe):
        with pytest.raises(kind, match=message) as refused:
            ask(REPO, revision="v9")
        assert refused.value.exit_code == code
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["nowhere", "a/b/c", "/no/such/folder", "../x", "", "a/b?", "~/x", "~nobody/x"]
)
def test_what_is_neither_folder_nor_repository_is_not_asked_for(online, name):
    with pytest.raises(HubError, match="is no folder here and no repository's name") as refused:
        download.resolve(name)
    assert refused.value.exit_code == 3
    assert online == []


@pytest.mark.parametrize("seen", [True, False])
def test_bars_of_huggingface_hub_are_not_drawn(online, monkeypatch, seen):
    """Some are drawn late, over a chat that has begun."""
    from huggingface_hub.utils import are_progress_bars_disabled

    states = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: seen, raising=False)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: states.append(
            are_progress_bars_disabled()
        ) or "x",
    )  # fmt: skip
    download.resolve(REPO)
    assert states == [True]
    assert not are_progress_bars_disabled()
