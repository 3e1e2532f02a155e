"""What a source holds, known from its config.json and the headers of its shards alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlxarch import formats, shards
from mlxarch.errors import FormatError
from mlxarch.shards import TensorInfo

from . import hub

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

_FLOATS = ("BF16", "F16", "F32")
_PACKED = ("U32", "U8", "I32", "I64", "F8_E4M3")


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


def find(model: str, *, revision: str | None = None, offline: bool = False) -> Inventory:
    """The inventory of a local folder, or of a repository, downloaded if it has to be.

    Raises: HubError, ConfigError, CheckpointError, FormatError.
    """
    folder = hub.resolve(model, revision=revision, offline=offline)
    return look(folder, None if hub.is_folder(model) else model)


def look(folder: Path, repo: str | None = None) -> Inventory:
    """The inventory of a local folder, whose weights are `repo`'s where that is known.

    Raises: ConfigError, CheckpointError, FormatError.
    """
    raw = shards.read_config(folder)
    near = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    names = [path.relative_to(folder).as_posix() for path in near if path.is_file()]
    _check_format(raw, names)
    tensors = shards.read_headers(shards.find(folder))
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
    )


def look_afar(repo: str, *, revision: str | None = None) -> Inventory:
    """The inventory of a repository on the hub, of which no weights are fetched.

    Raises: HubError, ConfigError, CheckpointError, FormatError.
    """
    raw, tensors, sizes = hub.describe(repo, revision=revision)
    _check_format(raw, sizes)
    _check_types(raw, tensors)
    travellers = {name: sizes[name] for name in travelling(sizes)}
    return Inventory(repo, repo, None, raw, tensors, travellers, card={})


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
    """Raise FormatError for weights in a format that is not read."""
    if formats.quantization(raw) is None and "hf_quant_config.json" in names:
        raise FormatError(
            "The source is quantized as 'modelopt', which is not read yet; "
            "start from the original in bfloat16, float16 or float32."
        )


def _check_types(raw: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    packed = isinstance(raw.get("quantization"), Mapping) or formats.names_a_format(raw)
    known = _FLOATS + _PACKED if packed else _FLOATS
    for name, info in tensors.items():
        if info.dtype not in known:
            raise FormatError(
                f"{name} is {info.dtype} in {info.shard.name}, which is not read yet; "
                f"wanted is {', '.join(known[:-1])} or {known[-1]}."
            )


def _read_card(file: Path) -> dict[str, Any]:
    """The YAML at the head of a README.md; nothing where it is absent or unreadable."""
    from huggingface_hub.repocard import metadata_load

    try:
        return metadata_load(file) or {}
    except Exception:
        # A README is written by hand: whatever its head holds, the weights are worth converting.
        return {}


def _base_model(card: Mapping[str, Any]) -> str | None:
    """The repository that a converted checkpoint's own card names as its origin."""
    base = card.get("base_model")
    if card.get("library_name") != "mlx":
        return None
    if isinstance(base, list) and len(base) == 1:
        base = base[0]
    return base if isinstance(base, str) else None
