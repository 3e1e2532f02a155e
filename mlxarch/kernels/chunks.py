"""Numba's part between products of recurrent layers that BLAS makes chunk by chunk.

Arrays are numpy's and contiguous.

Shapes: n chunks   C tokens of one   L tokens   T taps   M features
"""

import numpy as np
from numba import njit

from .cpu import exp_of


@njit(fastmath={"contract"})
def _take_off(row, shares, others):
    """Shares of other rows, from one; four by four."""
    fours = shares.size - shares.size % 4
    for j in range(0, fours, 4):
        p, q, r, t = shares[j], shares[j + 1], shares[j + 2], shares[j + 3]
        a, b, c, d = others[j], others[j + 1], others[j + 2], others[j + 3]
        for i in range(row.size):
            row[i] -= p * a[i] + q * b[i] + (r * c[i] + t * d[i])
    for j in range(fours, shares.size):
        p, a = shares[j], others[j]
        for i in range(row.size):
            row[i] -= p * a[i]


@njit(
    "void(float32[:,:,::1], float32[:,::1], float32[:,::1], float32[:,:,::1], float32[:,:,::1])",
    nogil=True,
    cache=True,
)
def correct(likeness, g, beta, decay, inverse):
    """What decays from token to token of a chunk, and how their corrections depend on each other.

    Args:
        likeness: Products of each key with each other (n, C, C).
        g, beta: Log decays <= 0 and shares of correction (n, C).
        decay: (n, C, C), filled: from token j to i, exp of the sum of g between them.
        inverse: (n, C, C), filled: of one plus beta_i likeness_ij decay_ij for j < i.
    """
    n, C = g.shape
    ages, shares = np.empty(C, np.float32), np.empty(C, np.float32)
    for c in range(n):
        for i in range(C):
            # Summed for each j by itself: differences of sums lose what a strong decay before
            # them leaves of weak ones.
            now, row = decay[c, i], inverse[c, i]
            for j in range(i):
                ages[j] += g[c, i]
                now[j] = exp_of(ages[j])
            ages[i] = 0
            now[i] = 1
            now[i + 1 :] = 0
            row[:] = 0
            row[i] = 1
            for j in range(i):
                shares[j] = beta[c, i] * likeness[c, i, j] * now[j]
            _take_off(row, shares[:i], inverse[c])


@njit(
    "void(float32[:,::1], float32[:,::1], float32[:,::1])",
    error_model="numpy",
    nogil=True,
    cache=True,
)
def convolve(seen, weight, out):
    """SiLU of a causal convolution: seen (T - 1 + L, M), weight (T, M); into out (L, M)."""
    M = out.shape[1]
    for t in range(out.shape[0]):
        row = out[t]
        row[:] = 0
        for tap in range(weight.shape[0]):
            one, factor = seen[t + tap], weight[tap]
            for i in range(M):
                row[i] += one[i] * factor[i]
        for i in range(M):
            x = row[i]
            small = exp_of(-abs(x))
            row[i] = x * (np.float32(1) if x > 0 else small) / (np.float32(1) + small)
