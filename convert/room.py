"""Whether a conversion has the disk and the memory that it needs, before its first byte."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlxarch import backend
from mlxarch.errors import DoesNotFit

from . import hub
from .durable import free_bytes, nearest
from .plan import Plan

# Room for a folder's own blocks and whatever else grows meanwhile.
_SPARE = 50_000_000


@dataclass(frozen=True)
class Disk:
    """Bytes that are added at the worst moment: the output, the hub's cache, and both together."""

    out: int
    cache: int
    both: int


def disk(plan: Plan, done: Collection[str] = (), *, delete: bool = False) -> Disk:
    """What a plan will take of the disk while it is carried out.

    Args:
        done: Files that an earlier run has written.
        delete: Whether a shard of the source goes when all that is made of it is there.
    """
    source, along = plan.source, sum(plan.source.travellers.values()) + _SPARE
    absent = set(_absent(plan))
    last = {shard: i for i, used in enumerate(plan.uses) for shard in used}
    out, cache, both, written, fetched = along, 0, along, along, 0
    for i, shard in enumerate(plan.shards):
        if shard.file in done:
            continue
        # What comes next is fetched meanwhile.
        ahead = plan.uses[i] | (plan.uses[i + 1] if i + 1 < len(plan.uses) else frozenset())
        fetched += sum(source.shards[used] for used in absent & ahead)
        absent -= ahead
        written += shard.bytes
        out, cache, both = max(out, written), max(cache, fetched), max(both, written + fetched)
        if delete:
            fetched -= sum(source.shards[used] for used in plan.uses[i] if last[used] == i)
    return Disk(out, cache, both)


def check(plan: Plan, out: Path, done: Collection[str] = (), *, delete: bool = False) -> None:
    """Refuse what does not fit.

    Raises: DoesNotFit, with the arithmetic.
    """
    _check_memory(plan)
    wanted = disk(plan, done, delete=delete)
    here, there = nearest(out), nearest(plan.source.folder or hub.cache_folder())
    if here.stat().st_dev != there.stat().st_dev:
        _check_disk(here, f"{out} needs {_gb(wanted.out)} of disk", wanted.out)
        _check_disk(there, f"The hub's cache needs {_gb(wanted.cache)} of disk", wanted.cache)
        return
    fetched = f", with {_gb(wanted.cache)} that are fetched for it" if wanted.cache else ""
    hint = "" if delete else " With --delete-source-shards less would do."
    need = f"{out} needs {_gb(wanted.both)} of disk at the worst moment{fetched}"
    _check_disk(here, need, wanted.both, hint)


def _absent(plan: Plan) -> list[Path]:
    """Shards of the source that are still to be fetched."""
    source = plan.source
    if source.folder is not None:
        return []
    repo, revision = str(source.repo), str(source.revision)
    return [
        shard
        for shard in set().union(*plan.uses)
        if hub.cached(repo, shard.as_posix(), revision) is None
    ]


def _check_memory(plan: Plan) -> None:
    held = psutil.Process().memory_info().rss
    free = backend.free_memory()
    if plan.peak_bytes - held > free:
        largest = max(plan.outputs, key=lambda output: output.peak_bytes)
        raise DoesNotFit(
            f"{plan.source.name} needs {_gb(plan.peak_bytes)} of memory, "
            f"{_gb(largest.peak_bytes)} of it for {largest.name}; {_gb(held + free)} are to be "
            "had. Close other programs, or use a machine with more."
        )


def _check_disk(folder: Path, need: str, wanted: int, hint: str = "") -> None:
    if wanted > (free := free_bytes(folder)):
        raise DoesNotFit(
            f"{need}; {folder} has {_gb(free)} free. Make room, or choose another place.{hint}"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
