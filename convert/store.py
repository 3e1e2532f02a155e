"""What is in the hub's cache, the only place where fetched models are kept, and how it is removed.

Source: huggingface_hub, utils/_cache_manager.py, `scan_cache_dir` and its strategy for deletion.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxarch import registry, shards
from mlxarch.errors import ConfigError, MlxarchError
from mlxarch.shards import TensorInfo

from . import hub

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, DeleteCacheStrategy, HFCacheInfo

_PREFIX = "models--"
_SCALES = (".scales", ".biases", "_scale", "_scale_inv", "_zero_point")


@dataclass(frozen=True)
class Revision:
    """One commit of a repository."""

    commit: str
    refs: tuple[str, ...]  # the branches and tags that it was fetched as
    bytes: int


@dataclass(frozen=True)
class Weights:
    """What the headers of a checkpoint tell."""

    parameters: int
    bits: float  # of a parameter, on average


@dataclass(frozen=True)
class Model:
    """A repository; what is said of its weights is said of its main revision, or its latest."""

    repo: str
    bytes: int  # on disk, with what is unfinished
    unfinished: int = 0  # bytes of downloads that were cut short
    used: float | None = None  # seconds since 1970
    revisions: tuple[Revision, ...] = ()
    family: str | None = None  # None if it is not ported
    weights: Weights | None = None
    missing: tuple[str, ...] = ()  # shards that its index names; all of them are "weights"
    damage: str | None = None  # what is wrong with it, where something is


@dataclass(frozen=True)
class Store:
    """Everything in the cache, largest models first."""

    folder: Path
    models: tuple[Model, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)  # bytes of datasets, spaces ...


@dataclass(frozen=True)
class Removal:
    """What would be deleted, all of it in the folder of one repository."""

    repo: str
    commits: tuple[str, ...]
    bytes: int
    strategy: "DeleteCacheStrategy"


def look() -> Store:
    """What is in the cache, without the network and without reading a tensor.

    Raises: MlxarchError if the cache cannot be read.
    """
    folder = _folder()
    scan = _scan(folder)
    if scan is None:
        return Store(folder)
    models = [_model(repo) for repo in scan.repos if repo.repo_type == "model"]
    sound = {repo.repo_path.name for repo in scan.repos}
    for path in folder.iterdir():
        if path.name.startswith(_PREFIX) and path.name not in sound:
            reasons = [str(w).split(": ")[0] for w in scan.warnings if str(path) in str(w)]
            name = path.name.removeprefix(_PREFIX).replace("--", "/")
            models.append(Model(name, _bytes(path), damage=reasons[0] if reasons else "unreadable"))
    others: dict[str, int] = {}
    for repo in scan.repos:
        if repo.repo_type != "model":
            kind = f"{repo.repo_type}s"
            others[kind] = others.get(kind, 0) + repo.size_on_disk
    return Store(folder, tuple(sorted(models, key=lambda m: (-m.bytes, m.repo))), others)


def plan_removal(repo: str, revision: str | None = None) -> Removal:
    """What removing a repository, or one revision of it, would delete.

    Args:
        revision: A commit, the beginning of one, a branch or a tag.

    Raises: NotFoundError if the cache does not have it; MlxarchError if it leads elsewhere.
    """
    folder = _folder()
    path = folder / f"{_PREFIX}{repo.replace('/', '--')}"
    scan = _scan(folder) if path.name in _names(folder) else None
    if scan is None:
        raise hub.NotFoundError(
            f"{repo} is not in the cache at {folder}; `mlxarch models` lists what is."
        )
    if path.is_symlink():
        raise MlxarchError(f"{path} is a link to {os.readlink(path)}; remove both by hand.")
    found = next((found for found in scan.repos if found.repo_path.name == path.name), None)
    if found is None:
        if revision:
            raise MlxarchError(f"{repo} is damaged in the cache; remove it without --revision.")
        return Removal(repo, (), _bytes(path), _all_of(path))
    commits = _chosen(found, revision)
    # Of this repository alone: one that was renamed has the commits of its old name.
    strategy = replace(scan, repos=frozenset({found})).delete_revisions(*commits)
    for one in (*strategy.snapshots, *strategy.refs, *strategy.blobs):
        if not Path(os.path.realpath(one.parent)).is_relative_to(path):
            raise MlxarchError(
                f"{one} is no part of {path}, to which a link there leads; "
                "remove the repository without --revision."
            )
    freed = int(strategy.expected_freed_size)
    if len(commits) == len(found.revisions):
        freed += _unfinished(path)
    return Removal(repo, commits, freed, strategy)


def remove(removal: Removal) -> None:
    """Delete what was planned.

    Raises: MlxarchError if something could not be deleted.
    """
    strategy = removal.strategy
    strategy.execute()
    for path in (*strategy.repos, *strategy.snapshots, *strategy.blobs):
        if os.path.lexists(path):
            raise MlxarchError(f"{path} could not be removed; look at who may write there.")


def _folder() -> Path:
    return hub.cache_folder().expanduser().resolve()


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _scan(folder: Path) -> "HFCacheInfo | None":
    """The library's own account of the cache; None where there is no cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(folder)
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        raise MlxarchError(f"The cache at {folder} cannot be read: {error}.") from error


