"""Products of few rows with matrices of any format of vectors.py.

A table has a line for each matrix: the addresses of its rows, scales and biases, the bytes of each
of a row's, its outputs, the first row of x that is for it, the row after the last, and the column
of the results where its own begin.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, njit

from .keeping import kept
from .memory import floats, words
from .vectors import FORMS, LANES, dots

LINE = 10  # numbers of a table's line
_PART = "void(uintp, int64, int64)"


@cache
@kept()
def part(form: int) -> Any:
    """A C function for one format, compiled when it is first asked for: a model has few of them.

    It does one of so many equal shares of a job, which is at an address: (what is called,) address
    of a table, its lines, outputs of all, address of what `line_up` makes of x, its columns,
    address of what `add_up` makes of it, address of the results, their width, how many there are.
    """
    group = FORMS[form][2]

    # Numba keeps what closes over numbers alone: so all of it is one function.
    def part(at_job, share, shares):
        job = carray(words(at_job), (10,))
        outputs, x, columns, sums, width = job[3], job[4], job[5], job[6], job[8]
        table = carray(words(job[1]), (job[2], LINE))
        out = carray(floats(job[7]), (job[9],))
        begin, end = outputs * share // shares, outputs * (share + 1) // shares
        groups, before = columns // group, 0
        for line in range(table.shape[0]):
            after = before + table[line, 6]
            for o in range(max(begin - before, 0), min(end, after) - before):
                w = table[line, 0] + o * table[line, 3]
                s, b = table[line, 1] + o * table[line, 4], table[line, 2] + o * table[line, 5]
                t, last = table[line, 7], table[line, 8]
                while t < last:
                    place, total = x + t * columns * 4, sums + t * groups * 4
                    at = t * width + table[line, 9] + o
                    if last - t >= 4:
                        four = dots(form, 4, w, s, b, place, columns, total, groups)
                        out[at], out[at + width] = four[0], four[1]
                        out[at + 2 * width], out[at + 3 * width] = four[2], four[3]
                    elif last - t == 3:
                        three = dots(form, 3, w, s, b, place, columns, total, groups)
                        out[at], out[at + width], out[at + 2 * width] = three
                    elif last - t == 2:
                        two = dots(form, 2, w, s, b, place, columns, total, groups)
                        out[at], out[at + width] = two
                    else:
                        one = dots(form, 1, w, s, b, place, columns, total, groups)
                        out[at] = one[0]
                    t += 4
            before = after

    try:
        return cfunc(_PART, cache=True)(part)
    except OSError:  # the disk is full, say
        return cfunc(_PART)(part)


@njit
def line_up(x, stride, room):
    """Copies x (T, I) into room, in the order that `dots` wants; gives the address of its start.

    That is where vectors are loaded quickest: room is LANES longer than needed.
    """
    start = (-room.ctypes.data // 4) % LANES
    at = start
    for t in range(x.shape[0]):
        row = x[t]
        for first in range(0, row.size, LANES * stride):
            for place in range(stride):
                for lane in range(LANES):
                    room[at + lane] = row[first + stride * lane + place]
                at += LANES
    return room.ctypes.data + start * 4


@njit(fastmath={"contract", "reassoc"})
def add_up(x, group, sums):
    """x (T, I) -> the sums of its groups (T, G)."""
    for t in range(sums.shape[0]):
        for g in range(sums.shape[1]):
            part = x[t, g * group : (g + 1) * group]
            total = np.float32(0)
            for i in range(group):
                total += part[i]
            sums[t, g] = total
