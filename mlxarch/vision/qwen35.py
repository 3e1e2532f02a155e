"""The vision tower of Qwen 3.5, dense and with experts.

A vision transformer over patches of 16 x 16 pixels. Learned places, of a square grid, are stretched
over the picture and added once; queries and keys are rotated by row and column besides. Every
patch sees all others. In the end four neighbours, two by two, become one token of the language
model. A still picture is a film of two frames that are alike.

Shapes: n patches, those that become one token next to each other   D width of the tower

Source: transformers, models/qwen3_5/modeling_qwen3_5.py, Qwen3_5VisionModel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxarch import config
from mlxarch.config import hub

_EPS = 1e-6  # of all norms
_SCORES = 1 << 28  # bytes of attention's scores at once, at most, or of what a feed-forward holds


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The keys of a config.json's vision_config that shape the tower."""

    only = {"deepstack_visual_indexes": [], "hidden_act": "gelu_pytorch_tanh", "in_channels": 3}

    dim: int = hub("hidden_size", default=1152)
    depth: int = hub("depth", default=27)
    heads: int = hub("num_heads", default=16)
    hidden: int = hub("intermediate_size", default=4304)
    patch: int = hub("patch_size", default=16)  # pixels of a side
    frames: int = hub("temporal_patch_size", default=2)
    merged: int = hub("spatial_merge_size", default=2)  # patches of a token's side
    places: int = hub("num_position_embeddings", default=2304)
    out_dim: int = hub("out_hidden_size", default=3584)  # the language model's width
    rope_base: float = hub("rope_parameters.rope_theta", default=10_000.0)


class Tower(nn.Module):
    """Patches of a picture -> rows of the language model's stream."""

    def __init__(self, c: Config):
        super().__init__()
        self.merged, self.side = c.merged, math.isqrt(c.places)
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
        angles = self._by_token(mx.array(at.reshape(*grid, -1).astype(np.float32)), grid)
        turned = mx.cos(angles), mx.sin(angles)
        for i, layer in enumerate(self.layers):
            if not going(i / len(self.layers)):
                return None
            x = layer(x, turned)
            mx.eval(x)
        return self.merger(x)

    def _stretched(self, grid: tuple[int, int]) -> mx.array:
        """The learned places, blended linearly: (rows, columns, D)."""
        rows, columns = (mx.array(_blend(count, self.side)) for count in grid)
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
        self.mixer_in, self.mlp_in = (nn.LayerNorm(c.dim, eps=_EPS) for _ in range(2))
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
        self.heads = c.heads
        self.qkv, self.proj = nn.Linear(c.dim, 3 * c.dim), nn.Linear(c.dim, c.dim)

    def __call__(self, x: mx.array, turned: tuple[mx.array, mx.array]) -> mx.array:
        """x (n, D) -> (n, D)."""
        n = x.shape[0]
        q, k, v = self.qkv(x).reshape(n, 3, self.heads, -1).transpose(1, 2, 0, 3)[:, None]
        q, k = _turn(q, *turned), _turn(k, *turned)
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
        self.norm = nn.LayerNorm(c.dim, eps=_EPS)

    def __call__(self, x: mx.array) -> mx.array:
        """x (n, D) -> (tokens, width)."""
        return super().__call__(self.norm(x).reshape(-1, self.linear_fc1.weight.shape[1]))


def build(c: Config) -> Tower:
    """An empty tower."""
    return Tower(c)


def working_bytes(c: Config, patches: int) -> int:
    """What a picture of so many patches takes while it is seen, about."""
    scores = min(_SCORES, 4 * c.heads * patches**2)
    # In float32: pixels, the stream and its norm, queries, keys and values, these turned.
    return 4 * patches * (3 * c.frames * c.patch**2 + 12 * c.dim) + 2 * scores


def _blend(count: int, side: int) -> np.ndarray:
    """How each of `count` places is blended of `side` ones, first to first and last to last."""
    at = np.arange(count) * (side - 1) / max(count - 1, 1)
    return np.clip(1 - abs(at[:, None] - np.arange(side)), 0, None).astype(np.float32)


def _turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x (..., n, E), of which a feature of each half is a pair, turned in float32."""
    a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
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
