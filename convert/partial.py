"""A folder that appears whole or not at all, and that a stopped job goes on with.

It is filled beside its final place, as NAME.partial, and renamed when it is whole. What stops it,
a kill, an error or Ctrl-C, leaves the files that its journal knows, and the same job takes them
over; a job that had not finished any leaves nothing. A marker inside says that the folder is such a
leftover and nobody's own; the lock on it ends with its process, however that ends.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from mlxarch.errors import DoesNotFit, MlxarchError

from . import journal, manifest
from .durable import free_bytes, nearest, sync
from .journal import Journal

_MARKER = ".mlxarch-partial"
STATE = ".mlxarch-state"  # what a long computation keeps there for the next run


def check_target(out: Path, source: Path | None = None) -> None:
    """Refuse a target that exists, or that lies in its source.

    Raises: MlxarchError.
    """
    if os.path.lexists(out):
        raise MlxarchError(f"{out} exists; choose another name, or remove it.")
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise MlxarchError(f"{out} lies in {source}, which stays as it is; choose a place outside.")


def check_room(out: Path, wanted: int) -> None:
    """Raises: DoesNotFit if `wanted` bytes are more than there are free."""
    if wanted > (free := free_bytes(out)):
        raise DoesNotFit(
            f"{out} needs {wanted / 1e9:.2f} GB of disk; {nearest(out)} has {free / 1e9:.2f} GB "
            "free. Make room, or choose another place."
        )


@contextmanager
def partial(out: Path, job: str = "") -> Generator[Journal, None, None]:
    """A folder to fill; it becomes `out` if the block ends well.

    Yields its journal, which knows the folder and what an earlier run of the same job has done.

    Raises: MlxarchError if `out` exists, is being written or cannot be, or if another job's work
        lies there; DoesNotFit if the disk fills up.
    """
    folder = place(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder, job) as done:
            try:
                yield done
                check_target(out)
                sync(folder)
                folder.rename(out)
                finish(out)
            except BaseException:
                if folder.exists() and not _is_worth_keeping(done):
                    _empty(folder)
                    (folder / _MARKER).unlink()
                    folder.rmdir()
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DoesNotFit(
                f"The disk filled up while {out} was written. "
                "Make room and give the same command again, or choose another place."
            ) from error
        raise MlxarchError(f"{out} cannot be written: {error}.") from error


def check_new(out: Path) -> None:
    """Refuse a target that exists, unless it is a conversion's: then a plan has to tell.

    Raises: MlxarchError.
    """
    if not (out / manifest.NAME).is_file():
        check_target(out)


def place(out: Path) -> Path:
    """Where `out` is filled."""
    return out.with_name(f"{out.name}.partial")


def finish(out: Path) -> None:
    """Remove what is left in a folder of the time when it was filled; it is whole."""
    if (out / _MARKER).exists():
        shutil.rmtree(out / STATE, ignore_errors=True)
        (out / journal.NAME).unlink(missing_ok=True)
        (out / _MARKER).unlink()
        sync(out)
        sync(out.absolute().parent)


@contextmanager
def _claimed(folder: Path, job: str) -> Generator[Journal, None, None]:
    """A partial folder that nobody else may claim meanwhile, with what counts of its content."""
    marker = folder / _MARKER
    if not marker.exists() and any(folder.iterdir()):
        raise MlxarchError(f"{folder} is in the way, and not ours; move it.")
    with marker.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MlxarchError(f"{folder} is being written by another conversion.") from None
        except OSError:
            # Some network file systems have no locks; then nobody is kept out.
            pass
        found = Journal(folder, job)
        if found.theirs is not None:
            if found.done:
                raise MlxarchError(
                    f"{folder} holds {len(found.done)} finished files of another conversion: of "
                    "another source, with other options or by another version; finish it by the "
                    "command that began it, or remove it."
                )
            _empty(folder)
        _empty(folder, {*found.done, STATE})
        found.start()
        yield found


def _is_worth_keeping(done: Journal) -> bool:
    return bool(done.done) or (done.folder / STATE).exists()


def _empty(folder: Path, kept: Collection[str] = ()) -> None:
    """Remove everything but the marker, which is to go last, and what is to be kept."""
    for path in folder.iterdir():
        if path.name in kept or path.name == _MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
