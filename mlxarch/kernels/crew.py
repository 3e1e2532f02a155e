"""Jobs that all cores share, with threads of our own.

Whoever has a job puts it on the board and begins with it at once. Helpers that are awake, or wake
up, take shares of it as long as there are any; nobody waits for one that has not begun, so a busy
machine or a forked process, which has no helpers, costs nothing but their help.
"""

from threading import Thread

import numpy as np
from numba import carray, cfunc, njit

from mlxarch import backend

from . import heads, packed
from .memory import add, call, call_with, give_way, init, look, post, swap, wait, words
from .vectors import FORMS, LANES, stride

# Multiplications from which on a second thread is worth waking.
_LARGE = 1 << 17
# How often a helper looks for another job, giving way each time, before it sleeps.
_LOOKS = 50
# Words of the board, those that threads fight for on cache lines of their own: shares that are left
# and not done, helpers that sleep, a semaphore for these, the job and how many shares it has.
_UNDONE, _ASLEEP, _BELL, _SHARES, _KIND, _WORK, _JOB = 8, 16, 24, 32, 33, 34, 35
_board = np.zeros(64, dtype=np.int64)


# A C function, so that it is compiled once for all that call it.
@cfunc("void(uintp)", cache=True)
def _work(place):
    """Take shares of the job on the board, which is at an address, until there are none."""
    board, undone = carray(words(place), (64,)), place + _UNDONE * 8
    job = board[_JOB:]
    while look(place) > 0:
        share = add(place, -1) - 1
        if share < 0:
            return
        if board[_KIND]:
            heads.part(job, share, board[_SHARES])
        else:
            call_with(job[0], place + _JOB * 8, share, board[_SHARES])
        add(undone, -1)


@njit("void(int64[::1])", nogil=True, cache=True)
def _help(board):
    """What a helper does, for ever."""
    left = board.ctypes.data
    asleep, bell = left + 8 * _ASLEEP, left + 8 * _BELL
    while True:
        call(board[_WORK], left)
        looks = 0
        while look(left) <= 0 and looks < _LOOKS:
            give_way()
            looks += 1
        if look(left) <= 0:
            add(asleep, 1)
            if look(left) <= 0:
                wait(bell)


@njit
def _share(board, kind, shares):
    """Have the job on the board done in so many shares; a small one, of none, by us alone."""
    place = board.ctypes.data
    board[_KIND], board[_SHARES] = kind, max(shares, 1)
    swap(place + _UNDONE * 8, board[_SHARES])
    swap(place, board[_SHARES])
    if shares > 1:
        for _ in range(swap(place + _ASLEEP * 8, 0)):
            post(place + _BELL * 8)
    call(board[_WORK], place)
    while look(place + _UNDONE * 8) > 0:
        give_way()


@njit(
    "void(int64[::1], int64, int64[:,::1], float32[:,::1], int64, int64, float32[::1],"
    " float32[:,::1], float32[:,::1])",
    cache=True,
)
def _products(board, part, table, x, group, stride, room, sums, out):
    if sums.size:
        packed.add_up(x, group, sums)
    lined, columns = packed.line_up(x, stride, room), x.shape[1]
    outputs = 0
    for line in range(len(table)):
        outputs += table[line, 6]
    job = board[_JOB:]
    job[0], job[1], job[2], job[3] = part, table.ctypes.data, len(table), outputs
    job[4], job[5], job[6] = lined, columns, sums.ctypes.data
    job[7], job[8], job[9] = out.ctypes.data, out.shape[1], out.size
    _share(board, 0, min(48, outputs * columns // _LARGE * 2))


def products(form: int, table: np.ndarray, x: np.ndarray, width: int) -> np.ndarray:
    """x (T, I) times the matrices of a table -> (T, width), filled where the table says so."""
    mode, _, group = FORMS[form]
    # Numba would free arrays of its own as soon as only their addresses are used.
    room = np.empty(x.size + LANES, np.float32)
    sums = np.empty((len(x), x.shape[1] // group if mode == "affine" else 0), np.float32)
    out = np.empty((len(x), width), np.float32)
    part = packed.part(form).address
    _products(_board, part, table, x, group, stride(form), room, sums, out)
    return out


def address(array: np.ndarray) -> int:
    """Where an array's numbers begin."""
    return array.__array_interface__["data"][0]


@njit("void(int64[::1], int64[::1], int64)", cache=True)
def _attend(board, numbers, work):
    job = board[_JOB:]
    job[: numbers.size] = numbers
    _share(board, 1, numbers[5] * numbers[7] if work >= _LARGE else 0)


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    causal: bool,
    seen: np.ndarray | None,
) -> np.ndarray:
    """Attention of queries (B, H, L, E) over keys (B, K, S, E) and values (B, K, S, F).

    Args:
        causal: The last query sees all keys, each one before it one fewer; else all see all.
        seen: Which of these they see (L, S), 0 or 1; None for all.

    Returns: (B, L, H, F).
    """
    (B, H, L, E), (_, K, S, F) = q.shape, v.shape
    out, room = np.empty((B, L, H, F), np.float32), np.empty((B * K, S), np.float32)
    bits = int(np.float32(scale).view(np.int32))
    ours = [q, k, v, out, room]
    numbers = [address(a) for a in ours]
    numbers += [B, H, K, L, S, E, F, *k.strides[1:3], *v.strides[1:3], bits]
    numbers += [0 if seen is None else address(seen), not causal]
    _attend(_board, np.array(numbers), H * L * S * (E + F) * B)
    return out


@njit("void(int64[::1])", cache=True)
def _begin(board):
    init(board.ctypes.data + _BELL * 8, 0, 0)


_board[_WORK] = _work.address
_begin(_board)
for _i in range(backend.cores() - 1):
    Thread(target=_help, args=(_board,), name=f"kernels {_i}", daemon=True).start()
