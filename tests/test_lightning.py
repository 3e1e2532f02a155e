"""Lightning attention against its naive twin: chunks, splits, decays, and what its cache holds."""

from functools import cache, partial

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import LENGTHS, LIMIT, by_row, in_pieces, inputs, matrices, randomised

from mlxarch import backend
from mlxarch.blocks.delta import CHUNK
from mlxarch.blocks.lightning import LightningAttention, fading
from mlxarch.blocks.rope import Rope
from mlxarch.models.ling25 import decays
from mlxarch.naive import lightning, rope

DIM, HEADS, HEAD_DIM, ROTATED_DIM, GROUPS, EPS, BASE = 20, 6, 10, 4, 3, 1e-3, 3e4
DECAYS = {
    "slow and fast": [-1e-4, -0.01, -0.1, -0.5, -2.0, -10.0],
    "none": [0.0] * HEADS,
    "at once": [-50.0] * HEADS,
}
LONGEST = LENGTHS[-1]


def block(seed=0, decay="slow and fast"):
    made = LightningAttention(
        DIM,
        HEADS,
        HEAD_DIM,
        decay=DECAYS[decay],
        groups=GROUPS,
        rope=Rope(ROTATED_DIM, BASE),
        norm_eps=EPS,
    )
    return randomised(made, seed)


def turned(vector, t):
    return np.append(rope.rotate(vector[:ROTATED_DIM], t, BASE), vector[ROTATED_DIM:])


def twin(made, x, decay="slow and fast"):
    run = partial(
        lightning.lightning_attention,
        weights=matrices(made),
        heads=HEADS,
        decay=DECAYS[decay],
        groups=GROUPS,
        rotate=turned,
        norm_eps=EPS,
    )
    return by_row(run, x)


@cache
def longest():
    x = inputs(LONGEST, DIM)
    return x, twin(block(), x)


@pytest.mark.parametrize("length", LENGTHS)
def test_lightning_attention_is_its_twin(length):
    made, x = block(seed=length), inputs(length, DIM)
    wanted = twin(made, x)
    assert_close("whole", made(x), wanted, LIMIT)
    assert_close("through a cache", in_pieces(made, x, []), wanted, LIMIT)


@pytest.mark.parametrize("decay", DECAYS)
def test_lightning_attention_is_its_twin_at_any_pace(decay):
    made, x = block(decay=decay), inputs(LONGEST, DIM)
    assert_close("whole", made(x), twin(made, x, decay), LIMIT)


@pytest.mark.parametrize("chunk", sorted(set(CHUNK.values())))
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_of_every_device_are_the_twin(length, chunk, monkeypatch):
    monkeypatch.setitem(CHUNK, backend.device(), chunk)
    x, wanted = longest()
    assert_close("whole", block()(x[:, :length]), wanted[:, :length], LIMIT)


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, LONGEST - 1), max_size=6))
def test_any_split_is_the_twin(cuts):
    x, wanted = longest()
    assert_close("in pieces", in_pieces(block(), x, cuts), wanted, LIMIT)


def test_token_by_token_is_the_twin():
    x, wanted = longest()
    assert_close("token by token", in_pieces(block(), x, range(LONGEST)), wanted, LIMIT)


def test_a_state_fades_by_its_decay_a_token():
    """One token is written; the query of the nth token after it finds exp(n * decay) of it."""
    decay, length = mx.array(DECAYS["slow and fast"]), 100
    ones = mx.ones((1, HEADS, length, 1))
    first = mx.where(mx.arange(length)[:, None] == 0, ones, 0)
    out, [state] = fading(ones, first, ones, decay)
    ages = np.arange(length)[None, :] * np.array(decay)[:, None]
    np.testing.assert_allclose(out[0, :, :, 0], np.exp(ages), rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(state[0, :, 0, 0], np.exp(ages[:, -1]), rtol=2e-5, atol=1e-30)


def memories(length, seed):
    """Keys and values (B, H, L, E)."""
    draw = np.random.default_rng(seed).normal(size=(2, 1, HEADS, length, HEAD_DIM))
    return [mx.array(t, dtype=mx.float32) for t in draw]


@pytest.mark.parametrize("length", [1, 2, 9, 17, 40])
def test_the_states_after_each_token_are_those_of_shorter_inputs(length):
    decay, (k, v) = mx.array(DECAYS["slow and fast"]), memories(length, 0)
    out, states = fading(k, k, v, decay, each=True)
    assert_close("outputs", out, fading(k, k, v, decay)[0], LIMIT)
    assert len(states) == length
    for end, state in enumerate(states, start=1):
        _, [wanted] = fading(k[:, :, :end], k[:, :, :end], v[:, :, :end], decay)
        assert_close(f"after {end} tokens", state.flatten(1), wanted.flatten(1), LIMIT)


@pytest.mark.parametrize("kept", [1, 5, 8])
def test_tokens_that_follow_have_no_part_in_a_state_to_the_bit(kept):
    decay, one, other = mx.array(DECAYS["slow and fast"]), memories(9, 1), memories(9, 2)
    for a, b in zip(one, other, strict=True):
        b[:, :, :kept] = a[:, :, :kept]
    ours, theirs = (fading(k, k, v, decay, each=True)[1][:kept] for k, v in (one, other))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_pace_of_a_layer_is_the_publishers():
    """ALiBi's slopes times 1 - (layer - 1) / (depth - 1) + 1e-5, layers counted from 0."""
    slopes = [2.0 ** -(h + 1) for h in range(8)]
    for layer, factor in ((0, 1 + 1 / 9 + 1e-5), (1, 1 + 1e-5), (8, 2 / 9 + 1e-5)):
        np.testing.assert_allclose(decays(8, layer, 10), [-s * factor for s in slopes], rtol=1e-12)


def test_heads_that_are_no_power_of_two_fill_up_with_slopes_between():
    """arXiv:2108.12409's own code for 6 heads: the 4 of four heads, then every other of eight."""
    slopes = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    found = decays(6, 1, 10)
    np.testing.assert_allclose(found, [-s * (1 + 1e-5) for s in slopes], rtol=1e-12)


def test_the_cache_is_as_large_after_many_tokens_as_after_one():
    made, sizes = block(), []
    entry = made.make_cache()
    for length in (1, 1, 2, 70, 1):
        made(inputs(length, DIM), None, entry)
        sizes.append(entry.nbytes)
    assert sizes == [2 * (HEADS * HEAD_DIM**2 + 1) * 4] * 5


def test_the_state_is_float32_whatever_the_inputs_are():
    made = block()
    made.set_dtype(mx.bfloat16)
    entry = made.make_cache()
    for length in (9, 1):
        out = made(inputs(length, DIM).astype(mx.bfloat16), None, entry)
        assert out.dtype == mx.bfloat16
        assert entry[0].dtype == mx.float32
