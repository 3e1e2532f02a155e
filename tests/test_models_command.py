"""`mlxarch models`: what it says of the hub's cache, and that it deletes nothing else."""

import json
import os
from pathlib import Path

import commandline
import mlx.core as mx
import mlx.nn as nn
import pytest
import tiny
from huggingface_hub import DeleteCacheStrategy, constants

from mlxarch import checkpoint, registry
from mlxarch.convert import store
from mlxarch.names import rules
from mlxarch.words import ago

FIRST, SECOND = "0" * 40, "a" * 40
REPO = "Nanbeige/Nanbeige4.1-3B"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache in a home of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keep(cache, repo, source, commit=FIRST, ref="main", kind="models"):
    """A folder's files as a repository in the cache: snapshots of links to blobs."""
    base = cache / f"{kind}--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / commit
    for folder in (base / "refs", base / "blobs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    if ref:
        (base / "refs" / ref).write_text(commit)
    for file in source.iterdir():
        blob = base / "blobs" / f"{file.name}-{file.stat().st_size}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return base


@pytest.fixture
def model(cache, tmp_path):
    """A whole model in the cache, and its folder there."""
    return keep(cache, REPO, tiny.save(tmp_path / "source"))


@pytest.fixture
def mlxarch(monkeypatch, capsys):
    def run(*arguments):
        code = commandline.run(monkeypatch, *arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def tree(folder):
    """Everything in a folder, links as what they say."""
    return {
        path.relative_to(folder): os.readlink(path)
        if path.is_symlink()
        else path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def test_an_empty_or_absent_cache_has_no_models(cache, mlxarch):
    for _ in range(2):
        code, out, err = mlxarch("models")
        assert (code, out, err) == (0, "", f"There are no models in {cache}.\n")
        assert mlxarch("models", "--json")[:2] == (0, "")
        cache.mkdir(exist_ok=True)


def test_a_model_is_a_line(model, cache, mlxarch):
    code, out, err = mlxarch("models")
    head, line = out.splitlines()
    assert (code, head.split("  ")[0]) == (0, "model")
    assert head.endswith("  family        parameters  bits  on disk  last used")
    assert line.split() == [REPO, "Nanbeige", "4.1", "47.9k", "32", "203", "kB", "just", "now"]
    assert err == f"1 model, 203 kB, in {cache}.\n"


def test_json_holds_the_exact_figures(model, mlxarch, tmp_path):
    (line,) = mlxarch("models", "--json")[1].splitlines()
    found = json.loads(line)
    total = sum(file.stat().st_size for file in (tmp_path / "source").iterdir())
    count = sum(w.size for w in mx.load(str(tmp_path / "source" / "model.safetensors")).values())
    assert found["repo"] == REPO
    assert found["bytes"] == total
    assert found["family"] == "Nanbeige 4.1"
    assert found["weights"] == {"parameters": count, "bits": 32.0}
    assert found["revisions"] == [{"commit": FIRST, "refs": ["main"], "bytes": total}]
    assert (found["missing"], found["damage"], found["unfinished"]) == ([], None, 0)


def test_packed_weights_count_as_what_they_were(cache, tmp_path):
    changes = {"hidden_size": 64, "intermediate_size": 64}
    whole = tiny.model(**changes)
    count = sum(w.size for w in checkpoint.parameters(whole).values())
    nn.quantize(whole, 32, 4, class_predicate=lambda name, m: hasattr(m, "to_quantized"))
    raw = {**tiny.CONFIGS["llama"], **changes}
    table = registry.find(raw).names.table(registry.find(raw).model.Config.from_hub(raw))
    packed = rules.translate(rules.inverse(table), checkpoint.parameters(whole))
    source = tmp_path / "packed"
    source.mkdir()
    mx.save_safetensors(str(source / "model.safetensors"), packed)
    raw["quantization"] = {"group_size": 32, "bits": 4}
    (source / "config.json").write_text(json.dumps(raw))
    keep(cache, "mlx-community/tiny", source)
    (found,) = store.look().models
    assert found.weights.parameters == count
    assert found.weights.bits == pytest.approx(8 * sum(w.nbytes for w in packed.values()) / count)
    assert 4.5 < found.weights.bits < 7


def test_what_is_not_whole_or_not_ported_is_said(cache, tmp_path, mlxarch):
    source = tiny.save(tmp_path / "source")
    blobs = keep(cache, "a/truncated", source) / "blobs"
    (shard,) = blobs.glob("model.safetensors-*")
    os.truncate(shard, 100_000)
    (keep(cache, "a/cut-short", source) / "blobs" / "abc.incomplete").write_bytes(b"x" * 5000)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    keep(cache, "a/shardless", source)
    config = json.loads((source / "config.json").read_text())
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (source / name).unlink()
    keep(cache, "a/config-only", source)
    (source / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    keep(cache, "a/foreign", source)
    (source / "config.json").write_text("{")
    keep(cache, "a/garbled", source)

    code, out, _ = mlxarch("models")
    lines = iter(out.splitlines()[1:])
    told = {}
    for line in lines:
        if line.startswith("    "):
            told[name].append(line.strip())
        else:
            name = line.split()[0]
            told[name] = [line]
    assert code == 0
    assert told["a/cut-short"][1:] == ["5.00 kB of a download that was cut short"]
    assert "is truncated or damaged: 100,000 bytes" in told["a/truncated"][1]
    assert told["a/shardless"][1:] == ["incomplete: 1 shard is missing"]
    assert told["a/config-only"][1:] == ["no weights are here"]
    assert "not ported" in told["a/foreign"][0]
    assert "cannot be read as JSON" in told["a/garbled"][1]


def test_damaged_entries_are_listed_and_can_be_removed(model, cache, mlxarch):
    refs = cache / "models--a--interrupted" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(FIRST)
    dangling = cache / "models--a--dangling" / "snapshots" / FIRST
    dangling.mkdir(parents=True)
    (dangling / "config.json").symlink_to("../../blobs/gone")
    (cache / "stray.txt").write_text("not a repository")
    code, out, _ = mlxarch("models")
    assert code == 0
    assert out.count("damaged: ") == 2
    assert "Snapshots dir doesn't exist" in out
    assert "broken symlink" in out
    for name in ("a/interrupted", "a/dangling"):
        assert mlxarch("models", "remove", name, "--yes")[0] == 0
    assert {path.name for path in cache.iterdir()} == {model.name, "stray.txt"}


def test_other_things_in_the_cache_are_named_apart(model, cache, tmp_path, mlxarch):
    source = tmp_path / "data"
    source.mkdir()
    (source / "rows.json").write_bytes(b"1" * 3000)
    keep(cache, "a/rows", source, kind="datasets")
    _, out, err = mlxarch("models")
    assert "a/rows" not in out
    assert err.endswith("Beside them: 3.00 kB of datasets.\n")
    assert mlxarch("models", "remove", "a/rows", "--yes")[0] == 3


def test_a_model_is_removed_and_nothing_else(model, cache, tmp_path, mlxarch):
    # A repository that was renamed: the same commits under two names.
    keep(cache, "other/model", tmp_path / "source")
    before = tree(cache / "models--other--model")
    code, out, err = mlxarch("models", "remove", REPO, "--yes")
    assert (code, out, err) == (0, f"Deleted {REPO} (0000000), 203 kB.\n", "")
    assert not model.exists()
    assert tree(cache / "models--other--model") == before
    code, _, err = mlxarch("models", "remove", REPO, "--yes")
    assert (code, "is not in the cache at" in err) == (3, True)


def test_a_removal_can_be_tried_and_is_asked_about(model, cache, mlxarch, monkeypatch):
    before = tree(cache)
    code, out, _ = mlxarch("models", "remove", REPO, "--dry-run")
    assert (code, out) == (0, f"Would delete {REPO} (0000000), 203 kB.\n")
    code, out, err = mlxarch("models", "remove", REPO)
    assert (code, out) == (2, "")
    assert "203 kB would be deleted; say --yes, or --dry-run." in " ".join(err.split())
    for stream in ("sys.stdin", "sys.stderr"):
        monkeypatch.setattr(f"{stream}.isatty", lambda: True, raising=False)
    for answer, code in (("n", 130), ("y", 0)):
        assert tree(cache) == before
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda *a, answer=answer: answer)
        assert mlxarch("models", "remove", REPO)[0] == code
    assert not model.exists()


def test_removal_in_json(model, mlxarch, tmp_path):
    total = sum(file.stat().st_size for file in (tmp_path / "source").iterdir())
    wanted = {"repo": REPO, "commits": [FIRST], "bytes_freed": total}
    _, out, _ = mlxarch("models", "remove", REPO, "--json", "--dry-run")
    assert json.loads(out) == {"event": "plan", **wanted}
    _, out, _ = mlxarch("models", "remove", REPO, "--json", "--yes")
    assert json.loads(out) == {"event": "done", **wanted}


def test_one_revision_goes_and_what_another_needs_stays(model, cache, tmp_path, mlxarch):
    source = tmp_path / "source"
    (source / "config.json").write_text((source / "config.json").read_text() + " ")
    keep(cache, REPO, source, commit=SECOND, ref="v2")
    _, out, _ = mlxarch("models")
    assert "    revisions: 0000000 main, aaaaaaa v2" in out
    shard = (model / "snapshots" / FIRST / "model.safetensors").resolve()
    code, out, _ = mlxarch("models", "remove", REPO, "--revision", "v2", "--yes")
    assert (code, out) == (0, f"Deleted {REPO} (aaaaaaa), 263 B.\n")
    assert shard.exists()
    assert [path.name for path in (model / "snapshots").iterdir()] == [FIRST]
    assert sorted(path.name for path in (model / "refs").iterdir()) == ["main"]
    for revision in ("v2", "f", ""):
        code, _, err = mlxarch("models", "remove", REPO, "--revision", revision, "--yes")
        assert (code, "is 0 of the revisions" in err) == (3, True)
    assert mlxarch("models", "remove", REPO, "--revision", "00000", "--yes")[0] == 0
    assert not model.exists()


def test_an_unfinished_download_is_freed_with_its_model(model, mlxarch, tmp_path):
    total = sum(file.stat().st_size for file in (tmp_path / "source").iterdir())
    (model / "blobs" / "abc.incomplete").write_bytes(b"x" * 5000)
    _, out, _ = mlxarch("models", "remove", REPO, "--json", "--yes")
    assert json.loads(out)["bytes_freed"] == total + 5000
    assert not model.exists()


@pytest.mark.parametrize("name", ["..", "../..", "a/../../x", "/", "", "a/b/../c", "x"])
def test_names_that_lead_elsewhere_are_not_there(model, tmp_path, mlxarch, name):
    before = tree(tmp_path)
    assert mlxarch("models", "remove", name, "--yes")[0] == 3
    assert tree(tmp_path) == before


def test_links_out_of_the_cache_are_not_followed(model, cache, tmp_path, mlxarch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (cache / "models--a--moved").symlink_to(elsewhere)
    keep(cache, REPO, mine, commit=SECOND, ref="v2")
    (model / "snapshots" / SECOND / "notes").symlink_to(mine / "letter")
    code, _, err = mlxarch("models", "remove", "a/moved", "--yes")
    assert (code, "is a link to" in err) == (1, True)
    code, _, err = mlxarch("models", "remove", REPO, "--revision", "v2", "--yes")
    assert (code, "is no part of" in err) == (1, True)
    assert mlxarch("models", "remove", REPO, "--yes")[0] == 0
    assert not model.exists()
    assert (mine / "letter").read_text() == "dear"
    assert elsewhere.is_dir()


def test_what_cannot_be_deleted_is_said(model, mlxarch, monkeypatch):
    monkeypatch.setattr(DeleteCacheStrategy, "execute", lambda self: None)
    code, out, err = mlxarch("models", "remove", REPO, "--yes")
    assert (code, out) == (1, "")
    assert f"{model} could not be removed; look at who may write there." in err


def test_ages_are_in_the_largest_unit_that_fits(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    ages = (0, 3599, 3600, 7200, 86_400, 86_400 * 29, 86_400 * 30, 86_400 * 800, -5)
    assert [ago(1e9 - age) for age in ages] == [
        "just now",
        "just now",
        "1 hour ago",
        "2 hours ago",
        "1 day ago",
        "29 days ago",
        "1 month ago",
        "2 years ago",
        "just now",
    ]


def test_a_cache_that_is_no_folder_is_one_line(cache, mlxarch):
    Path(cache).write_text("a file")
    code, _, err = mlxarch("models")
    assert (code, err.startswith(f"MlxarchError: The cache at {cache} cannot be read")) == (1, True)
