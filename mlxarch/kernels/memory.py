"""Memory by its address, and what threads need to share it: atomic words and semaphores."""

from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _seen_as(kind, numbers):
    """An address as `numba.carray` takes it, of such numbers."""

    @intrinsic
    def seen(typing, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], kind.as_pointer())

        return types.CPointer(numbers)(types.uintp), generate

    return cast(Any, seen)


def _at_once(change):
    """Change a word by a number in one step; what it was before."""

    @intrinsic
    def changed(typing, address, number):
        def generate(context, builder, signature, arguments):
            place = builder.inttoptr(arguments[0], _WORD.as_pointer())
            return builder.atomic_rmw(change, place, arguments[1], "seq_cst")

        return types.int64(types.uintp, types.int64), generate

    return cast(Any, changed)


floats = _seen_as(ir.FloatType(), types.float32)
words = _seen_as(_WORD, types.int64)
octets = _seen_as(ir.IntType(8), types.uint8)
add, swap = _at_once("add"), _at_once("xchg")


@intrinsic
def _look(typing, address):
    """A word that another thread may just have written."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.uintp), generate


def _words_to_c(context, builder, signature, arguments):
    """Code that calls what lies at an address: a C function of words."""
    function, *words = arguments
    kind = ir.FunctionType(ir.VoidType(), [_WORD] * len(words))
    builder.call(builder.inttoptr(function, kind.as_pointer()), words)
    return context.get_dummy_value()


@intrinsic
def _call(typing, function, word):
    """Call a C function of one word."""
    return types.void(types.uintp, types.uintp), _words_to_c


@intrinsic
def _call_with(typing, function, first, second, third):
    """Call a C function of three words."""
    return types.void(types.uintp, types.uintp, types.int64, types.int64), _words_to_c


# As numba's functions call them: without their first argument.
look, call, call_with = cast(Any, _look), cast(Any, _call), cast(Any, _call_with)
wait = types.ExternalFunction("sem_wait", types.int32(types.uintp))
post = types.ExternalFunction("sem_post", types.int32(types.uintp))
give_way = types.ExternalFunction("sched_yield", types.int32())
init = types.ExternalFunction("sem_init", types.int32(types.uintp, types.int32, types.uint32))
