"""Checkpoints from the Hugging Face hub, into its own cache; the only file that knows the hub.

Downloads resume where they stopped and show their progress when stderr is a terminal: both are
huggingface_hub's doing. With `offline`, or HF_HUB_OFFLINE set, nothing is asked of the network.
"""

import errno
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlxarch import shards
from mlxarch.errors import CheckpointError, DoesNotFit, HubError
from mlxarch.shards import TensorInfo

# Everything a conversion or a chat may need, and no code.
WANTED = ("*.json", "*.jsonl", "*.jinja", "*.txt", "*.model", "*.tiktoken", "model*.safetensors")
WANTED += ("mtp*.safetensors", "vision*.safetensors", "README.md", "LICENSE*", "NOTICE*")

_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class NotFoundError(HubError):
    """There is no such folder and no such repository, or it may not be seen."""

    exit_code = 3


def is_folder(model: str) -> bool:
    """Whether a model is named by its folder on this machine."""
    return bool(model) and _path(model).is_dir()


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def resolve(model: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a checkpoint: `model` itself where it is one, else a fetched repository.

    Raises: HubError.
    """
    if is_folder(model):
        return _path(model)
    return fetch(model, revision=revision, offline=offline)


def fetch(repo: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a repository in the hub's cache, downloaded as far as it is not there.

    Raises: HubError; DoesNotFit if the disk is full.
    """
    _check_name(repo)
    offline = offline or is_offline()
    with _explained(repo, revision, offline), _quiet_unless_seen():
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(WANTED), local_files_only=offline
            )
        )


def fetch_config(repo: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """config.json of a repository in the hub's cache, and nothing else.

    Raises: HubError.
    """
    _check_name(repo)
    offline = offline or is_offline()
    with _explained(repo, revision, offline), _quiet_unless_seen():
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(repo, "config.json", revision=revision, local_files_only=offline)
        )


def describe(
    repo: str, *, revision: str | None = None
) -> tuple[dict[str, Any], dict[str, TensorInfo], dict[str, int]]:
    """A repository's config.json, its tensors, and its files with their bytes; no weights.

    Raises: HubError; CheckpointError if it has no safetensors.
    """
    _check_name(repo)
    with _explained(repo, revision, is_offline()), _quiet_unless_seen():
        from huggingface_hub import HfApi

        hub = HfApi()
        siblings = hub.model_info(repo, revision=revision, files_metadata=True).siblings or []
        config = hub.hf_hub_download(repo, "config.json", revision=revision)
        headers = hub.get_safetensors_metadata(repo, revision=revision).files_metadata
    tensors = {
        name: TensorInfo(
            info.dtype,
            tuple(info.shape),
            info.data_offsets[1] - info.data_offsets[0],
            Path(file),
        )
        for file, header in headers.items()
        for name, info in header.tensors.items()
    }
    return (
        shards.read_config(Path(config).parent),
        tensors,
        {file.rfilename: file.size or 0 for file in siblings},
    )


def _path(model: str) -> Path:
    # Path.expanduser would raise for a user who does not exist.
    return Path(os.path.expanduser(model))


def _check_name(repo: str) -> None:
    if not _REPO.fullmatch(repo):
        raise NotFoundError(
            f"{repo!r} is no folder here and no repository's name; "
            "wanted is a folder with a config.json, or a name such as Nanbeige/Nanbeige4.1-3B."
        )


@contextmanager
def _quiet_unless_seen() -> Generator[None, None, None]:
    """Progress bars only where somebody can see them."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _explained(repo: str, revision: str | None, offline: bool) -> Generator[None, None, None]:
    """Whatever goes wrong between here and the hub, as one sentence that says what to do."""
    from huggingface_hub import constants, errors

    where = f"https://huggingface.co/{repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo} is gated; accept its terms at {where}, then log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"The hub has no {repo}, or it is private; check the spelling, "
            "or log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"{repo} has no revision {revision!r}; see {where}.") from error
    except errors.NotASafetensorsRepoError as error:
        raise CheckpointError(
            f"{repo} has no model*.safetensors; convert needs safetensors."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise NotFoundError(f"{repo} has no config.json, so it holds no model.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if offline:
            raise HubError(
                f"{repo} is not, or not wholly, in the hub's cache, and mlxarch is offline; "
                "run once without --offline and HF_HUB_OFFLINE."
            ) from error
        raise HubError(
            f"The hub cannot be reached and {repo} is not in its cache; "
            "check the network and try again."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DoesNotFit(
                f"The disk is full, so {repo} could not be downloaded whole; free some space "
                f"around {constants.HF_HUB_CACHE} and run again: what is there is kept."
            ) from error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(
            f"{repo} could not be fetched: {reason[0].rstrip('.')}. "
            "Try again, what was downloaded is kept; or use --offline for what is in the cache."
        ) from error
