"""A safetensors file, written front to back: the header first, then each tensor as it comes.

`mx.save_safetensors` wants all tensors of a file in memory, and hides why a write failed. A plan
knows every tensor's type and shape, so the header can be written before there is a tensor.

Source: the safetensors format, README of huggingface/safetensors.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import mlx.core as mx

MLX = {
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "F32": mx.float32,
    "U32": mx.uint32,
    "I32": mx.int32,
    "I64": mx.int64,
    "U8": mx.uint8,
}
_WORDS = {dtype: word for word, dtype in MLX.items()}
# MLX reads eight-bit floats and exponents as the bytes that they are.
READ = MLX | {"I8": mx.int8, "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8}


@dataclass(frozen=True)
class Part:
    """One entry of a file."""

    name: str
    dtype: str  # the format's word: "BF16", "U32" ...
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What its data take."""
        return prod(self.shape) * MLX[self.dtype].size


def word(dtype: mx.Dtype) -> str:
    """The format's word for a type: "BF16" for bfloat16."""
    return _WORDS[dtype]


def header(parts: Iterable[Part]) -> bytes:
    """What a file begins with: the header's length, and where each part lies behind it."""
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for part in parts:
        start, end = end, end + part.bytes
        entries[part.name] = {
            "dtype": part.dtype,
            "shape": part.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def data(array: mx.array) -> memoryview:
    """The bytes of an array, as the format stores them: row by row, little-endian."""
    flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    return memoryview(cast(Any, flat))
