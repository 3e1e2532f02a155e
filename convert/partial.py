"""A folder that appears whole or not at all.

It is filled beside its final place, as NAME.partial, and renamed when it is whole. An exception
removes it; a killed process leaves it, and the next one to want the place takes it over. A marker
inside says that the folder is such a leftover and nobody's own; the lock on it ends with its
process, however that ends.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mlxarch.errors import DoesNotFit, MlxarchError

_MARKER = ".mlxarch-partial"


def check_target(out: Path, source: Path | None = None) -> None:
    """Refuse a target that exists, or that lies in its source.

    Raises: MlxarchError.
    """
    if os.path.lexists(out):
        raise MlxarchError(f"{out} exists; choose another name, or remove it.")
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise MlxarchError(f"{out} lies in {source}, which stays as it is; choose a place outside.")


def free_bytes(out: Path) -> int:
    """The room on the disk where `out` will lie."""
    return shutil.disk_usage(_nearest(out)).free


def check_room(out: Path, wanted: int) -> None:
    """Raises: DoesNotFit if `wanted` bytes are more than there are free."""
    if wanted > (free := free_bytes(out)):
        raise DoesNotFit(
            f"{out} needs {wanted / 1e9:.2f} GB of disk; {_nearest(out)} has {free / 1e9:.2f} GB "
            "free. Make room, or choose another place."
        )


def _nearest(out: Path) -> Path:
    return next(folder for folder in out.absolute().parents if folder.exists())


@contextmanager
def partial(out: Path) -> Generator[Path, None, None]:
    """A folder to fill; it becomes `out` if the block ends well and vanishes if it does not.

    Raises: MlxarchError if `out` exists, is being written or cannot be; DoesNotFit if the disk
        fills up.
    """
    folder = out.with_name(f"{out.name}.partial")
    marker = folder / _MARKER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder, marker):
            try:
                yield folder
                check_target(out)
                sync(folder)
                folder.rename(out)
                (out / _MARKER).unlink()
                sync(out.parent)
            except BaseException:
                if folder.exists():
                    _empty(folder)
                    marker.unlink()
                    folder.rmdir()
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DoesNotFit(
                f"The disk filled up while {out} was written; what was written is removed. "
                "Make room, or choose another place."
            ) from error
        raise MlxarchError(f"{out} cannot be written: {error}.") from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _claimed(folder: Path, marker: Path) -> Generator[None, None, None]:
    """A partial folder, empty but for its marker, that nobody else may claim meanwhile."""
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
        _empty(folder)
        yield


def _empty(folder: Path) -> None:
    """Remove everything but the marker, which is to go last."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _MARKER:
            path.unlink()
