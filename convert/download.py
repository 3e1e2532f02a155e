"""Repositories found on the hub, and fetched into its cache file by file with their progress."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxarch import registry
from mlxarch.errors import ConfigError, DoesNotFit, HubError
from mlxarch.words import size

from . import hub, resume, room
from .hub import Watch
from .trouble import explained

_SHOWN = 30  # repositories at most


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


def fetch(repo: str, watch: Watch, *, revision: str | None = None) -> Path:
    """`hub.fetch` for somebody who wants it from the hub, not only what is here of it.

    Raises: HubError; DoesNotFit if the disk has no room for what is missing.
    """
    hub.check_name(repo)
    if hub.is_offline() or not hub.reachable():
        raise HubError(
            f"The hub cannot be reached, so {repo} cannot be fetched; check the network. "
            "What is here already is listed by `mlxarch models`."
        )
    return hub.fetch(repo, revision=revision, watch=watch)


def bring(repo: str, watch: Watch, revision: str | None = None) -> None:
    """Bring all that a chat or a conversion needs of a repository into the hub's cache.

    What is whole is not fetched again, and a file that was cut short goes on where it was.

    Raises: HubError; DoesNotFit if the disk has no room for what is missing.
    """
    commit, files = _files(repo, revision)
    here = {
        name: bytes for name, bytes in files.items() if hub.cached(repo, name, commit) is not None
    }
    total, place = sum(files.values()), hub.cache_folder()
    done = sum(here.values())
    most = min(done + resume.begun(repo), total)
    missing = total - most
    if missing > (free := room.free_bytes(place)):
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

        hub.fetch_file(repo, name, commit, report)
        done += bytes
        tell(done, name)


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
    files = hub.wanted(info)
    if "config.json" not in files:
        raise hub.NotFoundError(f"{repo} has no config.json, so it holds no model.")
    return str(info.sha), files
