"""Products of few rows with packed matrices, by all cores.

Source of the format: see vectors.py.
"""

import os

import numpy as np
from numba import njit, prange

from .vectors import AFFINE4, AFFINE8, LANES, MXFP4, dots

# Numbers of a matrix that one thread is through with before a second one has begun.
_SMALL = 1 << 17
# Shares of larger work: as many to each of 1, 2, 3, 4, 5, 6, 8, 10 or 12 threads.
_PARTS = 120
# Where the threads are: a fork has none, and OpenMP ends one that asks for them.
_HOME = os.getpid()


def _span_of(form):
    """Compiles a span of the rows that segments ask for times their rows of x, for one format.

    Addresses and the bytes of a row are as `products` finds them.
    """

    @njit
    def span(begin, end, rows, weight, scales, biases, x, sums, groups, size, segments, out):
        columns = x[1] // 4
        for i in range(begin, end):
            matrix, t, last = segments[i // rows, 0], segments[i // rows, 1], segments[i // rows, 2]
            row, o = matrix * rows + i % rows, i % rows
            packed, scale = weight[0] + row * weight[1], scales[0] + row * scales[1]
            bias = biases[0] + row * biases[1]
            while t < last:
                place, total = x[0] + t * x[1], sums + t * groups * 4
                if last - t >= 4:
                    four = dots(form, 4, packed, scale, bias, place, columns, total, groups, size)
                    out[t, o], out[t + 1, o], out[t + 2, o], out[t + 3, o] = four
                    t += 4
                elif last - t >= 2:
                    two = dots(form, 2, packed, scale, bias, place, columns, total, groups, size)
                    out[t, o], out[t + 1, o] = two
                    t += 2
                else:
                    one = dots(form, 1, packed, scale, bias, place, columns, total, groups, size)
                    out[t, o] = one[0]
                    t += 1

    return span


_affine4, _affine8, _mxfp4 = _span_of(AFFINE4), _span_of(AFFINE8), _span_of(MXFP4)


@njit
def _span(form, *arguments):
    if form == AFFINE4:
        _affine4(*arguments)
    elif form == AFFINE8:
        _affine8(*arguments)
    else:
        _mxfp4(*arguments)


@njit
def lined_up(form, x, room):
    """Copies x (T, I) into room, in the order that `dots` wants; gives the address of its start.

    That is where vectors are loaded quickest: room is LANES longer than needed.
    """
    start = (-room.ctypes.data // 4) % LANES
    at = start
    for t in range(x.shape[0]):
        row = x[t]
        for first in range(0, row.size, 2 * LANES):
            for lane in range(LANES):
                even, odd = (lane, LANES + lane) if form == AFFINE8 else (2 * lane, 2 * lane + 1)
                room[at + lane] = row[first + even]
                room[at + LANES + lane] = row[first + odd]
            at += 2 * LANES
    return room.ctypes.data + start * 4


@njit(fastmath={"contract", "reassoc"})
def _add_up(x, group, sums):
    """x (T, I) -> the sums of its groups (T, G)."""
    for t in range(sums.shape[0]):
        for g in range(sums.shape[1]):
            part = x[t, g * group : (g + 1) * group]
            total = np.float32(0)
            for i in range(group):
                total += part[i]
            sums[t, g] = total


@njit(
    "void(int64, uint8[:,:,::1], uint8[:,:,::1], uint8[:,:,::1], int64,"
    " float32[:,::1], int64[:,::1], float32[::1], float32[:,::1], float32[:,::1], boolean)",
    parallel=True,
    cache=True,
)
def _products(form, weight, scales, biases, group, x, segments, room, sums, out, alone):
    _add_up(x, group, sums)
    lined, totals = (lined_up(form, x, room), x.shape[1] * 4), sums.ctypes.data
    w = weight.ctypes.data, weight.shape[2]
    s = scales.ctypes.data, scales.shape[2]
    b = biases.ctypes.data, biases.shape[2]
    groups, size = sums.shape[1], group if form == AFFINE8 else group // 2
    rows, total = weight.shape[1], weight.shape[1] * segments.shape[0]
    if alone or total * x.shape[1] < _SMALL:
        _span(form, 0, total, rows, w, s, b, lined, totals, groups, size, segments, out)
        return
    for i in prange(_PARTS):
        begin, end = total * i // _PARTS, total * (i + 1) // _PARTS
        _span(form, begin, end, rows, w, s, b, lined, totals, groups, size, segments, out)


def products(form, weight, scales, biases, group, x, segments, out):
    """Rows of x times packed matrices; neighbouring rows take the same one.

    Args:
        form: AFFINE4, AFFINE8 or MXFP4.
        weight, scales, biases: Bytes of a stack (E, O, ...); MXFP4 ignores the biases.
        group: Numbers that share a scale.
        x: (T, I).
        segments: Lines of a matrix, the first row that is for it, and the row after the last.
        out: (T, O), filled where a segment is.
    """
    # Numba would free arrays of its own as soon as only their addresses are used.
    room = np.empty(x.size + LANES, np.float32)
    sums = np.empty((len(x), x.shape[1] // group), np.float32)
    alone = os.getpid() != _HOME
    _products(form, weight, scales, biases, group, x, segments, room, sums, out, alone)
