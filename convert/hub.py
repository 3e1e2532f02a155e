"""The Hugging Face hub and its cache: what is there, asked without fetching any weights.

download.py fetches them. With `offline`, or HF_HUB_OFFLINE set, nothing is asked of the network.
"""

import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlxarch import shards
from mlxarch.errors import CheckpointError, FormatError, HubError
from mlxarch.files import local
from mlxarch.shards import TensorInfo

from . import resume
from .trouble import NotFoundError, explained

_PATIENCE = 5.0  # seconds for a first sign of life
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_folder(model: str) -> bool:
    """Whether a model is named by its folder on this machine."""
    return bool(model) and os.path.isdir(local(model))


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def reachable(patience: float = 10.0) -> bool:
    """Whether the hub answers at all; from then on it has `patience` seconds for every answer.

    Asked for once before anything else, because huggingface_hub tries in vain for half a minute
    where there is no network, and waits for ever for a hub that is silent.
    """
    from huggingface_hub import constants, errors, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except (OSError, errors.HTTPError):
        return False
    get_session().timeout = patience
    return True


def kept(repo: str, revision: str | None = None) -> Path | None:
    """The folder of a repository in the hub's cache if a model is whole there; nobody is asked.

    Others who fetched it may have left out what a model does without, such as its README.
    """
    config = cached(repo, "config.json", revision or "main") if _REPO.fullmatch(repo) else None
    if config is None:
        return None
    folder = config.parent
    try:
        weights = shards.find(folder)
    except (CheckpointError, FormatError):
        return None
    # Without an index, shards tell by their names that there are others.
    lacking = not (folder / shards.INDEX).exists() and any("-of-" in file.name for file in weights)
    cut_short = any(resume.wanting(folder.parent.parent))
    whole = any(folder.glob("tokenizer*")) and not lacking and not cut_short
    return folder if whole else None


def stay_offline() -> None:
    """Ask nothing of the network in the rest of this process, nor let others do."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def fetch_config(repo: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """config.json of a repository in the hub's cache, and nothing else.

    Raises: HubError.
    """
    check_name(repo)
    offline = offline or is_offline()
    alone = offline or not reachable()
    with explained(repo, revision, offline), told(alone), quiet():
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo, "config.json", revision=revision, local_files_only=alone))


@dataclass(frozen=True)
class Repository:
    """A repository of which no weights are here."""

    revision: str  # the commit
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    sizes: dict[str, int]  # of all files, in bytes
    readme: Path | None


def describe(repo: str, *, revision: str | None = None) -> Repository:
    """What a repository holds: its config.json, its tensors, its files; no weights.

    Raises: HubError; CheckpointError if it has no safetensors.
    """
    check_name(repo)
    if not reachable():
        raise HubError(
            f"The hub cannot be reached, so {repo} was not looked at; "
            "check the network, or use --offline for what is in the cache."
        )
    with explained(repo, revision, is_offline()), quiet():
        from huggingface_hub import HfApi

        hub = HfApi()
        info = hub.model_info(repo, revision=revision, files_metadata=True)
        commit = info.sha or revision
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        config = hub.hf_hub_download(repo, "config.json", revision=commit)
        if "hf_quant_config.json" in sizes:
            hub.hf_hub_download(repo, "hf_quant_config.json", revision=commit)
        readme = "README.md" in sizes and hub.hf_hub_download(repo, "README.md", revision=commit)
        headers = dict(hub.get_safetensors_metadata(repo, revision=commit).files_metadata)
        for file in sizes:
            # What an index does not list, since mlx-lm does not know it.
            if fnmatch(file, "mtp*.safetensors") or fnmatch(file, "vision*.safetensors"):
                headers[file] = hub.parse_safetensors_file_metadata(repo, file, revision=commit)
    tensors: dict[str, TensorInfo] = {}
    for file, header in headers.items():
        entries = {name: vars(info) for name, info in header.tensors.items()}
        tensors |= shards.read_entries(entries, Path(file))
    return Repository(
        revision=str(commit),
        config=shards.read_config(Path(config).parent),
        tensors=tensors,
        sizes=sizes,
        readme=Path(readme) if readme else None,
    )


def cached(repo: str, file: str, revision: str) -> Path | None:
    """A file of a commit where the hub's cache has it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cache_folder() -> Path:
    """Where the hub's cache lies."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def forget(file: Path) -> None:
    """Remove a file; of a link into the hub's cache also its blob, if nothing else links to it."""
    target = file.resolve()
    file.unlink()
    if target != file.absolute() and target.parent.name == "blobs" and target.exists():
        links = target.parent.parent.glob(f"snapshots/*/{file.name}")
        if not any(link.resolve() == target for link in links):
            target.unlink()


def check_name(repo: str) -> None:
    """Raises: NotFoundError if this cannot be a repository's name."""
    if not _REPO.fullmatch(repo):
        raise NotFoundError(
            f"{repo!r} is no folder here and no repository's name; "
            "wanted is a folder with a config.json, or a name such as Nanbeige/Nanbeige4.1-3B."
        )


@contextmanager
def told(alone: bool) -> Generator[None, None, None]:
    """Tells huggingface_hub to stay offline; it asks the hub about its own matters otherwise."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or alone
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet_unless_seen() -> Generator[None, None, None]:
    """huggingface_hub's bars only where somebody can see them."""
    with nullcontext() if sys.stderr.isatty() else quiet():
        yield


@contextmanager
def quiet() -> Generator[None, None, None]:
    """No bars of huggingface_hub, of which some are drawn later, over what comes after them."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
