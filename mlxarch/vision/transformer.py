"""What vision transformers share: patches with learned places become rows of a model's stream.

Learned places, of a square grid, are stretched over the picture and added once; queries and keys
are rotated by row and column besides. Every patch sees all others. In the end neighbours, two by
two, become one token of the language model.

Shapes: n patches, those that become one token next to each other   D width of the tower

Source: arXiv:2010.11929; transformers, models/qwen3_5/modeling_qwen3_5.py, Qwen3_5VisionModel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch import config

_SCORES = 1 << 28  # bytes of attention's scores at once, at most, or of what a feed-forward holds


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """What shapes a tower; each port says how a config.json's vision_config spells it."""

    dim: int
    depth: int
    heads: int
    hidden: int
    patch: int  # pixels of a side
    frames: int  # that a still picture stands for
    merged: int  # patches of a token's side
    places: int
    out_dim: int  # the language model's width
    rope_base: float

    eps: ClassVar[float] = 1e-6  # of all norms
    # Neighbours are rotated together, by column and row in turn; else a feature of each half, of
    # which the first pairs go by row.
    interleaved: ClassVar[bool] = False
    placed: ClassVar[bool] = True  # a token's row and column count in the language model, too
    pad: ClassVar[int]  # token of a picture, where config.json has none
    side: ClassVar[int] = 0  # see `Scale`


