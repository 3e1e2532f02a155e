"""Safetensors files on disk: which belong to a checkpoint, and what their headers promise.

Headers are checked against the file before anything is read by them: a truncated download or a
damaged header is found here and named, not as garbage in the weights.

Source: the safetensors format, README of huggingface/safetensors.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError, FormatError

INDEX = "model.safetensors.index.json"

_HEADER_LIMIT = 100_000_000  # bytes, the format's own limit
# What reading a damaged JSON file as if it were sound may raise.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: str  # the format's word: "BF16", "U32" ...
    shape: tuple[int, ...]
    bytes: int
    shard: Path


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint, given by its folder or by itself.

    Raises: ConfigError if there is none, or it is no JSON object.
    """
    file = path if path.is_file() else path / "config.json"
    try:
        raw = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} has no config.json; a checkpoint's folder is wanted.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds a {type(raw).__name__}; an object is wanted.")
    return raw


def find(folder: Path) -> list[Path]:
    """The shards of a checkpoint, by its index where it has one.

    Raises: CheckpointError if there are none or one is missing; FormatError for a bad index.
    """
    if (index := folder / INDEX).exists():
        try:
            listed = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, *_DAMAGE) as error:
            raise FormatError(f"{index} is no index of safetensors: {error!r}.") from error
        for name in listed:
            if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
                raise FormatError(f"{index} names {name!r}; shards must lie in the same folder.")
        if absent := sorted(name for name in listed if not isfile(folder / name)):
            raise CheckpointError(
                f"{folder} lacks {', '.join(absent)} of the {len(listed)} shards in {INDEX}; "
                "download the rest."
            )
        return sorted({folder / name for name in listed} | _aside(folder))
    shards = sorted(file for file in folder.glob("model*.safetensors") if isfile(file))
    if not shards:
        raise CheckpointError(f"{folder} has no model*.safetensors; convert needs safetensors.")
    return sorted({*shards, *_aside(folder)})


def _aside(folder: Path) -> set[Path]:
    """Files of ours that hold what mlx-lm does not know, and does not look for."""
    return {*folder.glob("mtp*.safetensors"), *folder.glob("vision*.safetensors")}


def read_headers(shards: Iterable[Path]) -> dict[str, TensorInfo]:
    """What all shards hold, by name, without reading a tensor.

    Raises: FormatError if a header is damaged or the file shorter than it says; CheckpointError
        if two shards hold one name.
    """
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, info in _read_header(shard).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in {tensors[name].shard.name} and {shard.name}.")
            tensors[name] = info
    return tensors


def _read_header(shard: Path) -> dict[str, TensorInfo]:
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise FormatError(f"{shard} is truncated or no safetensors file: {size:,} bytes.")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_unique)
            header.pop("__metadata__", None)
            tensors = {name: _tensor_info(shard, entry) for name, entry in header.items()}
            spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        except _DAMAGE as error:
            raise FormatError(f"{shard} has a damaged header: {error!r}.") from error
    end = 0
    for start, stop in spans:
        if start != end:
            raise FormatError(f"{shard} has a damaged header: a gap or overlap at byte {start:,}.")
        end = stop
    if size != 8 + length + end:
        raise FormatError(
            f"{shard} is truncated or damaged: {size:,} bytes where its header promises "
            f"{8 + length + end:,}; download it again."
        )
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _tensor_info(shard: Path, entry: dict[str, Any]) -> TensorInfo:
    shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
    count = 1
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise ValueError(f"a shape of {list(shape)}")
        count *= dim
    if type(start) is not int or type(stop) is not int:
        raise ValueError(f"bytes {start!r} to {stop!r}")
    if not 0 <= start <= stop or (stop - start) * 8 != count * _BITS[entry["dtype"]]:
        raise ValueError(f"{stop - start} bytes for {entry['dtype']} {list(shape)}")
    return TensorInfo(entry["dtype"], shape, stop - start, shard)
