"""Files of a checkpoint on disk: which belong to it, and what their headers promise.

Headers are checked against the file before anything is read by them: a truncated download or a
damaged or hostile header is found here and named, not as garbage in the weights.

Source: the safetensors format, README of huggingface/safetensors.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError, FormatError
from .files import DAMAGE, open_file, read_json

INDEX = "model.safetensors.index.json"

# Where ModelOpt says how weights are quantized, if not in config.json.
_MODELOPT = "hf_quant_config.json"
_QUANTIZATION = {"quantization", "quantization_config"}

_HEADER_LIMIT = 100_000_000  # bytes, the format's own limit
_INDEX_LIMIT = 100_000_000  # bytes; a trillion weights, expert by expert, take 25 MB
_NAME_LIMIT = 500  # characters
_RANK_LIMIT = 8
_DIM_LIMIT = 2**31 - 1  # MLX's own
_COUNT_LIMIT = 2**60  # numbers in a tensor: their bits fit in the format's 64-bit sizes
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
    start: int = 0  # where its bytes begin in the file


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint, given by its folder or by itself.

    Raises: ConfigError if there is none, or it is no JSON object.
    """
    # Who names the file itself may keep it wherever a link leads.
    file = path.resolve() if path.is_file() else path / "config.json"
    try:
        raw = read_json(file)
        if os.path.lexists(beside := file.parent / _MODELOPT) and not raw.keys() & _QUANTIZATION:
            raw["quantization_config"] = read_json(beside)
        return raw
    except FileNotFoundError:
        raise ConfigError(f"{path} has no config.json; a checkpoint's folder is wanted.") from None
    except FormatError as error:
        raise ConfigError(str(error)) from error


def find(folder: Path) -> list[Path]:
    """The shards of a checkpoint, by its index where it has one.

    Raises: CheckpointError if there are none or one is missing; FormatError for a bad index.
    """
    if os.path.lexists(folder / INDEX):
        listed = set(read_index(folder).values())
        # Unlike Path.is_file, this does not raise for a name that is no path.
        if absent := sorted(name for name in listed if not os.path.isfile(folder / name)):
            more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
            raise CheckpointError(
                f"{folder} lacks {', '.join(absent[:8])}{more} of the {len(listed)} shards in "
                f"{INDEX}; download the rest."
            )
        return sorted({folder / name for name in listed} | _aside(folder))
    shards = set(folder.glob("model*.safetensors"))
    if not shards:
        raise CheckpointError(f"{folder} has no model*.safetensors; convert needs safetensors.")
    return sorted(shards | _aside(folder))


def read_index(folder: Path) -> dict[str, str]:
    """The shard of each tensor, as a checkpoint's index says; empty where there is no index.

    Raises: FormatError.
    """
    index = folder / INDEX
    if not os.path.lexists(index):
        return {}
    try:
        raw = read_json(index, _INDEX_LIMIT)
        listed = {_checked(name): shard for name, shard in raw["weight_map"].items()}
        names = set(listed.values())
    except (OSError, *DAMAGE) as error:
        raise FormatError(f"{index} is no index of safetensors: {error!r:.300}.") from error
    for name in names:
        plain = isinstance(name, str) and name.isprintable() and os.path.basename(name) == name
        if not plain or name in ("", ".", ".."):
            raise FormatError(f"{index} names {name!r:.300}; shards must lie in the same folder.")
    return listed


def _aside(folder: Path) -> set[Path]:
    """Files of ours that hold what mlx-lm does not know, and does not look for."""
    return {*folder.glob("mtp*.safetensors"), *folder.glob("vision*.safetensors")}


def read_headers(shards: Iterable[Path]) -> dict[str, TensorInfo]:
    """What all shards hold, by name, without reading a tensor.

    Raises: FormatError if a header is damaged or the file shorter than it says; CheckpointError
        if two shards hold one name, or the index beside them has a tensor elsewhere.
    """
    tensors: dict[str, TensorInfo] = {}
    shards = list(shards)
    for shard in shards:
        for name, info in read_header(shard).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in {tensors[name].shard.name} and {shard.name}.")
            tensors[name] = info
    for folder in sorted({shard.parent for shard in shards}):
        _check_index(folder, tensors, {shard.name for shard in shards if shard.parent == folder})
    return tensors


