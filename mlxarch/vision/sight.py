"""What a checkpoint sees with: its tower, which is loaded once it is needed, and its pictures.

sight = Sight(folder)
tokens, images = sight.place(tokens, [sight.look(Path("cat.png"))])
logits = model(mx.array([tokens]), cache=cache, images=images)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlxarch import backend, checkpoint, registry, shards
from mlxarch.errors import ConfigError, FormatError

from .images import Image, Images
from .pixels import Scale, measure, read

_TOWERS = re.compile(r"(model\.)?(visual|vision|vision_tower|mm_projector)\.")


def is_tower(name: str) -> bool:
    """Whether a checkpoint's tensor is that of a vision tower, ported or not."""
    return _TOWERS.match(name) is not None


@dataclass(frozen=True)
class Picture:
    """A picture that a model is shown."""

    file: Path
    name: str  # a hash of the file
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

    Args:
        model: What people call it.

    Raises: ConfigError if it has none, or none that are ported; FormatError.
    """

    def __init__(self, folder: Path, model: str = "", dtype: mx.Dtype | None = None):
        model = model or folder.name
        self._folder, self._dtype = folder, dtype
        self._known: dict[str, Picture] = {}  # by name
        raw, headers = shards.read_config(folder), shards.read_headers(shards.find(folder))
        tower = [info for name, info in headers.items() if is_tower(name)]
        architecture = registry.find(raw)
        if not tower:
            raise ConfigError(f"{model} cannot see: its checkpoint has no vision tower.")
        if not architecture.sees or not isinstance(raw.get("vision_config"), Mapping):
            raise ConfigError(f"{model} cannot see here: its vision tower is not ported yet.")
        self._port = architecture.vision
        self._config = c = self._port.Config.from_hub(raw["vision_config"])
        self._pad: int = raw.get("image_token_id", raw.get("media_placeholder_token_id", c.pad))
        self.scale = Scale.of(folder, patch=c.patch, merged=c.merged, frames=c.frames, side=c.side)
        growth = backend.compute_dtype(mx.bfloat16).size // mx.bfloat16.size
        self._bytes = sum(
            info.bytes * (growth if info.dtype in ("BF16", "F16") else 1) for info in tower
        )

    @cached_property
    def tower(self) -> nn.Module:
        """The tower, in memory from now on."""
        return checkpoint.load_tower(self._folder, self._dtype)

    def shed(self) -> None:
        """Let go of the tower until it is needed again."""
        vars(self).pop("tower", None)

    @property
    def nbytes(self) -> int:
        """Bytes of the tower, if it is in memory."""
        return self._bytes if "tower" in vars(self) else 0

    def needs(self, tokens: int) -> int:
        """Bytes that are still to be taken to see a picture of so many tokens; 0 for none."""
        patches = tokens * self.scale.merged**2
        working = self._port.working_bytes(self._config, patches)
        return self._bytes - self.nbytes + working if tokens else 0

    def look(self, file: Path, name: str = "") -> Picture:
        """How large a picture is, and how many tokens; its file is read once.

        Args:
            name: The hash that it has to have.

        Raises: FormatError.
        """
        if name in self._known:
            return self._known[name]
        raw = read(file, name)
        width, height = measure(raw, file)
        tokens = self.scale.tokens(width, height, file)
        picture = Picture(file, sha256(raw).hexdigest(), width, height, *tokens)
        self._known[picture.name] = picture
        return picture

    def place(self, tokens: Sequence[int], pictures: Sequence[Picture]) -> tuple[list[int], Images]:
        """Tokens in which each picture has one, made as many as it takes; and where they are.

        Raises: FormatError if tokens and pictures are not as many.
        """
        found, images, left = list[int](), list[Image](), list(pictures)
        if (count := list(tokens).count(self._pad)) != len(left):
            raise FormatError(
                f"The conversation has {count} places for {len(left)} pictures. Either the chat "
                "template shows no pictures, or a text has the token that stands for one."
            )
        for token in tokens:
            if token != self._pad:
                found.append(token)
                continue
            picture = left.pop(0)
            name, see = f"{picture.name} {self.scale}", partial(self._see, picture)
            images.append(Image(name, len(found), picture.rows, picture.columns, see))
            found += [self._pad] * picture.tokens
        return found, Images(images, placed=self._config.placed)

    def _see(self, picture: Picture, going: Callable[[float], bool]) -> mx.array | None:
        patches = self.scale.patches(read(picture.file, picture.name), picture.file)
        rows = self.tower(patches, self.scale.grid(picture.width, picture.height), going)
        if rows is not None:
            mx.eval(rows)
        return rows
