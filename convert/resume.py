"""Large files of the hub's cache, fetched from where an earlier run was cut short.

huggingface_hub begins every file anew, in a part with a name of its own that stays on the disk when
its process is killed. Here a part has one name, and whoever fetches the file goes on with it, under
the lock that huggingface_hub takes.

Source: huggingface_hub, file_download.py, for the places of blobs, parts and locks.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlxarch.errors import HubError

_LEAST = 8_000_000  # bytes of a file from which on it is gone on with
_PART = ".mlxarch.incomplete"
_LOOK = 0.5  # seconds between two looks at what another process fetches


def fetch(repo: str, file: str, revision: str, report: Callable[[int], None]) -> None:
    """Bring what a file of a commit holds into the cache, if it is large and not there yet.

    Args:
        report: Called with the bytes that are there, also while another process brings them.

    Raises: HubError if what came is not what the hub says; what huggingface_hub raises.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, file, revision=revision)
    about = get_hf_file_metadata(url)
    size, name = about.size or 0, about.etag
    # Larger ones come by xet alone, which begins anew.
    if name is None or not _LEAST <= size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        return
    blob = _blobs(repo) / name
    lock = Path(constants.HF_HUB_CACHE, ".locks", blob.parent.parent.name, f"{name}.lock")
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(name + _PART)
    with _locked(lock, part, report):
        if blob.exists():
            return
        there = _size(part)
        if there > size:
            part.unlink()
            there = 0
        with part.open("ab") as out:
            bar: dict[str, Any] = {"tqdm_class": reported(report), "displayed_filename": file}
            headers = build_hf_headers()
            http_get(url, out, resume_size=there, headers=headers, expected_size=size, **bar)
        # What was there is older than this run; the hub names large files by their SHA-256.
        if there and len(name) == 64 and _sha256(part) != name:
            part.unlink()
            raise HubError(f"{file} of {repo} did not come as the hub has it; fetch it again.")
        part.replace(blob)
        for left in blob.parent.glob(f"{name}.*.incomplete"):
            left.unlink()


@contextmanager
def _locked(lock: Path, part: Path, report: Callable[[int], None]) -> Generator[None, None, None]:
    """Hold a lock; while another process does, tell how much of the part is there."""
    from huggingface_hub.utils import WeakFileLock

    with ExitStack() as held:
        while True:
            try:
                held.enter_context(WeakFileLock(lock, timeout=_LOOK))
            except TimeoutError:
                report(_size(part))
            else:
                break
        yield


def begun(repo: str) -> int:
    """Bytes of files that will be gone on with."""
    return sum(map(_size, _blobs(repo).glob(f"*{_PART}")))


def wanting(folder: Path) -> Iterator[Path]:
    """Parts in a repository's folder of the cache of which the whole is not there."""
    for part in folder.glob("blobs/*.incomplete"):
        if not part.with_name(part.name.partition(".")[0]).exists():
            yield part


def reported(report: Callable[[int], None]) -> type:
    """A progress bar that draws nothing and tells how far it is, in bytes that are there."""
    from huggingface_hub.utils import tqdm

    class Reported(tqdm):
        def __init__(self, *arguments: Any, **options: Any):
            self._there = options.get("initial") or 0
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._there += int(n or 0)
            report(self._there)
            return None

    return Reported


def _blobs(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", "blobs")


def _size(part: Path) -> int:
    """Bytes of a part, which another process may just have made a whole file."""
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
