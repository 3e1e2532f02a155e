"""Caches that copy less: one that numpy writes into, in place, and a window put in order once."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlxarch import compat

_STEP = compat.KVCache.step
_SHARE = 8  # of the rows, one part may be room


class KVCache(compat.KVCache):
    """Mlx-lm's, whose update alone costs 50 us a layer, and more on a busy machine."""

    # The arrays' memory, from an update of MLX's until somebody else may hold on to it.
    _views: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def step(self) -> int:
        """Rows of room that are added at once: all there are move then, so the more the more."""
        return max(_STEP, self.offset // _SHARE // _STEP * _STEP)

    def put(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add keys and values (B, K, L, E); all there are then (B, K, S, E)."""
        end = self.offset + keys.shape[2]
        if self._views is None or end > self._views[0].shape[2]:
            mx.eval(self.update_and_fetch(mx.array(keys), mx.array(values)))
            self._views = np.asarray(self.keys), np.asarray(self.values)
        else:
            for view, new in zip(self._views, (keys, values), strict=True):
                view[:, :, self.offset : end] = new
            self.offset = end
        all_keys, all_values = self._views
        return all_keys[:, :, :end], all_values[:, :, :end]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """As mlx-lm's."""
        self._views = None  # before MLX puts other memory in its place
        return super().update_and_fetch(keys, values)

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All keys and values."""
        self._views = None
        return super().keys_and_values()

    @property
    def state(self) -> tuple[Any, ...]:
        """Keys, values and their number."""
        self._views = None
        return super().state

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self._views = None
        self.keys, self.values, self.offset = state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: the same arrays, so nothing may be written into them from now on."""
        self._views = None
        return {name: value for name, value in vars(self).items() if name != "_views"}


class RotatingKVCache(compat.RotatingKVCache):
    """Mlx-lm's, which copies all rows up to three times when several tokens come."""

    def _update_concat(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.keys is None or self.values is None or self.keep:
            return super()._update_concat(keys, values)
        self.keys, self.values = self._then(self.keys, keys), self._then(self.values, values)
        self.offset, self._idx = self.offset + keys.shape[2], self.keys.shape[2]
        return self.keys, self.values

    def _then(self, rows: mx.array, new: mx.array) -> mx.array:
        """Rows that the first of the new ones still sees, in order, and the new ones."""
        end = self._idx
        # In a ring they come after the newest.
        older = rows.shape[2] - end if end < self.offset else 0
        surplus = max(0, older + end - self.max_size + 1)
        parts = (
            rows[..., end + min(surplus, older) : end + older, :],
            rows[..., max(0, surplus - older) : end, :],
            new,
        )
        return mx.concatenate([part for part in parts if part.shape[2]], axis=2)
