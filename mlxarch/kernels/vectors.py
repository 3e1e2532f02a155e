"""The code that multiplies a packed row, in vectors that LLVM makes registers of for any CPU.

Numba's loops would leave half the speed: they add the lanes of a vector up after every group. Here
each group's lanes are added to the row's, times its scale, and these are summed up once. What is
unpacked is shared by up to four rows of x, each of which is treated as if it were alone: however
many there are, their products are the same to the bit.

A packed row is MLX's: numbers of 4 or 8 bits from the low end of each byte, in groups that share a
scale and, where they are affine, a bias.   Source: mlx/backend/cpu/quantized.cpp.
"""

from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Numbers that are taken at once: 16 floats are one register of AVX-512, two of AVX, four of NEON.
LANES = 16
# The formats. The numbers of a 4-bit one lie two in a byte, so x is wanted even ones first, then
# odd ones, in every 2 * LANES: see `packed.lined_up`.
AFFINE4, AFFINE8, MXFP4 = range(3)

_BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _INTS, _FLOATS = (ir.VectorType(kind, LANES) for kind in (_BYTE, _INT, _FLOAT))
_ZEROS = ir.Constant(_FLOATS, [0.0] * LANES)


@intrinsic(prefer_literal=True)
def _dots(typing, form, rows, weight, scales, biases, x, columns, sums, groups, size):
    """One packed row times the first `rows` rows of x.

    Args:
        form, rows: Literals: one of the formats; 1, 2 or 4.
        weight, scales, biases: Addresses of the packed row, of its groups' scales and biases. Of
            MXFP4 the scales are bytes, and biases are not looked at.
        x, columns: Address of rows (rows, columns) float32, lined up.
        sums: Address of the sums of x over groups (rows, groups) float32.
        groups, size: How many groups a row has, and the bytes of one: a multiple of LANES.

    Returns: `rows` float32.
    """
    count = rows.literal_value
    signature = types.UniTuple(types.float32, count)(
        form, rows, *(types.uintp,) * 4, types.intp, types.uintp, types.intp, types.intp
    )

    def generate(context, builder, signature, arguments):
        code = _Code(builder, form.literal_value, count, *arguments[2:])
        return context.make_tuple(builder, signature.return_type, code.dots())

    return signature, generate


# As numba's functions call it: without its first argument.
dots = cast(Any, _dots)


