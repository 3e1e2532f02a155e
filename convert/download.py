"""Repositories found on the hub, and fetched into its cache file by file with their progress.

Files that came whole are not fetched again, and large ones go on where they were cut short
(resume.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlxarch import registry
from mlxarch.errors import ConfigError, DoesNotFit, HubError
from mlxarch.files import local
from mlxarch.words import size

from . import hub, resume
from .durable import free_bytes
from .trouble import explained

# Everything a conversion or a chat may need, and no code.
WANTED = ("*.json", "*.jsonl", "*.jinja", "*.txt", "*.model", "*.tiktoken", "model*.safetensors")
WANTED += ("mtp*.safetensors", "vision*.safetensors", "README.md", "LICENSE*", "NOTICE*")

Watch = Callable[[int, int, str], None]  # bytes that are here, bytes in all, the file

_SHOWN = 30  # repositories at most


def unwatched(done: int, total: int, file: str) -> None:
    """A `Watch` of somebody who shows nothing."""


@dataclass(frozen=True)
class Found:
    """A repository that mlxarch has a port for."""

    repo: str
    family: str
    parameters: int | None  # numbers in its files, which are fewer than parameters where packed
    bytes: int | None  # in the repository
    downloads: int  # of the last month


def search(words: str) -> list[Found]:
    """Repositories whose names have these words, the most wanted first; only what is ported.

    Raises: HubError.
    """
    if hub.is_offline() or not hub.reachable():
        raise HubError("The hub cannot be reached, so it cannot be searched; check the network.")
    with explained(words):
        from huggingface_hub import HfApi

        models = HfApi().list_models(
            search=words,
            filter="safetensors",
            sort="downloads",
            limit=4 * _SHOWN,
            expand=["config", "downloads", "safetensors", "usedStorage"],
        )
        return [found for model in models if (found := _found(model))][:_SHOWN]


def _found(model: object) -> Found | None:
    raw = getattr(model, "config", None) or {}
    try:
        family = registry.find(raw).name
    except ConfigError:
        return None
    stored = getattr(model, "safetensors", None)
    return Found(
        repo=str(getattr(model, "id", "")),
        family=family,
        parameters=getattr(stored, "total", None),
        bytes=getattr(model, "used_storage", None),
        downloads=getattr(model, "downloads", None) or 0,
    )


def resolve(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    watch: Watch = unwatched,
) -> Path:
    """The folder of a checkpoint: `model` itself where it is one, else a repository's in the cache.

    That is brought as far as it is not there, unless mlxarch is offline or the hub is not reached.

    Raises: HubError; DoesNotFit if the disk has no room for it.
    """
    if hub.is_folder(model):
        return local(model)
    hub.check_name(model)
    offline = offline or hub.is_offline()
    alone = offline or not hub.reachable()
    if not alone:
        _bring(model, watch, revision)
    elif folder := hub.kept(model, revision):
        return folder
    with explained(model, revision, offline), hub.told(alone), hub.quiet():
        from huggingface_hub import snapshot_download

        # This notes which commit the revision is.
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=list(WANTED), local_files_only=alone
            )
        )


def _bring(repo: str, watch: Watch, revision: str | None) -> None:
    """Bring what is missing of a repository, if the disk has room for it."""
    commit, files = _files(repo, revision)
    here = {
        name: bytes for name, bytes in files.items() if hub.cached(repo, name, commit) is not None
    }
    total, place = sum(files.values()), hub.cache_folder()
    done = sum(here.values())
    most = min(done + resume.begun(repo), total)
    missing = total - most
    if missing > (free := free_bytes(place)):
        raise DoesNotFit(
            f"{repo} needs {size(missing)} more, and the disk of {place} has {size(free)} free; "
            "make room, or let HF_HOME name another disk."
        )

    def tell(there: int, file: str) -> None:
        # What was begun earlier is not taken back while other files come.
        nonlocal most
        most = max(most, there)
        watch(most, total, file)

    tell(done, "")
    for name, bytes in _missing(files, here):

        def report(there: int, before: int = done, file: str = name) -> None:
            tell(before + there, file)

        fetch_file(repo, name, commit, report)
        done += bytes
        tell(done, name)


def fetch_file(
    repo: str, file: str, revision: str, report: Callable[[int], None] = lambda count: None
) -> Path:
    """One file of a commit in the hub's cache, downloaded as far as it is not there.

    Args:
        report: Called with the bytes that are there, from the thread that calls this.

    Raises: HubError; DoesNotFit if the disk is full.
    """
    with explained(repo, revision, hub.is_offline()):
        from huggingface_hub import hf_hub_download

        if file.endswith(".safetensors") and hub.cached(repo, file, revision) is None:
            resume.fetch(repo, file, revision, report)
        watch: Any = resume.reported(report)
        return Path(hf_hub_download(repo, file, revision=revision, tqdm_class=watch))


def _missing(files: dict[str, int], here: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Small files first: what is wrong with a repository is then known soon."""
    yield from sorted(
        ((name, bytes) for name, bytes in files.items() if name not in here), key=lambda f: f[1]
    )


def _files(repo: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """A repository's commit, and the files of it that are wanted with their bytes."""
    with explained(repo, revision):
        from huggingface_hub import HfApi

        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    files = {
        file.rfilename: file.size or 0
        for file in info.siblings or []
        if any(fnmatch(file.rfilename, pattern) for pattern in WANTED)
    }
    if "config.json" not in files:
        raise hub.NotFoundError(f"{repo} has no config.json, so it holds no model.")
    return str(info.sha), files
