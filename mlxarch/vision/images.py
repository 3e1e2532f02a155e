"""Where pictures stand in a conversation, and what that does to the positions of its tokens.

A picture's tokens share one position in time and have a row and a column each; what follows goes on
after the larger of its sides, as if it had no more tokens than that. All of this follows from where
pictures begin and how large they are: caches keep nothing of it, so whoever goes back in them, or
copies them, needs only say again which pictures there are.

Source: transformers, models/qwen3_5/modeling_qwen3_5.py, get_rope_index.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import shake_128

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Image:
    """A picture in a conversation.

    Args:
        name: A hash of what it shows and how it is read.
        start: How many tokens lie before its first.
        rows, columns: Of its tokens.
        see: What the tower makes of it (rows * columns, D), given who is told how much is done,
            and says whether to go on; None if not.
    """

    name: str
    start: int
    rows: int
    columns: int
    see: Callable[[Callable[[float], bool]], mx.array | None]

    @property
    def end(self) -> int:
        """How many tokens lie before what follows it."""
        return self.start + self.rows * self.columns

    @property
    def surplus(self) -> int:
        """By how much its tokens are more than the positions it takes."""
        return self.rows * self.columns - max(self.rows, self.columns)


class Images:
    """The pictures of one conversation, in order.

    Args:
        placed: Whether their tokens' rows and columns count; else they are counted as text is.
    """

    def __init__(self, images: Sequence[Image], *, placed: bool = True):
        self._placed = placed
        self._all = sorted(images, key=lambda image: image.start)
        self._seen: dict[int, mx.array] = {}  # rows of those that are being read, by their start

    def places(self, start: int, length: int) -> int | mx.array | None:
        """Positions of some tokens; None: as if there were no pictures.

        Of text alone the first, after which they are counted; else (3, length): time, row, column.
        """
        if not self._placed:
            return None
        if not any(image.start < start + length and image.end > start for image in self._all):
            return start - sum(image.surplus for image in self._all if image.end <= start)
        index = np.arange(start, start + length)
        places = np.tile(index, (3, 1))
        for image in self._all:
            places[:, index >= image.end] -= image.surplus
            inside = (index >= image.start) & (index < image.end)
            its = index[inside] - image.start
            places[:, inside] += np.stack([0 * its, *divmod(its, image.columns)]) - its
        return mx.array(places.astype(np.int32))

    def largest(self, beyond: int) -> int:
        """Tokens of the largest picture that is not all among the first so many; 0 without one."""
        return max((each.end - each.start for each in self._all if each.end > beyond), default=0)

    def see(
        self, start: int, end: int, going: Callable[[float], bool] = lambda share: True
    ) -> bool:
        """Look at the pictures among some tokens; whether that came to its end, see `Image`."""
        for image in self._all:
            if image.start < end and image.end > start and image.start not in self._seen:
                rows = image.see(going)
                if rows is None:
                    return False
                self._seen[image.start] = rows
        return True

    def put(self, x: mx.array, start: int) -> mx.array:
        """Embeddings (1, L, D) of the tokens from `start` on, with the pictures' rows in place."""
        end = start + x.shape[1]
        self.see(start, end)
        found, reached = [], start
        for image in self._all:
            first, last = max(image.start, reached), min(image.end, end)
            if first < last:
                rows = self._seen[image.start][None, first - image.start : last - image.start]
                found += [x[:, reached - start : first - start], rows.astype(x.dtype)]
                reached = last
                if last == image.end:
                    del self._seen[image.start]
        return mx.concatenate([*found, x[:, reached - start :]], axis=1) if found else x

    def named(self, tokens: Sequence[int]) -> list[int]:
        """The tokens, where those of pictures are less than 0 and tell which picture it is.

        So what begins alike is found as ever, and two pictures never pass for one.
        """
        found = list(tokens)
        for image in self._all:
            count = image.end - image.start
            ids = np.frombuffer(shake_128(image.name.encode()).digest(4 * count), dtype="<i4")
            found[image.start : image.end] = (-1 - (ids & 0x7FFFFFFF)).tolist()
        return found
