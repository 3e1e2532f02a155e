"""Attention of few queries, one by one over the keys that each may see.

A query's result is the same to the bit whether others are computed beside it or not.

Shapes: B batch   L queries   H query heads   K key/value heads   S keys   E, F head sizes
"""

import numpy as np
from numba import carray, njit

from .cpu import share_out
from .memory import floats, octets
from .vectors import FORMS, dots

_FLOATS, _GROUP = len(FORMS) - 1, FORMS[-1][2]


@njit(fastmath={"contract", "reassoc"})
def _dot(a, b):
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(fastmath={"contract"})
def _mix(scores, values, step, out):
    """The sum of scores times values, which are `step` bytes apart; four by four."""
    out[:] = 0
    fours = scores.size - scores.size % 4
    for s in range(0, fours, 4):
        p, q, r, t = scores[s], scores[s + 1], scores[s + 2], scores[s + 3]
        a = carray(floats(values + s * step), out.shape)
        b = carray(floats(values + (s + 1) * step), out.shape)
        c = carray(floats(values + (s + 2) * step), out.shape)
        d = carray(floats(values + (s + 3) * step), out.shape)
        for i in range(out.size):
            out[i] += p * a[i] + q * b[i] + (r * c[i] + t * d[i])
    for s in range(fours, scores.size):
        a, p = carray(floats(values + s * step), out.shape), scores[s]
        for i in range(out.size):
            out[i] += p * a[i]


@njit
def _compare(q, keys, step, size, scores):
    """Products of a query and keys, `step` bytes apart; q and keys are addresses."""
    whole = size - size % _GROUP
    query = carray(floats(q), (size,))
    for s in range(scores.size):
        key = keys + s * step
        total = np.float32(0)
        if whole:
            total = dots(_FLOATS, 1, key, key, key, q, size, key, whole // _GROUP)[0]
        if whole < size:
            total += _dot(query[whole:], carray(floats(key), (size,))[whole:])
        scores[s] = total


@njit
def part(job, share, shares):
    """Every `shares`-th of B * K heads of keys, from the `share`-th on.

    The job: addresses of q (B, H, L, E), k, v, out (B, L, H, F) and of room for scores; B, H, K, L,
    S, E, F; bytes between two keys' heads and two keys; the same of values; scale in float32's
    bits; address of which keys each query sees (L, S) bytes, or 0; whether it sees those after its
    own, which is the S-th key for the last one.
    """
    B, H, K, L, S, E, F = job[5], job[6], job[7], job[8], job[9], job[10], job[11]
    scale = np.int32(job[16]).view(np.float32)
    for head in range(share, B * K, shares):
        keys, values = job[1] + head * job[12], job[2] + head * job[14]
        for i in range(H // K * L):
            query, at = head * (H // K) + i // L, i % L
            end = S if job[18] else S - L + at + 1
            scores = carray(floats(job[4] + head * S * 4), (end,))
            _compare(job[0] + (query * L + at) * E * 4, keys, job[13], E, scores)
            if job[17]:
                seen = carray(octets(job[17] + at * S), (end,))
                for s in range(end):
                    if seen[s] == 0:
                        scores[s] = -np.inf
            share_out(scores, scale)
            place = ((query // H * L + at) * H + query % H) * F * 4
            _mix(scores, values, job[15], carray(floats(job[3] + place), (F,)))
