"""Products of many rows whose sums stay in registers until they are whole.

One factor is laid out in panels: some columns, row after row, filled up with zeros, in the order
in which they are multiplied. A row's product is the same to the bit whatever rows are beside it.

Shapes: n rows   M numbers of one, each of which has a row of a panel   W columns of a panel
"""

from typing import Any, cast

from llvmlite import binding, ir
from numba import carray, njit, types
from numba.extending import intrinsic

from .memory import floats
from .vectors import FLOATS, LANES, add_product, splat

# Rows at once, and vectors of each: as many sums as there are registers, but for a few. Registers
# that hold a whole vector are 32, narrower ones make up 16.
_ROWS = 6
_VECTORS = 4 if binding.get_host_cpu_features().get("avx512f") else 1
# Columns of a panel: of many, and of few.
WIDE, NARROW = _VECTORS * LANES, LANES

_LONG, _FLOAT = ir.IntType(64), ir.FloatType()


@intrinsic(prefer_literal=True)
def _add_rows(typing, rows, vectors, x, step, panel, size, out, width):
    """Adds the product of some rows and a panel to some rows.

    Args:
        rows, vectors: Literals: how many rows, and vectors of a panel's row.
        x, step: Address of the rows (rows, M), and numbers from one to the next.
        panel, size: Address of the panel (M, W), and M.
        out, width: Address of the sums (rows, W), and numbers from one row to the next.
    """
    signature = types.void(
        rows, vectors, types.uintp, types.intp, types.uintp, types.intp, types.uintp, types.intp
    )

    def generate(context, builder, signature, arguments):
        _code(builder, rows.literal_value, vectors.literal_value, *arguments[2:])
        return context.get_dummy_value()

    return signature, generate


def _code(build, rows, vectors, x, step, panel, size, out, width):
    x, panel, out = (build.inttoptr(each, _FLOAT.as_pointer()) for each in (x, panel, out))
    of_x = [build.gep(x, [build.mul(step, _LONG(row))]) for row in range(rows)]
    of_out = [build.gep(out, [build.mul(width, _LONG(row))]) for row in range(rows)]

    def place(row, vector):
        return build.bitcast(build.gep(row, [vector]), FLOATS.as_pointer())

    def load(row, vector):
        loaded = build.load(place(row, vector))
        loaded.align = 4
        return loaded

    columns = [_LONG(vector * LANES) for vector in range(vectors)]
    begun = [load(row, column) for row in of_out for column in columns]
    start, loop, end = build.block, build.append_basic_block(), build.append_basic_block()
    build.branch(loop)

    build.position_at_end(loop)
    i, sums = build.phi(_LONG), [build.phi(FLOATS) for _ in begun]
    first = build.mul(i, _LONG(vectors * LANES))
    factors = [load(panel, build.add(first, column)) for column in columns]
    totals = []
    for r, row in enumerate(of_x):
        number = splat(build, build.load(build.gep(row, [i])))
        its = sums[r * vectors : (r + 1) * vectors]
        totals += [add_product(build, number, *pair) for pair in zip(factors, its, strict=True)]
    after = build.add(i, _LONG(1))
    build.cbranch(build.icmp_signed("<", after, size), loop, end)
    for phi, one, following in zip([i, *sums], [_LONG(0), *begun], [after, *totals], strict=True):
        phi.add_incoming(one, start)
        phi.add_incoming(following, loop)

    build.position_at_end(end)
    for number, total in enumerate(totals):
        row, vector = divmod(number, vectors)
        build.store(total, place(of_out[row], columns[vector])).align = 4


# As numba's functions call it: without its first argument.
add_rows = cast(Any, _add_rows)


def _multiply_by(vectors):
    """Compiles `multiply` for panels of so many vectors."""

    @njit
    def multiply(n, x, step, panels, size, count, out, width):
        for p in range(count):
            panel, its = panels + 4 * p * size * vectors * LANES, out + 4 * p * vectors * LANES
            i = 0
            while i + _ROWS <= n:
                place = its + 4 * i * width
                add_rows(_ROWS, vectors, x + 4 * i * step, step, panel, size, place, width)
                i += _ROWS
            while i + 3 <= n:
                add_rows(
                    3, vectors, x + 4 * i * step, step, panel, size, its + 4 * i * width, width
                )
                i += 3
            while i < n:
                add_rows(
                    1, vectors, x + 4 * i * step, step, panel, size, its + 4 * i * width, width
                )
                i += 1

    return multiply


# Adds x (n, M) times panels (count, M, W) to out (n, count * W). The arguments: n; address of x and
# numbers from one of its rows to the next; address of the panels, M and their count; that of out.
multiply_wide, multiply_narrow = _multiply_by(_VECTORS), _multiply_by(1)


@njit
def lay_turned(place, step, count, size, panels):
    """Rows (count, size), whose transpose is the factor, as panels (count / W, size, WIDE).

    Args:
        place, step: Address of the rows, and bytes from one to the next.
        panels: Their address.
    """
    for p in range(-(-count // WIDE)):
        panel = carray(floats(panels + 4 * p * size * WIDE), (size, WIDE))
        first, used = place + p * WIDE * step, min(WIDE, count - p * WIDE)
        fours = used - used % 4
        for j in range(0, fours, 4):
            a = carray(floats(first + j * step), (size,))
            b = carray(floats(first + (j + 1) * step), (size,))
            c = carray(floats(first + (j + 2) * step), (size,))
            d = carray(floats(first + (j + 3) * step), (size,))
            for i in range(size):
                panel[i, j], panel[i, j + 1] = a[i], b[i]
                panel[i, j + 2], panel[i, j + 3] = c[i], d[i]
        for j in range(fours, used):
            panel[:, j] = carray(floats(first + j * step), (size,))
        panel[:, used:] = 0


@njit
def lay(place, step, count, size, width, panels):
    """Rows (count, size), which are the factor itself, as panels (size / width, count, width)."""
    whole = size // width
    for t in range(count):
        row = carray(floats(place + t * step), (size,))
        for p in range(whole):
            part = carray(floats(panels + 4 * (p * count + t) * width), (width,))
            for i in range(width):
                part[i] = row[p * width + i]
        if whole * width < size:
            part = carray(floats(panels + 4 * (whole * count + t) * width), (width,))
            part[: size - whole * width] = row[whole * width :]
            part[size - whole * width :] = 0