class _Code:
    """Writes the code of one `_dots`."""

    def __init__(self, builder, form, rows, weight, scales, biases, x, columns, sums, groups, size):
        self.builder, self.form, self.rows = builder, form, rows
        self.columns, self.groups, self.size = columns, groups, size
        scale = _BYTE if form == MXFP4 else _FLOAT
        self.weight, self.scales = self._pointer(weight, _BYTE), self._pointer(scales, scale)
        self.biases, self.x, self.sums = (self._pointer(p, _FLOAT) for p in (biases, x, sums))

    def dots(self):
        """A loop over groups around a loop over their bytes; then each row's lanes are added."""
        build, rows, zeros = self.builder, range(self.rows), [_ZEROS] * self.rows
        start = build.block
        group_loop, byte_loop, group_end, end = (build.append_basic_block() for _ in range(4))
        build.branch(group_loop)

        build.position_at_end(group_loop)
        group, lanes = build.phi(_LONG), [build.phi(_FLOATS) for _ in rows]
        offsets = [build.phi(_FLOAT) for _ in rows]  # what biases add
        first = build.mul(group, self.size)
        last = build.add(first, self.size)
        build.branch(byte_loop)

        build.position_at_end(byte_loop)
        at, parts = build.phi(_LONG), [build.phi(_FLOATS) for _ in rows]
        sums = self._step(at, parts)
        following = build.add(at, _LONG(LANES))
        build.cbranch(build.icmp_signed("<", following, last), byte_loop, group_end)
        for phi, once, then in [(at, first, following), *zip(parts, zeros, sums, strict=True)]:
            phi.add_incoming(once, group_loop)
            phi.add_incoming(then, byte_loop)

        build.position_at_end(group_end)
        scale = self._splat(self._scale(group))
        totals = [self._add(scale, new, old) for new, old in zip(sums, lanes, strict=True)]
        shifted = [self._offset(group, row, offsets[row]) for row in rows]
        after = build.add(group, _LONG(1))
        build.cbranch(build.icmp_signed("<", after, self.groups), group_loop, end)
        firsts = [_LONG(0), *zeros, *[_FLOAT(0.0)] * self.rows]
        phis, nexts = [group, *lanes, *offsets], [after, *totals, *shifted]
        for phi, once, then in zip(phis, firsts, nexts, strict=True):
            phi.add_incoming(once, start)
            phi.add_incoming(then, group_end)

        build.position_at_end(end)
        return [self._sum(*pair) for pair in zip(shifted, totals, strict=True)]

    def _step(self, at, sums):
        """The sums of lanes, with what LANES bytes from `at` on add to them."""
        parts = self._unpacked(self._load(self.weight, at, _BYTES))
        for part, numbers in enumerate(parts):
            for row in range(self.rows):
                column = self.builder.mul(at, _LONG(len(parts)))
                column = self.builder.add(column, _LONG(part * LANES))
                column = self.builder.add(column, self.builder.mul(self.columns, _LONG(row)))
                x = self._load(self.x, column, _FLOATS)
                sums = [*sums[:row], self._add(numbers, x, sums[row]), *sums[row + 1 :]]
        return sums

    def _unpacked(self, packed):
        """Bytes (LANES,) -> vectors of floats: of two, the low numbers and the high ones."""
        if self.form == AFFINE8:
            return [self._floats(packed)]
        high = self.builder.lshr(packed, _BYTES([4] * LANES))
        low = self.builder.and_(packed, _BYTES([15] * LANES))
        if self.form == MXFP4:
            low, high = self._halves(low), self._halves(high)
        return [self._floats(low), self._floats(high)]

    def _halves(self, codes):
        """E2M1 codes (LANES,) -> twice their values, signed bytes.

        Source: OCP Microscaling Formats 1.0, section 5.3.3. Twice 0, 1/2, 1, 3/2, 2, 3, 4, 6 is m
        for m up to 4, one more for each step from there to 6, and three more a step after that.
        """
        build = self.builder
        size = build.and_(codes, _BYTES([7] * LANES))
        twice = build.add(self._most(size, 6), self._most(size, 6))
        value = build.add(build.add(size, self._most(size, 4)), twice)
        value = build.sub(value, _BYTES([16] * LANES))
        positive = build.icmp_unsigned("<", codes, _BYTES([8] * LANES))
        return build.select(positive, value, build.neg(value))

    def _most(self, numbers, least):
        bound = _BYTES([least] * LANES)
        return self.builder.select(self.builder.icmp_unsigned(">", numbers, bound), numbers, bound)

    def _scale(self, group):
        """The float that a group's numbers are multiplied by."""
        build = self.builder
        scale = build.load(build.gep(self.scales, [group]))
        if self.form != MXFP4:
            return scale
        # E8M0 is the exponent of a float; the least one would be zero there, and is half the next.
        bits = build.shl(build.zext(scale, _INT), _INT(23))
        bits = build.select(build.icmp_unsigned("==", bits, _INT(0)), _INT(1 << 22), bits)
        return build.fmul(build.bitcast(bits, _FLOAT), _FLOAT(0.5))

    def _offset(self, group, row, offset):
        """What the biases of a row add, this group's included."""
        if self.form == MXFP4:
            return offset
        build = self.builder
        at = build.add(group, build.mul(self.groups, _LONG(row)))
        sums, bias = build.load(build.gep(self.sums, [at])), self.builder.gep(self.biases, [group])
        return self._add(build.load(bias), sums, offset)

    def _floats(self, numbers):
        """Bytes (LANES,) -> floats (LANES,)."""
        widen = self.builder.sext if self.form == MXFP4 else self.builder.zext
        return self.builder.sitofp(widen(numbers, _INTS), _FLOATS)

    def _add(self, factor, other, total):
        """factor * other + total, rounded once where the CPU can."""
        product = self.builder.fmul(factor, other, flags=("contract",))
        return self.builder.fadd(product, total, flags=("contract",))

    def _sum(self, start, lanes):
        """The sum of a float and all lanes."""
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS])
        known = self.builder.module.globals.get(name)
        function = known or ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, [start, lanes], fastmath=("reassoc",))

    def _splat(self, value):
        """A float in all lanes."""
        one = self.builder.insert_element(_FLOATS(ir.Undefined), value, _INT(0))
        return self.builder.shuffle_vector(one, one, _INTS([0] * LANES))

    def _load(self, pointer, index, kind):
        """A vector from any address of its elements."""
        place = self.builder.bitcast(self.builder.gep(pointer, [index]), kind.as_pointer())
        loaded = self.builder.load(place)
        loaded.align = 1 if kind is _BYTES else 4
        return loaded

    def _pointer(self, address, kind):
        return self.builder.inttoptr(address, kind.as_pointer())
