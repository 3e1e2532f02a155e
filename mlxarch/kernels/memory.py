"""Memory by its address, and what threads need to share it: atomic words and semaphores."""

from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


@intrinsic
def _floats(typing, address):
    """An address as `numba.carray` takes it: of float32."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.uintp), generate


@intrinsic
def _words(typing, address):
    """An address as `numba.carray` takes it: of int64."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], _WORD.as_pointer())

    return types.CPointer(types.int64)(types.uintp), generate


@intrinsic
def _octets(typing, address):
    """An address as `numba.carray` takes it: of bytes."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.uintp), generate


@intrinsic
def _add(typing, address, number):
    """Add to a word, as one step; what it was before."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.uintp, types.int64), generate


@intrinsic
def _swap(typing, address, number):
    """Put a number into a word, as one step; what it was before."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("xchg", place, arguments[1], "seq_cst")

    return types.int64(types.uintp, types.int64), generate


@intrinsic
def _look(typing, address):
    """A word that another thread may just have written."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.uintp), generate


@intrinsic
def _call(typing, function, argument):
    """Call what lies at an address: a C function of an address."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_WORD])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


# As numba's functions call them: without their first argument.
floats, words, octets = cast(Any, _floats), cast(Any, _words), cast(Any, _octets)
add, swap, look, call = (cast(Any, f) for f in (_add, _swap, _look, _call))
wait = types.ExternalFunction("sem_wait", types.int32(types.uintp))
post = types.ExternalFunction("sem_post", types.int32(types.uintp))
give_way = types.ExternalFunction("sched_yield", types.int32())
init = types.ExternalFunction("sem_init", types.int32(types.uintp, types.int32, types.uint32))
