"""What a conversion has done so far, so that the same command goes on after whatever stopped it.

One line of JSON for each file that is whole and on the disk. A line that a kill cut short does not
count, nor one whose file is no longer as it was.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .durable import write_text
from .manifest import FileEntry

NAME = ".mlxarch-journal"


@dataclass(frozen=True)
class Record:
    """A file of tensors that is whole."""

    file: str
    bytes: int
    sha256: str
    mtime: int  # nanoseconds; somebody else's change is seen by it
    errors: dict[str, float | None] = field(default_factory=dict)  # of quantized tensors
    tensors: dict[str, str] = field(default_factory=dict)  # their checksums

    @property
    def entry(self) -> FileEntry:
        """What a manifest says of the file."""
        return FileEntry(self.bytes, self.sha256, self.tensors)


class Journal:
    """The records of one job in a folder.

    Args:
        folder: Where the files are written.
        job: What makes a conversion the same: see `Plan.job`.
    """

    def __init__(self, folder: Path, job: str):
        self.folder, self.job = folder, job
        self.theirs: str | None = None  # the job of what lies there, if it is another's
        self.done: dict[str, Record] = {}
        lines = _lines(folder / NAME)
        if lines and lines[0].get("job") != job:
            self.theirs = str(lines[0].get("job"))
        records = [_record(line) for line in lines[1:]]
        self.done = {r.file: r for r in records if r is not None and _is_there(folder, r)}

    def start(self) -> None:
        """Write the journal anew, with the records that count."""
        lines = [{"job": self.job}, *(asdict(record) for record in self.done.values())]
        write_text(self.folder / NAME, "\n".join(map(json.dumps, lines)))

    def add(self, file: str, entry: FileEntry, errors: dict[str, float | None]) -> Record:
        """Remember a file that is on the disk."""
        stat = (self.folder / file).stat()
        record = Record(
            file, entry.bytes, entry.sha256, stat.st_mtime_ns, errors, dict(entry.tensors)
        )
        with (self.folder / NAME).open("a", encoding="utf-8") as journal:
            journal.write(f"{json.dumps(asdict(record))}\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.done[file] = record
        return record


def _lines(file: Path) -> list[dict]:
    """The lines that are whole: a kill leaves at most the last one cut short."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return [line for line in lines if isinstance(line, dict)]


def _record(line: dict) -> Record | None:
    try:
        return Record(**line)
    except TypeError:
        return None


def _is_there(folder: Path, record: Record) -> bool:
    try:
        stat = (folder / record.file).stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (record.bytes, record.mtime)
