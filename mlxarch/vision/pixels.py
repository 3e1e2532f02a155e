"""Pictures as a tower reads them: their files, how large they are made, their pixels as patches.

Pictures are either stretched to whole tokens, or padded with black, below and to the right.

Source: transformers, models/qwen2_vl/image_processing_pil_qwen2_vl.py; what shows through is white,
as in qwen-vl-utils. Those that are padded: transformers, models/kimi_k25/
image_processing_kimi_k25.py, navit_resize, and moonshotai/Kimi-K2.5, kimi_k25_vision_processing.py
and media_utils.py, against which, being code that comes with a checkpoint, this was never run; they
ignore what shows through.
"""

import io
import json
import math
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np

from mlxarch.errors import FormatError
from mlxarch.words import size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# What cameras write, whose headers say which side is up; a PNG says so at its end, if at all.
_TURNED, _ORIENTATION = ("JPEG", "WEBP"), 0x0112
_MOST = 100_000_000  # bytes of a file
_LARGEST = 1 << 28  # pixels that a picture may be made of
_LONGEST = 200  # times as long as high


@dataclass(frozen=True)
class Scale:
    """How a checkpoint's pictures are made ready, as its preprocessor_config.json says."""

    patch: int  # pixels of a side
    merged: int  # patches of a token's side
    frames: int  # that a still picture stands for
    least: int  # pixels of a picture
    most: int
    mean: tuple[float, ...]  # of a colour, where white is 1
    deviation: tuple[float, ...]
    # Patches of a picture's side at most, where pictures are padded and never made larger; 0: they
    # are stretched, and have any side.
    side: int = 0

    @classmethod
    def of(cls, folder: Path, *, patch: int, merged: int, frames: int, side: int = 0) -> Self:
        """That of a checkpoint, or what the publisher's others have.

        Raises: FormatError if the file says something else than the tower.
        """
        file, later = folder / "preprocessor_config.json", folder / "processor_config.json"
        try:
            # Transformers 5 writes one file for all that is made ready.
            raw = json.loads(file.read_bytes()) if file.exists() else {}
            if not raw and later.exists():
                raw = json.loads(later.read_bytes()).get("image_processor", {})
            raw = raw.get("media_proc_cfg", raw)
            size = raw.get("size") or {}
            if raw.get("fixed_output_tokens") is not None:
                raise ValueError("fixed_output_tokens is not null")
            if side:
                patches = raw.get("in_patch_limit") or raw.get("max_patches") or 16_384
                least, most = 1, patches * patch**2
                side = int(raw.get("patch_limit_on_one_side") or size.get("max_height") or side)
            else:
                least = raw.get("min_pixels") or size.get("shortest_edge") or 65_536
                most = raw.get("max_pixels") or size.get("longest_edge") or 16_777_216
            found = cls(
                patch=raw.get("patch_size", patch),
                merged=raw.get("merge_size", raw.get("merge_kernel_size", merged)),
                frames=raw.get("temporal_patch_size", frames),
                least=int(least),
                most=int(most),
                side=side,
                mean=_colours(raw.get("image_mean", [0.5] * 3)),
                deviation=_colours(raw.get("image_std", [0.5] * 3)),
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FormatError(f"{file} does not say how pictures are read: {error}.") from error
        if (found.patch, found.merged, found.frames) != (patch, merged, frames):
            raise FormatError(f"{file} has patches that are not those of vision_config.")
        sizes = 0 < found.least <= found.most <= _LARGEST and 0 <= found.side <= _LARGEST
        if not (sizes and min(found.deviation) > 0):
            raise FormatError(f"{file} leaves no size for a picture, or no colours.")
        return found

    def grid(self, width: int, height: int, file: Path | None = None) -> tuple[int, int]:
        """Rows and columns of patches of a picture of so many pixels.

        Raises: FormatError, of its file, if it is too long for its height, or too high.
        """
        unit = self.patch * self.merged
        if self.side:
            rows, columns = (-(-side // unit) * self.merged for side in self._fitted(width, height))
            return rows, columns
        if max(width, height) > _LONGEST * min(width, height):
            raise _no_picture(
                file, f"with {width:,} x {height:,} pixels it is too narrow; cut out a part of it"
            )
        sides = [round(side / unit) * unit for side in (height, width)]
        if math.prod(sides) > self.most:
            beta = math.sqrt(height * width / self.most)
            sides = [max(unit, math.floor(s / beta / unit) * unit) for s in (height, width)]
        elif math.prod(sides) < self.least:
            beta = math.sqrt(self.least / (height * width))
            sides = [math.ceil(s * beta / unit) * unit for s in (height, width)]
        return sides[0] // self.patch, sides[1] // self.patch

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that a picture is given before it is padded."""
        limit, p = self.side * self.patch, self.patch
        area = max(1, width // p) * max(1, height // p)
        scale = min(1.0, math.sqrt(self.most // p**2 / area), limit / width, limit / height)
        height, width = (min(max(1, int(side * scale)), limit) for side in (height, width))
        return height, width

    def tokens(self, width: int, height: int, file: Path | None = None) -> tuple[int, int]:
        """Rows and columns of tokens of a picture of so many pixels; see `grid`."""
        rows, columns = self.grid(width, height, file)
        return rows // self.merged, columns // self.merged

    def patches(self, raw: bytes, file: Path | None = None) -> np.ndarray:
        """The patches of a picture (n, pixels), those of a token next to each other.

        Raises: FormatError, of its file, if it is none.
        """
        from PIL import Image, ImageOps

        with _opened(raw, file) as image:
            rows, columns = self.grid(*_upright(image), file)
            try:
                image = ImageOps.exif_transpose(image) if image.format in _TURNED else image
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                whole = size = columns * self.patch, rows * self.patch
                if self.side:
                    size = self._fitted(*image.size)[::-1]
                image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
                image = image.crop((0, 0, *whole))  # what is beyond it is black
            except (OSError, ValueError, SyntaxError, MemoryError) as error:
                raise _no_picture(file, f"it is damaged: {error}") from error
        colours = np.asarray(image, dtype=np.float32) / 255
        colours -= np.array(self.mean, np.float32)
        colours /= np.array(self.deviation, np.float32)
        p, m = self.patch, self.merged
        squares = colours.reshape(rows // m, m, p, columns // m, m, p, 3)
        squares = squares.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
        film = np.broadcast_to(squares, (*squares.shape[:5], self.frames, p, p))
        return film.reshape(rows * columns, -1)


def read(file: Path, name: str = "") -> bytes:
    """A picture's file.

    Args:
        name: The SHA-256 that it has to have.

    Raises: FormatError.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MOST + 1)
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error.strerror or error}.") from error
    if len(raw) > _MOST:
        raise FormatError(f"{file} is longer than {size(_MOST)}; make it smaller.")
    if name and sha256(raw).hexdigest() != name:
        raise FormatError(f"{file} is not the picture that it was; attach it anew.")
    return raw


def measure(raw: bytes, file: Path | None = None) -> tuple[int, int]:
    """Width and height of a picture in pixels, without reading more of it than its header.

    Raises: FormatError, of its file, if it is none, or not of a format that is read.
    """
    with _opened(raw, file) as image:
        return _upright(image)


def _upright(image: Any) -> tuple[int, int]:
    """Width and height, once it is turned as its camera says."""
    turned = image.format in _TURNED and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return image.size[::-1] if turned else image.size


def _opened(raw: bytes, file: Path | None) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow refuses what is twice as large as what it warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(raw), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _no_picture(file, "it has more pixels than can be read; make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _no_picture(file, "it is no PNG, JPEG, WebP, GIF or BMP, or damaged") from error


def _no_picture(file: Path | None, why: str) -> FormatError:
    return FormatError(f"{file or 'The picture'} cannot be shown: {why}.")


def _colours(values: Any) -> tuple[float, ...]:
    red, green, blue = map(float, values)
    return red, green, blue
