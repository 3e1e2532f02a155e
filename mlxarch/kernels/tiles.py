"""Attention in tiles whose scores stay in a CPU's cache: products by BLAS, the rest by numba.

Arrays are numpy's and contiguous.

Shapes: n queries, of all heads   L queries   S keys   s keys of a tile   T chosen keys
    H heads   I index heads   F features of a value
"""

from collections.abc import Callable

import numpy as np
from numba import njit

from .cpu import exp_of, largest, share_out

# Queries of a tile at most, and keys at least: more where there are so few queries, and keys are so
# small, that neither takes more room for that.
ROWS, COLUMNS = 256, 512
NO_WINDOW = 1 << 62


@njit(fastmath={"contract", "reassoc"})
def _raised(row, most, scale):
    """Each number of a row becomes e to the scale times what it lacks of the most; their sum."""
    total = np.float32(0)
    for s in range(row.size):
        row[s] = exp_of((row[s] - most) * scale)
        total += row[s]
    return total


@njit(
    "void(float32[:,::1], float32, int64, int64, int64, int64, float32[::1], float32[::1],"
    " float32[:,::1])",
    nogil=True,
    cache=True,
)
def soften(scores, scale, seen, first, repeats, window, most, total, out):
    """The softmax of another tile of keys: its weights, but for what all are divided by at the end.

    Args:
        scores: (n, s), replaced.
        seen: How many keys of the tile query number 0 sees; each run of `repeats` queries sees one
            more than the one before it. Less than none are none, more than all are all.
        first: The number of the first query here.
        window: How many keys a query sees at most, the last ones.
        most, total: The largest score and the sum of weights of each query (n,), so far: minus
            infinity and zero at first; brought up to date.
        out: The sum of weighted values so far (n, F); scaled as the weights are from now on.

    Source: arXiv:2205.14135, section 3.1.
    """
    n, s = scores.shape
    for i in range(n):
        own = seen + (first + i) // repeats
        begin, end = min(max(own - window, 0), s), min(max(own, 0), s)
        row, near = scores[i], scores[i, begin:end]
        row[:begin] = 0
        row[end:] = 0
        if begin == end:
            continue
        high = max(largest(near), most[i])
        if high > most[i]:
            factor = exp_of((most[i] - high) * scale)
            total[i] *= factor
            for j in range(out.shape[1]):
                out[i, j] *= factor
            most[i] = high
        total[i] += _raised(near, high, scale)


def attend(
    q: np.ndarray,
    number: int,
    start: int,
    repeats: int,
    S: int,
    scale: float,
    rows: Callable[[slice], tuple[np.ndarray, np.ndarray]],
    out: np.ndarray,
    window: int = NO_WINDOW,
) -> None:
    """Causal attention of q (n, E) to S keys in tiles; into out (n, F).

    Args:
        number: That of the first query; `repeats` ones are of one token.
        start: Position of the token of query number 0.
        rows: Some keys (s, E) and their values (s, F).
        window: How many keys a query sees at most, the last ones.
    """
    n, F = out.shape
    columns = max(COLUMNS, ROWS * COLUMNS // max(n, q.shape[1]))
    most, total = np.full(n, -np.inf, np.float32), np.zeros(n, np.float32)
    room = np.empty(min(n, ROWS) * min(S, columns), np.float32)
    sums = np.empty((min(n, ROWS), F), np.float32)
    out[:] = 0
    for first in range(max(0, start + 1 + number // repeats - window), S, columns):
        ahead = start + 1 - first  # keys of the tile that query number 0 sees
        if ahead + (number + n - 1) // repeats <= 0:
            break
        keys, values = rows(slice(first, min(first + columns, S)))
        for begin in range(0, n, ROWS):
            some = slice(begin, min(begin + ROWS, n))
            low = max(ahead + (number + begin) // repeats - window, 0)
            end = min(ahead + (number + some.stop - 1) // repeats, len(keys))
            if low >= end:
                continue
            size, near = some.stop - begin, slice(low, end)
            scores = room[: size * (end - low)].reshape(size, end - low)
            np.matmul(q[some], keys[near].T, out=scores)
            parts = most[some], total[some], out[some]
            soften(scores, scale, ahead - low, number + begin, repeats, window, *parts)
            out[some] += np.matmul(scores, values[near], out=sums[:size])
    out /= total[:, None]


@njit("void(float32[:,:,::1], float32[:,::1], float32[:,:])", nogil=True, cache=True)
def weigh(found, weights, out):
    """Index scores of a tile: the positive parts of found (L, I, s), weighed (L, I); into out."""
    for t in range(found.shape[0]):
        row = out[t]
        row[:] = 0
        for i in range(found.shape[1]):
            heads, weight = found[t, i], weights[t, i]
            for s in range(row.size):
                row[s] += max(heads[s], np.float32(0)) * weight


@njit("void(float32[:,::1], float32[::1], int64[:,::1])", nogil=True, cache=True)
def pick(scores, bound, out):
    """Which T scores of each row (L, S) are the least, the T-th of which is bound (L,); into out.

    Of equals the earliest. Where there are fewer, as among what is no number, the first key again.
    """
    T = out.shape[1]
    for t in range(out.shape[0]):
        row, its, count = scores[t], out[t], 0
        for s in range(row.size):
            # Fewer than T are less, so that there is room; no branch that nobody could foretell.
            its[count] = s
            count += row[s] < bound[t]
        for s in range(row.size):
            if count == T:
                break
            if row[s] == bound[t]:
                its[count] = s
                count += 1
        its[count:] = 0


@njit("void(float32[:,::1], float32[:,::1], int64[::1], float32[:,::1])", nogil=True, cache=True)
def gather(first, second, which, out):
    """Chosen rows of two arrays (S, ...), side by side; into out (T, ...)."""
    width = first.shape[1]
    for t in range(which.size):
        a, b, row = first[which[t]], second[which[t]], out[t]
        for i in range(width):
            row[i] = a[i]
        for i in range(b.size):
            row[width + i] = b[i]


@njit("void(float32[:,::1], int64[::1], int64, float32)", nogil=True, cache=True)
def share_chosen(scores, which, position, scale):
    """Softmax of scale times scores (H, T) of those chosen that lie no later; in place."""
    for h in range(scores.shape[0]):
        row = scores[h]
        for t in range(row.size):
            if which[t] > position:
                row[t] = -np.inf
        share_out(row, scale)
