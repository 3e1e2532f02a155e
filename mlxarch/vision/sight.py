"""What a checkpoint sees with: its tower, which is loaded once it is needed, and its pictures.

sight = Sight(folder)
tokens, images = sight.place(tokens, [sight.look(file.read_bytes())])
logits = model(mx.array([tokens]), cache=cache, images=images)
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxarch import checkpoint, registry, shards
from mlxarch.errors import ConfigError, FormatError

from .images import Image, Images
from .pixels import Scale, measure

_TOWERS = re.compile(r"^(model\.)?(visual|vision|vision_tower)\.")


def has_tower(names: Iterable[str]) -> bool:
    """Whether a checkpoint's tensors are also those of a vision tower, ported or not."""
    return any(map(_TOWERS.match, names))


def check(raw: Mapping[str, Any], names: Iterable[str], model: str) -> None:
    """Whether a model sees, given its config.json and the names of its tensors.

    Raises: ConfigError that says why not.
    """
    if not has_tower(names):
        raise ConfigError(f"{model} cannot see: its checkpoint has no vision tower.")
    if not registry.find(raw).sees or not raw.get("vision_config"):
        raise ConfigError(f"{model} cannot see here: its vision tower is not ported yet.")


@dataclass(frozen=True)
class Picture:
    """A picture that a model is shown."""

    raw: bytes  # its file
    name: str  # a hash of it
    width: int  # pixels
    height: int
    rows: int  # of tokens
    columns: int

    @property
    def tokens(self) -> int:
        """How many it takes."""
        return self.rows * self.columns


class Sight:
    """The eyes of the model in a folder.

    Raises: ConfigError, FormatError if it has none.
    """

    def __init__(self, folder: Path, dtype: mx.Dtype | None = None):
        self._folder, self._dtype = folder, dtype
        raw = shards.read_config(folder)
        check(raw, shards.read_headers(shards.find(folder)), folder.name)
        config = registry.find(raw).vision.Config.from_hub(raw["vision_config"])
        self.pad: int = raw.get("image_token_id", 248_056)
        self.scale = Scale.of(
            folder, patch=config.patch, merged=config.merged, frames=config.frames
        )

    @cached_property
    def tower(self) -> nn.Module:
        """The tower, in memory from now on."""
        return checkpoint.load_tower(self._folder, self._dtype)

    def look(self, raw: bytes) -> Picture:
        """A picture's file: how large it is, and how many tokens.

        Raises: FormatError.
        """
        width, height = measure(raw)
        return Picture(
            raw, sha256(raw).hexdigest(), width, height, *self.scale.tokens(width, height)
        )

    def place(
        self,
        tokens: Sequence[int],
        pictures: Sequence[Picture],
        pause: Callable[[], None] = lambda: None,
    ) -> tuple[list[int], Images]:
        """Tokens in which each picture has one, made as many as it takes; and where they are.

        Args:
            pause: See the tower.

        Raises: FormatError if tokens and pictures are not as many.
        """
        found, images, left = list[int](), list[Image](), list(pictures)
        if (count := list(tokens).count(self.pad)) != len(left):
            raise FormatError(
                f"The conversation has {count} places for {len(left)} pictures. Either the chat "
                "template shows no pictures, or a text has the token that stands for one."
            )
        for token in tokens:
            if token != self.pad:
                found.append(token)
                continue
            picture = left.pop(0)
            see = partial(self._see, picture, pause)
            images.append(Image(picture.name, len(found), picture.rows, picture.columns, see))
            found += [self.pad] * picture.tokens
        return found, Images(images)

    def _see(self, picture: Picture, pause: Callable[[], None]) -> mx.array:
        grid = self.scale.grid(picture.width, picture.height)
        rows = self.tower(self.scale.patches(picture.raw), grid, pause)
        mx.eval(rows)
        return rows
