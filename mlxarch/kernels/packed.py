"""Products of few rows with matrices of any format of vectors.py.

A table has a line for each matrix: the addresses of its rows, scales and biases, the bytes of each
of a row's, its outputs, the first row of x that is for it, the row after the last, and the column
of the results where its own begin.
"""

import numpy as np
from numba import carray, njit

from .memory import floats, words
from .vectors import FORMS, LANES, dots

LINE = 10  # numbers of a table's line


def _span_of(form):
    """Compiles a span of all outputs of a table, for one format.

    x and sums are addresses of what `line_up` and `add_up` make of x.
    """
    group = FORMS[form][2]

    @njit
    def span(begin, end, table, x, columns, sums, out, width):
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

    return span


_span0, _span1, _span2, _span3, _span4, _span5 = (_span_of(form) for form in range(6))
_span6, _span7, _span8, _span9, _span10 = (_span_of(form) for form in range(6, 11))


@njit
def span(form, *arguments):
    """`_span_of` for a format that is known only now."""
    if form == 0:
        _span0(*arguments)
    elif form == 1:
        _span1(*arguments)
    elif form == 2:
        _span2(*arguments)
    elif form == 3:
        _span3(*arguments)
    elif form == 4:
        _span4(*arguments)
    elif form == 5:
        _span5(*arguments)
    elif form == 6:
        _span6(*arguments)
    elif form == 7:
        _span7(*arguments)
    elif form == 8:
        _span8(*arguments)
    elif form == 9:
        _span9(*arguments)
    else:
        _span10(*arguments)


@njit
def part(job, share, shares):
    """One of so many equal shares of a job: form, table, lines, outputs of all, x ... as above."""
    form, lines, outputs, columns, width = job[0], job[2], job[3], job[5], job[8]
    table = carray(words(job[1]), (lines, LINE))
    out = carray(floats(job[7]), (job[9],))
    begin, end = outputs * share // shares, outputs * (share + 1) // shares
    span(form, begin, end, table, job[4], columns, job[6], out, width)


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