class Tower(nn.Module):
    """Patches of a picture -> rows of the language model's stream.

    Args:
        blend: How each of some places is blended of the learned ones of a side: (places, side).
    """

    def __init__(self, c: Config, blend: Callable[[int, int], np.ndarray]):
        super().__init__()
        self.merged, self.side = c.merged, math.isqrt(c.places)
        self._interleaved, self._blend = c.interleaved, blend
        if c.dim % (4 * c.heads) or self.side**2 != c.places:
            raise ValueError(f"{c.heads} heads of {c.dim} features, or a grid of {c.places} places")
        self.embed = nn.Linear(3 * c.frames * c.patch**2, c.dim)
        self.places = nn.Embedding(c.places, c.dim)
        self.layers = [Block(c) for _ in range(c.depth)]
        self.merger = Merger(c)
        turns = c.dim // c.heads // 4  # of each axis
        self._periods = c.rope_base ** (np.arange(turns) / turns)

    def __call__(
        self,
        patches: np.ndarray,
        grid: tuple[int, int],
        going: Callable[[float], bool] = lambda share: True,
    ) -> mx.array | None:
        """One picture's patches (n, pixels), rows and columns of them -> (tokens, width).

        Args:
            going: Told before each layer, which may take seconds, what share is done; whether to go
                on: else there is nothing.
        """
        x = self.embed(mx.array(patches).astype(self.places.weight.dtype))
        x = x + self._by_token(self._stretched(grid), grid)
        rows, columns = np.meshgrid(*map(np.arange, grid), indexing="ij")
        at = np.stack([rows, columns], axis=-1)[..., None] / self._periods  # (rows, columns, 2, -)
        at = at[..., ::-1, :].swapaxes(-1, -2) if self._interleaved else at
        angles = self._by_token(mx.array(at.reshape(*grid, -1).astype(np.float32)), grid)
        turned = mx.cos(angles), mx.sin(angles)
        for i, layer in enumerate(self.layers):
            if not going(i / len(self.layers)):
                return None
            x = layer(x, turned)
            mx.eval(x)
        return self.out(x)

    def out(self, x: mx.array) -> mx.array:
        """What the layers leave (n, D) -> (tokens, width)."""
        return self.merger(x)

    def _stretched(self, grid: tuple[int, int]) -> mx.array:
        """The learned places, blended: (rows, columns, D)."""
        blends = (self._blend(count, self.side).astype(np.float32) for count in grid)
        rows, columns = map(mx.array, blends)
        table = self.places(mx.arange(self.side**2)).reshape(self.side, -1)
        across = (rows @ table.astype(mx.float32)).reshape(grid[0], self.side, -1)
        return (columns @ across).astype(table.dtype)

    def _by_token(self, x: mx.array, grid: tuple[int, int]) -> mx.array:
        """(rows, columns, features) -> (n, features), a token's patches next to each other."""
        m = self.merged
        squares = x.reshape(grid[0] // m, m, grid[1] // m, m, -1)
        return squares.swapaxes(1, 2).reshape(grid[0] * grid[1], -1)


class Block(nn.Module):
    """Attention, then a feed-forward, each normed on its way in and added to the stream."""

    def __init__(self, c: Config):
        super().__init__()
        self.mixer_in, self.mlp_in = (nn.LayerNorm(c.dim, eps=c.eps) for _ in range(2))
        self.mixer = Attention(c)
        self.mlp = FeedForward(c.dim, c.hidden, c.dim, nn.gelu_approx)

    def __call__(self, x: mx.array, turned: tuple[mx.array, mx.array]) -> mx.array:
        """x (n, D), cosines and sines (n, E / 2) -> (n, D)."""
        x = x + self.mixer(self.mixer_in(x), turned)
        return x + self.mlp(self.mlp_in(x))


class Attention(nn.Module):
    """Softmax attention of all patches to all, some queries at once.

    Shapes: H heads   E head size
    """

    def __init__(self, c: Config):
        super().__init__()
        self.heads, self._interleaved = c.heads, c.interleaved
        self.qkv, self.proj = nn.Linear(c.dim, 3 * c.dim), nn.Linear(c.dim, c.dim)

    def __call__(self, x: mx.array, turned: tuple[mx.array, mx.array]) -> mx.array:
        """x (n, D) -> (n, D)."""
        n = x.shape[0]
        q, k, v = self.qkv(x).reshape(n, 3, self.heads, -1).transpose(1, 2, 0, 3)[:, None]
        q, k = (_turn(each, *turned, interleaved=self._interleaved) for each in (q, k))
        out = _in_pieces(partial(self.attend, k=k, v=v), q, self.heads * n)
        return self.proj(out[0].swapaxes(0, 1).reshape(n, -1))

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Some queries (1, H, L, E), all keys and values (1, H, n, E) -> (1, H, L, E)."""
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)


class FeedForward(nn.Module):
    """Two linear layers, and what is between them."""

    def __init__(self, dim: int, hidden: int, out_dim: int, activation: Callable):
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, out_dim)
        self._activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        """x (n, D) -> (n, width)."""
        call = lambda x: self.linear_fc2(self._activation(self.linear_fc1(x)))  # noqa: E731
        return _in_pieces(call, x, self.linear_fc1.weight.shape[0])


class Merger(FeedForward):
    """The patches of a token, normed one by one, as a row of the language model's stream."""

    def __init__(self, c: Config):
        whole = c.dim * c.merged**2
        super().__init__(whole, whole, c.out_dim, nn.gelu)
        self.norm = nn.LayerNorm(c.dim, eps=c.eps)

    def __call__(self, x: mx.array) -> mx.array:
        """x (n, D) -> (tokens, width)."""
        return super().__call__(self.norm(x).reshape(-1, self.linear_fc1.weight.shape[1]))


def working_bytes(c: Config, patches: int) -> int:
    """What a picture of so many patches takes while it is seen, about."""
    scores = min(_SCORES, 4 * c.heads * patches**2)
    # In float32: pixels, the stream and its norm, queries, keys and values, these turned.
    return 4 * patches * (3 * c.frames * c.patch**2 + 12 * c.dim) + 2 * scores


def _turn(x: mx.array, cos: mx.array, sin: mx.array, *, interleaved: bool) -> mx.array:
    """x (..., n, E) turned in float32, the first of all pairs before the second of all."""
    x32 = x.astype(mx.float32)
    a, b = (x32[..., ::2], x32[..., 1::2]) if interleaved else mx.split(x32, 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _in_pieces(call: Callable[[mx.array], mx.array], x: mx.array, numbers: int) -> mx.array:
    """What is called on x (..., n, D) so that it holds no more than `_SCORES` bytes meanwhile.

    Args:
        numbers: How many of them it holds for each of the n.
    """
    n, at_once = x.shape[-2], max(1, _SCORES // (4 * numbers))
    found = []
    for start in range(0, n, at_once):
        found.append(call(x[..., start : start + at_once, :]))
        if at_once < n:
            mx.eval(found[-1])
    return mx.concatenate(found, axis=-2) if len(found) > 1 else found[0]