def _all_of(path: Path) -> "DeleteCacheStrategy":
    """How to delete a repository of which the library makes nothing."""
    from huggingface_hub import DeleteCacheStrategy

    none: frozenset[Path] = frozenset()
    return DeleteCacheStrategy(
        expected_freed_size=0, blobs=none, refs=none, repos=frozenset({path}), snapshots=none
    )


def _chosen(repo: "CachedRepoInfo", revision: str | None) -> tuple[str, ...]:
    """The commits that are meant. Raises: NotFoundError unless it is clear."""
    commits = sorted(r.commit_hash for r in repo.revisions)
    if revision is None:
        return tuple(commits)
    meant = [r.commit_hash for r in repo.revisions if revision in r.refs]
    meant = meant or [commit for commit in commits if revision and commit.startswith(revision)]
    if len(meant) != 1:
        raise hub.NotFoundError(
            f"{revision!r} is {len(meant)} of the revisions of {repo.repo_id} in the cache: "
            f"{', '.join(commits)}; name one."
        )
    return tuple(meant)


def _model(repo: "CachedRepoInfo") -> Model:
    revisions = sorted(repo.revisions, key=lambda r: ("main" in r.refs, r.last_modified))
    unfinished = _unfinished(repo.repo_path)
    found: dict[str, Any] = {}
    if revisions:
        found = _checkpoint(revisions[-1].snapshot_path)
    return Model(
        repo=repo.repo_id,
        bytes=repo.size_on_disk + unfinished,
        unfinished=unfinished,
        used=repo.last_accessed,
        revisions=tuple(
            Revision(r.commit_hash, tuple(sorted(r.refs)), r.size_on_disk)
            for r in reversed(revisions)
        ),
        **found,
    )


def _checkpoint(folder: Path) -> dict[str, Any]:
    """Family, weights, what is missing and what is damaged, as far as each is known."""
    try:
        raw = shards.read_config(folder)
        listed = set(shards.read_index(folder).values())
    except MlxarchError as error:
        return {"damage": str(error)} if (folder / "config.json").exists() else {}
    try:
        family = registry.find(raw).name
    except ConfigError:
        family = None
    if lacking := sorted(name for name in listed if not (folder / name).is_file()):
        return {"family": family, "missing": tuple(lacking)}
    if not any(folder.glob("*.safetensors")):
        return {"family": family, "missing": ("weights",)}
    try:
        tensors = shards.read_headers(shards.find(folder))
    except MlxarchError as error:
        return {"family": family, "damage": str(error)}
    return {"family": family, "weights": _weights(raw, tensors)}


def _weights(raw: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Weights | None:
    """None where the numbers in a tensor are not known from its header."""
    packed, count = raw.get("quantization"), 0
    for name, info in tensors.items():
        if name.endswith(_SCALES):
            continue
        numbers = prod(info.shape)
        if info.dtype in ("U32", "I32", "U8", "I64"):
            stem = name.removesuffix(".weight")
            entry = packed.get(stem, packed) if isinstance(packed, dict) else None
            bits = entry.get("bits") if isinstance(entry, dict) else None
            if info.dtype != "U32" or not isinstance(bits, int) or bits < 1:
                return None
            numbers = numbers * 32 // bits
        count += numbers
    size = sum(info.bytes for info in tensors.values())
    return Weights(count, 8 * size / count) if count else None


def _unfinished(repo: Path) -> int:
    return _total(repo.glob("blobs/*.incomplete"))


def _bytes(path: Path) -> int:
    """What lies in a folder itself, not what its links lead to."""
    return 0 if path.is_symlink() else _total(path.rglob("*"))


def _total(paths: Iterable[Path]) -> int:
    return sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())
