"""A checkpoint's folder, whole and nothing else, to a repository on the hub.

What goes up is decided here, before anything is asked of the network; `upload_folder` then skips
what has arrived, so an upload that was stopped goes on when it is run again. At the end the hub's
list of sizes and hashes is held against ours.

Source: huggingface_hub, hf_api.py, `upload_folder`.
"""

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mlxarch import __version__, shards
from mlxarch.errors import CheckpointError, HubError, MlxarchError

from . import hub, manifest
from .durable import write_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What tools leave behind. Hidden files stay here too, whatever they are.
_LEFTOVERS = ("*.partial", "*.incomplete", "*.lock", "*.tmp", "*~", "__pycache__", "Thumbs.db")
_CARD = "README.md"
_PATIENCE = 300.0  # seconds: the hub takes its time over a commit of large files
_SECRETS = re.compile(r"\bhf_\w+|(?<=\?)\S+")  # tokens, and the signed part of an address


@dataclass(frozen=True)
class Uploaded:
    """A folder that has arrived."""

    url: str
    commit: str


def is_name(repo: str) -> bool:
    """Whether this can be a repository's name, with its owner's."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return repo.count("/") == 1


def look(folder: Path) -> dict[str, int]:
    """The files of a checkpoint that would be uploaded, and their bytes.

    Raises: MlxarchError unless the folder is a whole checkpoint that keeps to itself.
    """
    here = os.path.isdir(folder)  # False for a name that no folder can have
    if not (here or os.path.isdir(f"{os.path.abspath(folder)}.partial")):
        raise hub.NotFoundError(f"{folder} is no folder; wanted is that of a whole checkpoint.")
    if not here or folder.suffix == ".partial" or any(folder.glob(".mlxarch-*")):
        raise CheckpointError(
            f"{folder} is not finished; give the command that writes it again, then upload."
        )
    files = _files(folder)
    shards.read_config(folder)
    whole = shards.find(folder)
    shards.read_headers(whole)
    strays = {name for name in files if fnmatch(name, "*.safetensors")} - {s.name for s in whole}
    if strays:
        raise CheckpointError(
            f"{folder} has {', '.join(sorted(strays))}, which its index does not name; remove it."
        )
    for name, size in _promised(folder).items():
        if name not in files:
            raise CheckpointError(f"{folder} lacks {name}, which {manifest.NAME} lists.")
        # A model card is written on by hand.
        if files[name] != size and name != _CARD:
            raise CheckpointError(
                f"{folder / name} has {files[name]:,} bytes where {manifest.NAME} promises "
                f"{size:,}; convert or download it again."
            )
    return files


def upload(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Uploaded:
    """Upload a checkpoint; the repository, and the branch `revision`, are made if absent.

    In the folder itself the model card then names the repository.

    Raises: MlxarchError as `look` does; HubError.
    """
    look(folder)
    if hub.is_offline():
        raise HubError(f"{repo} cannot be uploaded, since HF_HUB_OFFLINE is set; unset it.")
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError("There is no token for the hub; log in with `hf auth login`.")
    if not hub.reachable(_PATIENCE):
        raise HubError("The hub cannot be reached; check the network and run again.")
    api = HfApi(library_name="mlxarch", library_version=__version__)
    with _explained(repo), hub.quiet_unless_seen():
        _prepare(api, repo, private, revision)
        _address(folder, repo)
        files = look(folder)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=message or f"Upload with mlxarch {__version__}",
            allow_patterns=[escape(name) for name in files],
        )
        _check_arrival(api, repo, commit.oid, folder, files)
    branch = f"/tree/{revision}" if revision else ""
    return Uploaded(f"{api.endpoint}/{repo}{branch}", commit.oid)


def _files(folder: Path) -> dict[str, int]:
    """What there is to upload. Raises: CheckpointError for a link that leads out of the folder."""
    inside, files = folder.resolve(), {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") or _is_leftover(part) for part in relative.parts):
            continue
        if path.is_symlink() and not (
            path.is_file() and Path(os.path.realpath(path)).is_relative_to(inside)
        ):
            raise CheckpointError(
                f"{path} is a link to {os.readlink(path)}, not to a file in {folder}; "
                "put the file itself there."
            )
        if path.is_file():
            files[relative.as_posix()] = path.stat().st_size
    return files


def _is_leftover(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _LEFTOVERS)


def _promised(folder: Path) -> dict[str, int]:
    """The bytes of each file by the folder's own list; nothing where it has none."""
    found = manifest.read(folder)
    return {name: entry.bytes for name, entry in found.files.items()} if found else {}


def _prepare(api: "HfApi", repo: str, private: bool, revision: str | None) -> None:
    """Make the repository and the branch, or see that they are what is wanted."""
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.model_info(repo).private:
        raise HubError(
            f"{repo} is there already and public, and --private is asked for; take another name, "
            "or make it private on the hub first."
        )
    if revision and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)


def _address(folder: Path, repo: str) -> None:
    """Let the model card name the repository, and mlxarch.json know the card as it is."""
    card = folder / _CARD
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    named = re.sub(r"(?m)^(mlxarch chat )\S+$", rf"\g<1>{repo}", text)
    if named != text:
        write_text(card, named)
    found = manifest.read(folder)
    if found and found.files.get(_CARD) != manifest.look(card):
        manifest.renew(folder, [_CARD])


def _check_arrival(
    api: "HfApi", repo: str, commit: str, folder: Path, files: Mapping[str, int]
) -> None:
    """Raise HubError unless the hub has every file, of its size and, where known, its hash."""
    there = api.model_info(repo, revision=commit, files_metadata=True).siblings or []
    arrived = {file.rfilename: file for file in there}
    found = manifest.read(folder)
    for name, size in files.items():
        file = arrived.get(name)
        if file is None or file.size != size:
            what = "does not have it" if file is None else f"has {file.size} bytes"
            raise HubError(f"{name} has {size:,} bytes and the hub {what}; run again.")
        entry = found.files.get(name) if found else None
        if entry and file.lfs and file.lfs.sha256 != entry.sha256:
            raise HubError(
                f"{name} on the hub is not what {manifest.NAME} says: it has changed since it was "
                f"written; see `mlxarch verify {folder}`."
            )


@contextmanager
def _explained(repo: str) -> Generator[None, None, None]:
    """Whatever goes wrong on the way up, as one sentence that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except MlxarchError:
        raise
    except errors.HfHubHTTPError as error:
        reason = plain(error.server_message or str(error))
        status = error.response.status_code
        if status == 401:
            raise HubError(
                f"The hub does not accept your token for {repo}: {reason}. "
                "Log in with `hf auth login`."
            ) from error
        if status == 403:
            raise HubError(
                f"You may not write to {repo}: {reason}. Take a repository of your own, or log in "
                "with a token that may write: `hf auth login`."
            ) from error
        raise HubError(_failed(repo, f"the hub answers {status}, {reason}")) from error
    except Exception as error:
        # hf_xet raises what it likes, httpx or httpx2 by the version of huggingface_hub.
        raise HubError(_failed(repo, plain(str(error) or type(error).__name__))) from error


def _failed(repo: str, reason: str) -> str:
    return (
        f"{repo} could not be uploaded whole: {reason}. "
        "What has arrived is kept; run the same command again and it goes on."
    )


def plain(text: str) -> str:
    """The first line of a message, without anything that opens a door."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return _SECRETS.sub("***", line.strip().rstrip("."))
