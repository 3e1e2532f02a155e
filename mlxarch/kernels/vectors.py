"""The code that multiplies a row, in vectors that LLVM makes registers of for any CPU.

Numba's loops would leave half the speed: they add the lanes of a vector up after every group. Here
each group's lanes are added to the row's, times its scale, and these are summed up once. What is
unpacked is shared by up to four rows of x, each of which is treated as if it were alone: however
many there are, their products are the same to the bit.

A packed row is MLX's: numbers of 2 to 8 bits one after another, each from its low end, in groups
that share a scale and, where they are affine, a bias.   Source: mlx/backend/cpu/quantized.cpp.
"""

from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Numbers that are taken at once: 16 floats are one register of AVX-512, two of AVX, four of NEON.
LANES = 16
# The formats: mode, bits of a number, numbers of a group.
FORMS = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FORMS += [("mxfp4", 4, 32), ("float", 32, 32)]

_BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _INTS, FLOATS = (ir.VectorType(kind, LANES) for kind in (_BYTE, _INT, _FLOAT))
_ZEROS = ir.Constant(FLOATS, [0.0] * LANES)


def stride(form: int) -> int:
    """How far numbers are apart that lie in neighbouring lanes, for all bits of a lane are used."""
    mode, bits, group = FORMS[form]
    if mode != "affine":
        return {"mxfp4": 2, "float": 1}[mode]
    if bits in (4, 8):
        return {4: group // LANES, 8: 1}[bits]
    # Seven of the 32 bits that a lane is loaded as may be its neighbour's.
    return min(group // LANES, 24 // bits)


def add_product(builder, factor, other, total):
    """Code of factor * other + total, rounded once where the CPU can."""
    product = builder.fmul(factor, other, flags=("contract",))
    return builder.fadd(product, total, flags=("contract",))


def splat(builder, value):
    """Code of a float in all lanes."""
    one = builder.insert_element(FLOATS(ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(one, one, _INTS([0] * LANES))


@intrinsic(prefer_literal=True)
def _dots(typing, form, rows, weight, scales, biases, x, columns, sums, groups):
    """One row of a matrix times the first `rows` rows of x.

    Args:
        form, rows: Literals: a number of FORMS; 1, 2 or 4.
        weight, scales, biases: Addresses of the row, of its groups' scales and biases. Those of
            mxfp4 are bytes without biases, floats have neither.
        x, columns: Address of rows (rows, columns) float32, with numbers a `stride` apart together.
        sums: Address of the sums of x over groups (rows, groups) float32, where there are biases.
        groups: How many groups a row has.

    Returns: `rows` float32.
    """
    count = rows.literal_value
    signature = types.UniTuple(types.float32, count)(
        form, rows, *(types.uintp,) * 4, types.intp, types.uintp, types.intp
    )

    def generate(context, builder, signature, arguments):
        code = _Code(builder, form.literal_value, count, *arguments[2:])
        return context.make_tuple(builder, signature.return_type, code.dots())

    return signature, generate


# As numba's functions call it: without its first argument.
dots = cast(Any, _dots)


class _Code:
    """Writes the code of one `_dots`."""

    def __init__(self, builder, form, rows, weight, scales, biases, x, columns, sums, groups):
        self.builder, self.rows = builder, range(rows)
        self.mode, self.bits, self.group = FORMS[form]
        self.stride = stride(form)
        self.columns, self.groups = columns, groups
        scale = _BYTE if self.mode == "mxfp4" else _FLOAT
        self.weight, self.scales = self._pointer(weight, _BYTE), self._pointer(scales, scale)
        self.biases, self.x, self.sums = (self._pointer(p, _FLOAT) for p in (biases, x, sums))

    def dots(self):
        """A loop over groups; then each row's lanes are added."""
        build, zeros = self.builder, [_ZEROS for _ in self.rows]
        start, loop, end = build.block, build.append_basic_block(), build.append_basic_block()
        build.branch(loop)

        build.position_at_end(loop)
        group, lanes = build.phi(_LONG), [build.phi(FLOATS) for _ in self.rows]
        offsets = [build.phi(_FLOAT) for _ in self.rows]  # what biases add
        if self.mode == "float":
            totals, shifted = self._group(group, lanes), offsets
        else:
            scale = self._scale(group)
            sums, factor = self._group(group, zeros), splat(self.builder, scale)
            totals = [self._add(factor, *pair) for pair in zip(sums, lanes, strict=True)]
            shifted = [self._offset(group, scale, row, offsets[row]) for row in self.rows]
        after = build.add(group, _LONG(1))
        build.cbranch(build.icmp_signed("<", after, self.groups), loop, end)
        firsts = [_LONG(0), *zeros, *[_FLOAT(0.0) for _ in self.rows]]
        phis, nexts = [group, *lanes, *offsets], [after, *totals, *shifted]
        for phi, first, following in zip(phis, firsts, nexts, strict=True):
            phi.add_incoming(first, start)
            phi.add_incoming(following, loop)

        build.position_at_end(end)
        return [self._sum(*pair) for pair in zip(shifted, totals, strict=True)]

    def _group(self, group, sums):
        """The sums of lanes of each row, with what a group adds to them."""
        build, size = self.builder, self.group * self.bits // 8
        first, sums = build.mul(group, _LONG(self.group)), list(sums)
        for part, numbers in enumerate(self._numbers(build.mul(group, _LONG(size)))):
            for row in self.rows:
                column = build.add(first, build.mul(self.columns, _LONG(row)))
                column = build.add(column, _LONG(part * LANES))
                sums[row] = self._add(numbers, self._load(self.x, column, FLOATS), sums[row])
        return sums

    def _numbers(self, at):
        """The group whose bytes begin at `at`, as vectors of floats."""
        if self.mode == "mxfp4":
            packed = self._load(self.weight, at, _BYTES)
            halves = packed, self.builder.lshr(packed, _BYTES([4] * LANES))
            return [self._floats(self._halves(half)) for half in halves]
        if self.mode == "affine" and self.bits < 8:
            return self._nibbles(at) if self.bits == 4 else self._strewn(at)
        kind = FLOATS if self.mode == "float" else _BYTES
        size = LANES * self.bits // 8
        places = (self.builder.add(at, _LONG(i * size)) for i in range(self.group // LANES))
        loaded = [self._load(self.weight, place, kind) for place in places]
        return loaded if self.mode == "float" else [self._floats(numbers) for numbers in loaded]

    def _nibbles(self, at):
        """Numbers of 4 bits, as `_middled` gives them."""
        width = self.group * 4 // LANES
        loaded = self._load(self.weight, at, ir.VectorType(ir.IntType(width), LANES))
        loaded = loaded if width == 32 else self.builder.zext(loaded, _INTS)
        return [self._middled(loaded, place) for place in range(0, width, 4)]

    def _strewn(self, at):
        """Numbers of 2, 3, 5 or 6 bits, as `_middled` gives them: a lane begins within a byte.

        Each four lanes are a shuffle of the bytes that have theirs, and none beyond the group.
        """
        build, width = self.builder, self.bits * self.stride
        size, parts = LANES * width // 8, []
        kind = ir.VectorType(_BYTE, min(LANES, size // 8 * 8))
        for part in range(0, self.group * self.bits // 8, size):
            fours = []
            for lane in range(0, LANES, 4):
                begin = min(lane * width // 8, size - kind.count)
                loaded = self._load(self.weight, build.add(at, _LONG(part + begin)), kind)
                firsts = [i * width // 8 - begin for i in range(lane, lane + 4)]
                # A byte that the group does not have is one of zeros.
                bytes_ = [min(first + i, kind.count) for first in firsts for i in range(4)]
                places = ir.Constant(ir.VectorType(_INT, LANES), bytes_)
                fours.append(build.shuffle_vector(loaded, kind([0] * kind.count), places))
            loaded = build.bitcast(self._joined(fours), _INTS)
            if any(ahead := [lane * width % 8 for lane in range(LANES)]):
                loaded = build.lshr(loaded, _INTS(ahead))
            parts += [self._middled(loaded, place) for place in range(0, width, self.bits)]
        return parts

    def _joined(self, vectors):
        """Vectors of one size, a power of two of them, as one."""
        while len(vectors) > 1:
            places = list(range(2 * vectors[0].type.count))
            mask = ir.Constant(ir.VectorType(_INT, len(places)), places)
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.builder.shuffle_vector(*pair, mask) for pair in pairs]
        return vectors[0]

    def _middled(self, loaded, place):
        """Numbers n at a place of each lane's bits -> n / 2^bits - 1/2.

        1 + n / 2^bits is quick to write into a float. About zero, because what lies to one side of
        it is mostly taken off again by the bias.
        """
        build, top = self.builder, 23 - self.bits
        if place <= top:
            moved = build.shl(loaded, _INTS([top - place] * LANES))
        else:
            moved = build.lshr(loaded, _INTS([place - top] * LANES))
        bits = build.and_(moved, _INTS([(1 << 23) - (1 << top)] * LANES))
        one = build.or_(bits, _INTS([127 << 23] * LANES))
        middle = ir.Constant(FLOATS, [1.5] * LANES)
        return build.fsub(build.bitcast(one, FLOATS), middle)

    def _halves(self, codes):
        """E2M1 codes in the low bits (LANES,) -> twice their values, signed bytes.

        Source: OCP Microscaling Formats 1.0, section 5.3.3. Twice 0, 1/2, 1, 3/2, 2, 3, 4, 6 is m
        for m up to 4, one more for each step from there to 6, and three more a step after that.
        """
        build = self.builder
        size = build.and_(codes, _BYTES([7] * LANES))
        twice = build.add(self._most(size, 6), self._most(size, 6))
        value = build.add(build.add(size, self._most(size, 4)), twice)
        value = build.sub(value, _BYTES([16] * LANES))
        sign = build.and_(codes, _BYTES([8] * LANES))
        positive = build.icmp_unsigned("==", sign, _BYTES([0] * LANES))
        return build.select(positive, value, build.neg(value))

    def _most(self, numbers, least):
        bound = _BYTES([least] * LANES)
        return self.builder.select(self.builder.icmp_unsigned(">", numbers, bound), numbers, bound)

    def _scale(self, group):
        """The float that what `_numbers` gives is multiplied by."""
        build = self.builder
        scale = build.load(build.gep(self.scales, [group]))
        if self.mode != "mxfp4":
            return build.fmul(scale, _FLOAT(2.0**self.bits)) if self.bits < 8 else scale
        # E8M0 is the exponent of a float; the least one would be zero there, and is half the next.
        bits = build.shl(build.zext(scale, _INT), _INT(23))
        bits = build.select(build.icmp_unsigned("==", bits, _INT(0)), _INT(1 << 22), bits)
        return build.fmul(build.bitcast(bits, _FLOAT), _FLOAT(0.5))

    def _offset(self, group, scale, row, offset):
        """What the biases of a row add, this group's included."""
        if self.mode == "mxfp4":
            return offset
        build = self.builder
        at = build.add(group, build.mul(self.groups, _LONG(row)))
        bias = build.load(build.gep(self.biases, [group]))
        # What the middle of the numbers is worth: 8 of 16, 32 of 64, 128 of 256.
        middle = _FLOAT(0.5 if self.bits < 8 else 128.0)
        bias = self._add(middle, scale, bias)
        return self._add(bias, build.load(build.gep(self.sums, [at])), offset)

    def _floats(self, numbers):
        """Bytes (LANES,) -> floats (LANES,), of numbers n of 8 bits n - 128."""
        if self.mode == "affine":
            numbers = self.builder.xor(numbers, _BYTES([128] * LANES))
        return self.builder.sitofp(self.builder.sext(numbers, _INTS), FLOATS)

    def _add(self, factor, other, total):
        return add_product(self.builder, factor, other, total)

    def _sum(self, start, lanes):
        """The sum of a float and all lanes."""
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        kind = ir.FunctionType(_FLOAT, [_FLOAT, FLOATS])
        known = self.builder.module.globals.get(name)
        function = known or ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, [start, lanes], fastmath=("reassoc",))

    def _load(self, pointer, index, kind):
        """A vector from an address of any alignment, `index` elements of its own on."""
        place = self.builder.bitcast(self.builder.gep(pointer, [index]), kind.as_pointer())
        loaded = self.builder.load(place)
        loaded.align = 4 if pointer is self.x else 1
        return loaded

    def _pointer(self, address, kind):
        return self.builder.inttoptr(address, kind.as_pointer())
