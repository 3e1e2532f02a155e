"""Answers of mlx-lm's server that satisfy a JSON schema."""

from typing import Any

import mlx.core as mx

from mlxarch.constrain import Constraint
from mlxarch.errors import FormatError


class Masked:
    """Lets through what a constraint allows, as one of mlx-lm's processors of logits."""

    def __init__(self, constraint: Constraint, stops: frozenset[int]):
        self._constraint, self._stops = constraint, stops
        self._begun = self._ended = False

    def __call__(self, tokens: Any, logits: mx.array) -> mx.array:
        """Logits (1, V) after all tokens so far, the prompt's too."""
        try:
            if self._begun and not self._ended:
                token = int(tokens[-1].item())
                self._ended = token in self._stops
                if not self._ended:
                    self._constraint.take(token)
            self._begun = True
            if not self._ended:
                return mx.where(self._constraint.allowed(), logits, -mx.inf)
        except FormatError:
            # The thread that computes must live: this answer ends here.
            self._ended = True
        stop = mx.zeros(logits.shape[-1:], dtype=mx.bool_)
        stop[mx.array([i for i in self._stops if i < stop.size])] = True
        return mx.where(stop, logits, -mx.inf)
