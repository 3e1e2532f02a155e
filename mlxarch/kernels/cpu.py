"""Numba's part beside products: packed rows as floats, norm, RoPE, gates and softmax.

Arrays are numpy's and contiguous. Everything is compiled when its module is first imported, and
kept on the disk where numba may: in __pycache__, else in the user's cache. A division that may
raise an error keeps a loop from going lane by lane: loops with one ask for numpy's error model.

Shapes: T rows of x   I numbers of one   N heads   L queries   S keys   E head size
"""

import numpy as np
from numba import njit

from .vectors import FORMS

_MXFP4 = FORMS.index(("mxfp4", 4, 32))
_BITS = np.array([bits for _, bits, _ in FORMS])

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
_E2M1 = np.concatenate([_E2M1, -_E2M1])
_E8M0 = np.ldexp(np.float32(1), np.arange(-127, 128)).astype(np.float32)
_E8M0 = np.append(_E8M0, np.float32(np.nan))
_EXPF = 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1


@njit(fastmath={"contract"})
def _bytes_row(packed, steps, starts, group, out):
    for g in range(steps.size):
        codes, numbers = packed[g * group : (g + 1) * group], out[g * group : (g + 1) * group]
        step, start = steps[g], starts[g]
        for j in range(group):
            numbers[j] = np.float32(codes[j]) * step + start


