"""What the linear layers of a model are fed with, as far as rounding their weights needs it.

Shapes: T tokens   I input features   N experts
"""

from collections.abc import Mapping
from functools import cached_property, partial

import mlx.core as mx
import numpy as np

from .gptq import Cost
from .product import Product, flattened

# An expert that has seen fewer tokens than this share of its features is not judged by them.
_FEW = 1 / 8


class Hessian:
    """The mean of x xᵀ over the tokens that one linear layer, or several, are fed with."""

    def __init__(self, features: int):
        self._sum = np.zeros((features, features), np.float32)
        self.tokens = 0

    def add(self, x: np.ndarray) -> None:
        """Inputs (T, I)."""
        self._sum += x.T @ x
        self.tokens += len(x)

    @cached_property
    def mean(self) -> np.ndarray:
        """(I, I)."""
        return self._sum / max(self.tokens, 1)

    @cached_property
    def _cost(self) -> Cost:
        return Cost.of(self.mean)

    def cost(self, expert: int | None = None) -> Cost:
        """What rounding a weight costs."""
        return self._cost


class ExpertHessians:
    """The same for each expert of a layer, made when it is asked for: all at once are too many.

    An expert that few tokens came to is taken to be fed with what all of them are: wholly, if they
    are fewer than an eighth of its features, and in part, if they are fewer than its features.
    """

    def __init__(self, features: int):
        self._all = Hessian(features)
        self._x: list[np.ndarray] = []
        self._experts: list[np.ndarray] = []

    def add(self, x: np.ndarray, experts: np.ndarray) -> None:
        """Inputs (T, I), and which expert each is for (T,)."""
        self._all.add(x)
        self._x.append(x)
        self._experts.append(experts)

    def cost(self, expert: int | None) -> Cost:
        """What rounding the weight of one expert costs."""
        x = np.concatenate([x[e == expert] for x, e in zip(self._x, self._experts, strict=True)])
        tokens, features = x.shape
        if tokens < features * _FEW:
            return self._all.cost()
        own = x.T @ x / tokens
        share = min(1.0, tokens / features)
        return Cost.of(own if share == 1 else share * own + (1 - share) * self._all.mean)


class Inputs:
    """Watches linear layers while a model reads; those that are fed with the same share it."""

    def __init__(self, linears: Mapping[str, Product]):
        self._found: dict[str, Hessian | ExpertHessians] = {}
        self._leads: set[str] = set()  # the first of those that share
        self._recent: list[tuple[str, mx.array]] = []  # what these were fed with, the first time
        for path, product in linears.items():
            product.watch = partial(self._see, path)

    def __getitem__(self, path: str) -> Hessian | ExpertHessians | None:
        """What a linear layer is fed with, or None if it has not been fed."""
        return self._found.get(path)

    def _see(self, path: str, x: mx.array, experts: mx.array | None) -> None:
        if path in self._leads:
            self._recent.clear()
        elif path in self._found:
            return
        elif (other := next((p for p, seen in self._recent if seen is x), None)) is not None:
            self._found[path] = self._found[other]
            return
        else:
            features = x.shape[-1]
            self._found[path] = Hessian(features) if experts is None else ExpertHessians(features)
            self._leads.add(path)
            self._recent.append((path, x))
        found, (flat, which) = self._found[path], flattened(x, experts)
        if isinstance(found, Hessian):
            found.add(np.array(flat))
        else:
            found.add(np.array(flat), which)