def _check_index(folder: Path, tensors: dict[str, TensorInfo], read: set[str]) -> None:
    """Raise CheckpointError for a tensor of the shards read that is not where the index says."""
    for name, listed in read_index(folder).items():
        found = tensors[name].shard.name if name in tensors else None
        if found != listed and (found or listed in read):
            raise CheckpointError(
                f"{name} is in {listed} according to {INDEX}, and in {found or 'none'} of the "
                f"shards in {folder}; download the checkpoint again."
            )


def read_header(shard: Path) -> dict[str, TensorInfo]:
    """What one shard holds, by name, whatever an index beside it says.

    Raises: FormatError if the header is damaged or the file shorter than it says.
    """
    try:
        with open_file(shard) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length) if length <= min(size - 8, _HEADER_LIMIT) else None
    except OSError as error:
        raise FormatError(f"{shard} cannot be read: {error.strerror}.") from error
    if raw is None:
        raise FormatError(
            f"{shard} is truncated or no safetensors file: {size:,} bytes, "
            f"where its header alone would be {length:,}."
        )
    return parse_header(raw, shard, size)


def parse_header(raw: bytes, shard: Path, size: int) -> dict[str, TensorInfo]:
    """The tensors of a shard of `size` bytes, by the header behind its first eight.

    Raises: FormatError.
    """
    start = 8 + len(raw)
    try:
        header = _header_decoder.decode(raw.decode("utf-8"))
        _check_metadata(header.pop("__metadata__", None))
    except DAMAGE as error:
        raise _damaged(shard, error) from error
    tensors, end = read_entries(header, shard, start), start
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.bytes)):
        if info.start != end:
            raise FormatError(
                f"{shard} has a damaged header: a gap or overlap at byte {info.start - start:,}."
            )
        end += info.bytes
    if size != end:
        raise FormatError(
            f"{shard} is truncated or damaged: {size:,} bytes where its header promises {end:,}; "
            "download it again."
        )
    return tensors


def read_entries(header: Mapping[str, Any], shard: Path, start: int = 0) -> dict[str, TensorInfo]:
    """The tensors of a shard by the entries of its header, whoever read it.

    Args:
        start: Where the first tensor begins in the file.

    Raises: FormatError if an entry contradicts itself.
    """
    try:
        return {
            name: _tensor_info(shard, _checked(name), entry, start)
            for name, entry in header.items()
        }
    except DAMAGE as error:
        raise _damaged(shard, error) from error


def _damaged(shard: Path, error: Exception) -> FormatError:
    return FormatError(f"{shard} has a damaged header: {error!r:.300}.")


def _checked(name: str) -> str:
    if not name or len(name) > _NAME_LIMIT or not name.isprintable() or set(name) & {"/", "\\"}:
        raise ValueError(f"a tensor is called {name[:80]!r}, {len(name)} characters")
    return name


def _check_metadata(found: Any) -> None:
    # MLX writes null where it has nothing to say.
    found = {} if found is None else found
    if type(found) is not dict or not all(type(value) is str for value in found.values()):
        raise ValueError("__metadata__ is not texts by name")
    for text in (*found, *found.values()):
        # Half of a character, which no other reader takes, does not encode.
        text.encode()


def _tensor_info(shard: Path, name: str, entry: dict[str, Any], base: int) -> TensorInfo:
    dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(shape) is not list or len(shape) > _RANK_LIMIT:
        raise ValueError(f"{name} has a shape of {len(shape)} sizes")
    count, bits = 1, _BITS[dtype]
    for dim in shape:
        count *= dim if type(dim) is int else _COUNT_LIMIT
        if dim > _DIM_LIMIT or count >= _COUNT_LIMIT:
            raise ValueError(f"{name} has the shape {shape}")
    if type(start) is not int or type(stop) is not int:
        raise ValueError(f"{name} lies in bytes {start!r} to {stop!r}")
    if not start <= stop or (stop - start) * 8 != count * bits:
        raise ValueError(f"{name} has {stop - start} bytes for {dtype} {shape}")
    return TensorInfo(dtype, tuple(shape), stop - start, shard, base + start)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _natural(text: str) -> int:
    if text.startswith("-") or len(text) > 19:
        raise ValueError(f"the number {text[:40]}")
    return int(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"the number {text[:40]}")


# A header knows texts and whole numbers, none of them below zero.
_header_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_natural, parse_float=_refuse, parse_constant=_refuse
)