def _row_of(bits):
    """Compiles what unpacks numbers of so many bits, eight of which are as many bytes."""

    @njit(fastmath={"contract"})
    def row(packed, steps, starts, group, out):
        for g in range(steps.size):
            codes, numbers = packed[g * group * bits // 8 :], out[g * group : (g + 1) * group]
            step, start = steps[g], starts[g]
            for j in range(group // 8):
                eight = np.int64(0)
                for i in range(bits):
                    eight |= np.int64(codes[bits * j + i]) << 8 * i
                for i in range(8):
                    code = np.int32(eight >> bits * i) & ((1 << bits) - 1)
                    numbers[8 * j + i] = np.float32(code) * step + start

    return row


_twos_row, _threes_row, _fives_row, _sixes_row = map(_row_of, (2, 3, 5, 6))


@njit(fastmath={"contract"})
def _nibbles_row(packed, steps, starts, half, out):
    for g in range(steps.size):
        codes, numbers = packed[g * half : (g + 1) * half], out[2 * g * half : 2 * (g + 1) * half]
        step, start = steps[g], starts[g]
        for j in range(half):
            pair = np.int32(codes[j])
            numbers[2 * j] = np.float32(pair & 15) * step + start
            numbers[2 * j + 1] = np.float32(pair >> 4) * step + start


@njit
def _mxfp4_row(packed, exponents, half, out):
    for g in range(exponents.size):
        codes, numbers = packed[g * half : (g + 1) * half], out[2 * g * half : 2 * (g + 1) * half]
        step = _E8M0[exponents[g]]
        for j in range(half):
            numbers[2 * j] = _E2M1[codes[j] & 15] * step
            numbers[2 * j + 1] = _E2M1[codes[j] >> 4] * step


@njit(
    "void(int64, uint8[:,:,::1], uint8[:,:,::1], uint8[:,:,::1], int64, int64, int64,"
    " float32[:,::1])",
    nogil=True,
    cache=True,
)
def unpack(form, weight, scales, biases, group, matrix, first, out):
    """Some rows of one matrix of a stack, `first` and on, as floats.

    Args:
        form: A number of `vectors.FORMS`, of a packed one with groups of size `group`.
        weight, scales, biases: Bytes of a stack (E, O, ...); mxfp4 ignores the biases.
        out: (rows wanted, I), filled.
    """
    for i in range(out.shape[0]):
        packed, scale = weight[matrix, first + i], scales[matrix, first + i]
        bias = biases[matrix, first + i]
        if form == _MXFP4:
            _mxfp4_row(packed, scale, group // 2, out[i])
            continue
        steps, starts, bits = scale.view(np.float32), bias.view(np.float32), _BITS[form]
        if bits == 2:
            _twos_row(packed, steps, starts, group, out[i])
        elif bits == 3:
            _threes_row(packed, steps, starts, group, out[i])
        elif bits == 4:
            _nibbles_row(packed, steps, starts, group // 2, out[i])
        elif bits == 5:
            _fives_row(packed, steps, starts, group, out[i])
        elif bits == 6:
            _sixes_row(packed, steps, starts, group, out[i])
        else:
            _bytes_row(packed, steps, starts, group, out[i])


@njit(
    "void(float32[:,::1], float32[::1], float32, float32[:,::1])",
    fastmath={"contract", "reassoc"},
    cache=True,
)
def rms_norm(x, weight, eps, out):
    """x (T, I) over the root of its mean square, times weight (I,); into out."""
    for t in range(x.shape[0]):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[t, i] * x[t, i]
        factor = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[t, i] = x[t, i] * factor * weight[i]


@njit("void(float32[:,:,::1], int64, float32[::1], float32, boolean, float32[:,:,::1])", cache=True)
def rotate(x, start, periods, magnitude, interleaved, out):
    """x (N, L, E), at positions start, start + 1 ..., with its first features rotated; into out."""
    pairs = periods.size
    cos, sin = np.empty(pairs, np.float32), np.empty(pairs, np.float32)
    for at in range(x.shape[1]):
        for i in range(pairs):
            angle = np.float32(start + at) * (np.float32(1) / periods[i])
            cos[i], sin[i] = np.cos(angle) * magnitude, np.sin(angle) * magnitude
        for n in range(x.shape[0]):
            old, new = x[n, at], out[n, at]
            new[2 * pairs :] = old[2 * pairs :]
            for i in range(pairs):
                a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + pairs)
                new[a] = old[a] * cos[i] - old[b] * sin[i]
                new[b] = old[a] * sin[i] + old[b] * cos[i]


@njit(fastmath={"contract"})
def exp_of(x):
    """e to the x <= 0, to the last digit or two, in steps that go lane by lane.

    Source: Cephes, expf.c: 2 to a whole number times a polynomial within half a power of two.
    """
    least = np.float32(-87)
    low = x < least
    x = least if low else x
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    x = x - whole * np.float32(0.693359375) - whole * np.float32(-2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    for coefficient in _EXPF:
        y = y * x + np.float32(coefficient)
    y = y * x * x + x + np.float32(1)
    y = y * np.int32((np.int32(whole) + 127) << 23).view(np.float32)
    return np.float32(0) if low else y


@njit("void(float32[:,::1], float32[:,::1])", error_model="numpy", cache=True)
def gated_by_silu(joined, out):
    """SiLU of the first half of joined (T, 2 * I) times the second; into out (T, I)."""
    for t in range(out.shape[0]):
        gate, up = joined[t, : out.shape[1]], joined[t, out.shape[1] :]
        for i in range(out.shape[1]):
            g = gate[i]
            small = exp_of(-abs(g))
            share = (np.float32(1) if g > 0 else small) / (np.float32(1) + small)
            out[t, i] = g * share * up[i]


@njit
def largest(row):
    """The largest number of a row, by its bits: floats would be compared one after the other.

    Taken for whole numbers they are in order, once those below zero are turned round.
    """
    bits, most = row.view(np.int32), np.int32(-(1 << 31))
    for s in range(bits.size):
        most = max(most, bits[s] ^ ((bits[s] >> 31) & np.int32(0x7FFFFFFF)))
    return np.int32(most ^ ((most >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def share_out(row, scale):
    """Softmax of scale times a row, in place."""
    most = largest(row)
    total = np.float32(0)
    for s in range(row.size):
        row[s] = exp_of((row[s] - most) * scale)
        total += row[s]
    for s in range(row.size):
        row[s] /= total


@njit("void(float32[:,:,::1], float32, boolean, uint8[:,::1])", nogil=True, cache=True)
def shares(scores, scale, causal, seen):
    """Softmax of scale times scores (N, L, S), in place.

    Args:
        causal: The last query sees all S keys, each one before it one fewer.
        seen: Which keys each query sees (L, S), 0 or 1; or empty.
    """
    N, L, S = scores.shape
    for i in range(N * L):
        row = scores[i // L, i % L]
        end = S - L + i % L + 1 if causal else S
        row[end:] = 0
        if seen.size:
            for s in range(S):
                if seen[i % L, s] == 0:
                    row[s] = -np.inf
        share_out(row[:end], scale)
