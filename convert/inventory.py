"""What a source holds, known from its config.json and the headers of its shards alone."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlxarch import formats, shards
from mlxarch.errors import FormatError
from mlxarch.files import check_inside, open_file
from mlxarch.shards import TensorInfo

from . import download, hub
from .durable import write_text

# What goes along unchanged. Never code, never weights in another format.
TRAVELLERS = (
    "tokenizer*.json",
    "tokenizer*.jsonl",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "*processor_config.json",
    "LICENSE*",
    "NOTICE*",
)

_SAVED = "source.json"
_CARD_LIMIT = 1_000_000  # bytes
_FLOATS = ("BF16", "F16", "F32")
_PACKED = ("U32", "U8", "I8", "I32", "I64", "F8_E4M3", "F8_E8M0")


@dataclass(frozen=True)
class Inventory:
    """A checkpoint before anything is decided about it."""

    name: str  # of the repository, or of the folder
    repo: str | None  # where the weights come from, as far as is known
    folder: Path | None  # None while only the headers are here
    raw: Mapping[str, Any]  # config.json
    tensors: Mapping[str, TensorInfo]
    travellers: Mapping[str, int]  # files that go along, and their bytes
    card: Mapping[str, Any]  # the head of its README.md
    shards: Mapping[Path, int]  # files of tensors, and their bytes
    revision: str | None = None  # the repository's commit, as far as is known
    changed: int = 0  # when the newest of the shards was last written, in nanoseconds


def find(model: str, *, revision: str | None = None, offline: bool = False) -> Inventory:
    """The inventory of a local folder, or of a repository, downloaded if it has to be.

    Raises: HubError, ConfigError, CheckpointError, FormatError.
    """
    folder = download.resolve(model, revision=revision, offline=offline)
    return look(folder) if hub.is_folder(model) else look(folder, model, folder.name)


def look(folder: Path, repo: str | None = None, revision: str | None = None) -> Inventory:
    """The inventory of a local folder, whose weights are `repo`'s where that is known.

    Raises: ConfigError, CheckpointError, FormatError.
    """
    raw = shards.read_config(folder)
    near = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    names = [path.relative_to(folder).as_posix() for path in near if path.is_file()]
    for name in travelling(names):
        check_inside(folder / name, folder)
    _check_format(raw, names)
    files = shards.find(folder)
    tensors = shards.read_headers(files)
    _check_types(raw, tensors)
    card = _read_card(folder / "README.md")
    return Inventory(
        name=repo or folder.resolve().name,
        repo=repo or _base_model(card),
        folder=folder,
        raw=raw,
        tensors=tensors,
        travellers={name: (folder / name).stat().st_size for name in travelling(names)},
        card=card,
        shards={file: file.stat().st_size for file in files},
        revision=revision,
        changed=max(file.stat().st_mtime_ns for file in files),
    )


def look_afar(repo: str, *, revision: str | None = None) -> Inventory:
    """The inventory of a repository on the hub, of which no weights are fetched.

    Raises: HubError, ConfigError, CheckpointError, FormatError.
    """
    found = hub.describe(repo, revision=revision)
    _check_format(found.config, found.sizes)
    _check_types(found.config, found.tensors)
    files = {info.shard for info in found.tensors.values()}
    return Inventory(
        name=repo,
        repo=repo,
        folder=None,
        raw=found.config,
        tensors=found.tensors,
        travellers={name: found.sizes[name] for name in travelling(found.sizes)},
        card=_read_card(found.readme) if found.readme else {},
        shards={file: found.sizes[file.as_posix()] for file in sorted(files)},
        revision=found.revision,
    )


def save(source: Inventory, state: Path) -> None:
    """Keep what is known of a local source in a folder, since its shards are about to go."""
    if source.folder is None or (file := state / _SAVED).exists():
        return
    state.mkdir(exist_ok=True)
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    fields |= {
        "folder": str(source.folder),
        "tensors": [
            (name, info.dtype, info.shape, info.bytes, str(info.shard))
            for name, info in source.tensors.items()
        ],
        "shards": {str(shard): size for shard, size in source.shards.items()},
    }
    write_text(file, json.dumps(fields, default=str))  # a card may hold dates


def restore(state: Path, folder: Path) -> Inventory | None:
    """The inventory of a local source as it was before an earlier run deleted shards of it.

    Returns: None if there is none of this folder.
    """
    try:
        fields = json.loads((state / _SAVED).read_bytes())
    except FileNotFoundError:
        return None
    if Path(fields["folder"]).resolve() != folder.resolve():
        return None
    tensors = {
        name: TensorInfo(dtype, tuple(shape), size, Path(shard))
        for name, dtype, shape, size, shard in fields.pop("tensors")
    }
    files = {Path(shard): size for shard, size in fields.pop("shards").items()}
    fields.pop("folder")
    return Inventory(**fields, folder=folder, tensors=tensors, shards=files)


def travelling(names: Iterable[str]) -> list[str]:
    """Those of a folder's files that go along, in order."""
    return sorted(
        name
        for name in names
        if any(
            fnmatch(name, pattern) and name.count("/") == pattern.count("/")
            for pattern in TRAVELLERS
        )
    )


def _check_format(raw: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise FormatError for weights in a format that is not read, or that nothing names."""
    if not formats.rules(raw) and "hf_quant_config.json" in names:
        raise FormatError(
            "hf_quant_config.json says that the source is quantized, and config.json does not; "
            "put all of it there as quantization_config."
        )


def _check_types(raw: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    packed = isinstance(raw.get("quantization"), Mapping) or formats.names_a_format(raw)
    known = _FLOATS + _PACKED if packed else _FLOATS
    for name, info in tensors.items():
        if info.dtype not in known:
            raise FormatError(
                f"{name} is {info.dtype} in {info.shard.name}, which is not read; "
                f"wanted is {', '.join(known[:-1])} or {known[-1]}."
            )


def _read_card(file: Path) -> dict[str, Any]:
    """The YAML at the head of a README.md; nothing where it is absent or unreadable."""
    from huggingface_hub.repocard import metadata_load

    try:
        with open_file(file) as stream:
            whole = len(stream.read(_CARD_LIMIT)) < _CARD_LIMIT
        head = (metadata_load(file) or {}) if whole else {}
        # Texts, and lists of them: anything else may be what YAML makes of a few aliases.
        return {key: value for key, value in head.items() if _is_plain(value)}
    except Exception:
        # A README is written by hand: whatever its head holds, the weights are worth converting.
        return {}


def _is_plain(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) for text in texts)


def _base_model(card: Mapping[str, Any]) -> str | None:
    """The repository that a converted checkpoint's own card names as its origin."""
    base = card.get("base_model")
    if card.get("library_name") != "mlx":
        return None
    if isinstance(base, list) and len(base) == 1:
        base = base[0]
    return base if isinstance(base, str) else None
