"""Attention in tiles whose scores stay in a CPU's cache.

Arrays are numpy's, and rows contiguous.

Shapes: n queries, of all heads   L queries   S keys   s keys of a tile   T chosen keys
    H heads   I index heads   F features of a value
"""

from collections.abc import Callable

import numpy as np
from numba import carray, njit

from . import panels
from .cpu import exp_of, largest, share_out
from .memory import floats
from .vectors import LANES

# Queries that are worked on together, and those of a tile.
ROWS, BLOCK = 480, 48
# Keys that are made at once, where they are; and of a tile, whose numbers and those of its values
# stay in a cache.
COLUMNS, _KEYS, _TILE = 512, 512, 1 << 17
NO_WINDOW = 1 << 62


@njit(fastmath={"contract", "reassoc"})
def _raised(row, most, scale):
    """Each number of a row becomes e to the scale times what it lacks of the most; their sum."""
    total = np.float32(0)
    for s in range(row.size):
        row[s] = exp_of((row[s] - most) * scale)
        total += row[s]
    return total


@njit
def _soften(row, begin, end, scale, most, total, sums):
    """The weights of another tile's scores, of which a query sees those from begin to end.

    Brings its largest score and its sum of weights, which are returned, and its sum of values so
    far to the same scale.   Source: arXiv:2205.14135, section 3.1.
    """
    row[:begin] = 0
    row[end:] = 0
    near = row[begin:end]
    high = max(largest(near), most)
    if high > most:
        factor = exp_of((most - high) * scale)
        total *= factor
        for j in range(sums.size):
            sums[j] *= factor
    return high, total + _raised(near, high, scale)


@njit(
    "void(float32[:,::1], float32[:,:], float32[:,:], float32, int64, int64, int64, int64, int64,"
    " float32[::1], float32[::1], float32[::1], float32[:,::1])",
    nogil=True,
    cache=True,
)
def take(q, keys, values, scale, seen, first, repeats, window, size, room, most, total, sums):
    """Attention of queries (n, E) to some more keys (S, E) and their values (S, F).

    Args:
        seen: How many of the keys query number 0 sees; each run of `repeats` queries sees one more
            than the one before it. Less than none are none, more than all are all.
        first: The number of the first query here.
        window: How many keys a query sees at most, the last ones.
        size: Keys of a tile, whole panels; `room` is for what is made of one.
        most, total: The largest score and the sum of weights of each query (n,), so far: minus
            infinity and zero at first; brought up to date.
        sums: The sum of weighted values so far, filled up to whole panels: of 16 columns, or WIDE
            ones where there is no rest.
    """
    (n, E), (S, F), width = q.shape, values.shape, sums.shape[1]
    asked, scores = q.ctypes.data, room.ctypes.data + -room.ctypes.data % (4 * LANES)
    of_keys = scores + 4 * BLOCK * size
    of_values = of_keys + 4 * E * size
    own = sums.ctypes.data
    for begin in range(0, S, size):
        count, ahead = min(size, S - begin), seen - begin
        if ahead + (first + n - 1) // repeats <= 0:
            break
        if ahead + first // repeats - window >= count:
            continue
        place = keys.ctypes.data + begin * keys.strides[0]
        panels.lay_turned(place, keys.strides[0], count, E, of_keys)
        place = values.ctypes.data + begin * values.strides[0]
        column = panels.WIDE if width % panels.WIDE == 0 else panels.NARROW
        panels.lay(place, values.strides[0], count, F, column, of_values)
        for at in range(0, n, BLOCK):
            block = min(BLOCK, n - at)
            low = max(ahead + (first + at) // repeats - window, 0)
            high = min(ahead + (first + at + block - 1) // repeats, count)
            if low >= high:
                continue
            # Whole panels, of which the keys that are not seen get no weight.
            low = low // panels.WIDE * panels.WIDE
            high = -(-high // panels.WIDE) * panels.WIDE
            near = carray(floats(scores), (block, high - low))
            near[:] = 0
            panels.multiply_wide(
                block,
                asked + 4 * at * E,
                E,
                of_keys + 4 * low * E,
                E,
                (high - low) // panels.WIDE,
                scores,
                high - low,
            )
            for i in range(at, at + block):
                end = ahead + (first + i) // repeats
                a, b = min(max(end - window, 0), count) - low, min(max(end, 0), count) - low
                if max(a, 0) >= b:
                    near[i - at] = 0
                    continue
                its = most[i], total[i], sums[i]
                most[i], total[i] = _soften(near[i - at], max(a, 0), b, scale, *its)
            near_values = min(high, count) - low
            for p in range(width // column):
                panel = of_values + 4 * (p * count + low) * column
                out = own + 4 * (at * width + p * column)
                if column == panels.WIDE:
                    panels.multiply_wide(
                        block, scores, high - low, panel, near_values, 1, out, width
                    )
                else:
                    panels.multiply_narrow(
                        block, scores, high - low, panel, near_values, 1, out, width
                    )


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
    columns: int | None = None,
) -> None:
    """Causal attention of q (n, E) to S keys in tiles; into out (n, F).

    Args:
        number: That of the first query; `repeats` ones are of one token.
        start: Position of the token of query number 0.
        rows: Some keys (s, E) and their values (s, F).
        window: How many keys a query sees at most, the last ones.
        columns: Keys that are asked for at once; None for COLUMNS.
    """
    (n, E), F = q.shape, out.shape[1]
    columns = columns or COLUMNS
    most, total = np.full(n, -np.inf, np.float32), np.zeros(n, np.float32)
    sums = np.zeros((n, -(-F // panels.NARROW) * panels.NARROW), np.float32)
    size = max(1, min(_TILE // (E + F), _KEYS) // panels.WIDE) * panels.WIDE
    room = np.empty(size * (BLOCK + E + sums.shape[1]) + LANES, np.float32)
    for first in range(max(0, start + 1 + number // repeats - window), S, columns):
        ahead = start + 1 - first  # keys of the tile that query number 0 sees
        if ahead + (number + n - 1) // repeats <= 0:
            break
        some = rows(slice(first, min(first + columns, S)))
        parts = ahead, number, repeats, window, size, room, most, total, sums
        take(q, *some, scale, *parts)
    np.divide(sums[:, :F], total[:, None], out=out)


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
