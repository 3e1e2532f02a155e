"""Gated DeltaNet against its naive twin: chunks, splits, extremes, and what its cache holds."""

from functools import cache, partial

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import LENGTHS, LIMIT, by_row, in_pieces, inputs, matrices, randomised

from mlxarch import backend
from mlxarch.blocks.delta import CHUNK, GatedDeltaNet, gated_delta
from mlxarch.naive import delta

DIM, HEADS, KEY_HEADS, KEY_DIM, VALUE_DIM, TAPS, EPS = 20, 6, 2, 10, 7, 4, 1e-3
LONGEST = LENGTHS[-1]


def block(seed=0, taps=TAPS):
    made = GatedDeltaNet(DIM, HEADS, KEY_HEADS, KEY_DIM, VALUE_DIM, taps, norm_eps=EPS)
    return randomised(made, seed)


def twin(made, x):
    weights = matrices(made)
    weights["conv1d"] = weights["conv1d"][..., 0]
    sizes = {"heads": HEADS, "key_heads": KEY_HEADS, "key_dim": KEY_DIM, "norm_eps": EPS}
    return by_row(partial(delta.delta_net, weights=weights, **sizes), x)


@cache
def longest():
    x = inputs(LONGEST, DIM)
    return x, twin(block(), x)


@pytest.mark.parametrize("length", LENGTHS)
def test_delta_net_is_its_twin(length):
    made, x = block(seed=length), inputs(length, DIM)
    wanted = twin(made, x)
    assert_close("whole", made(x), wanted, LIMIT)
    assert_close("through a cache", in_pieces(made, x, []), wanted, LIMIT)


@settings(max_examples=10)
@given(cuts=st.sets(st.integers(1, LONGEST - 1), max_size=6))
def test_any_split_is_the_twin(cuts):
    x, wanted = longest()
    assert_close("in pieces", in_pieces(block(), x, cuts), wanted, LIMIT)


def test_token_by_token_is_the_twin():
    x, wanted = longest()
    assert_close("token by token", in_pieces(block(), x, range(LONGEST)), wanted, LIMIT)


def test_pieces_shorter_than_the_convolution_are_the_twin():
    made, x = block(taps=6), inputs(17, DIM)
    assert_close("in twos", in_pieces(made, x, range(0, 17, 2)), twin(made, x), LIMIT)


def rule_inputs(length, *, seed=0):
    """q, k, v, g, beta as the block makes them: keys of length one, decays slow and fast."""
    draw = np.random.default_rng(seed)
    q, k = draw.normal(size=(2, 2, length, KEY_HEADS, KEY_DIM))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = draw.normal(size=(2, length, HEADS, VALUE_DIM))
    g = -np.exp(draw.normal(size=(2, length, HEADS)) * 2 - 2)
    return {"q": q, "k": k, "v": v, "g": g, "beta": draw.uniform(size=g.shape)}


def rule(parts, state=None):
    """The block's rule on the twin's inputs, all heads of a token side by side."""
    ours = {name: mx.array(t, dtype=mx.float32) for name, t in parts.items()}
    out, [state] = gated_delta(**ours, state=state)
    return out.flatten(2), state


def assert_rule_is_its_twin(parts, limit=LIMIT):
    # The twin starts from the same float32 numbers, so that only the arithmetic differs.
    exact = {name: t.astype(np.float32).astype(np.float64) for name, t in parts.items()}
    rows = [delta.gated_delta(**{name: t[row] for name, t in exact.items()}) for row in range(2)]
    out, state = rule(parts)
    assert_close("outputs", out, [row[0].reshape(len(row[0]), -1) for row in rows], limit)
    assert_close("state", state.flatten(1), [row[1].flatten() for row in rows], limit)


@pytest.mark.parametrize("chunk", sorted(set(CHUNK.values())))
@pytest.mark.parametrize("length", LENGTHS)
def test_the_rule_is_its_twin_in_the_chunks_of_every_device(length, chunk, monkeypatch):
    monkeypatch.setitem(CHUNK, backend.device(), chunk)
    assert_rule_is_its_twin(rule_inputs(length, seed=length))


def each(parts):
    """Outputs and the states after each token."""
    return gated_delta(
        **{name: mx.array(t, dtype=mx.float32) for name, t in parts.items()}, each=True
    )


@pytest.mark.parametrize("length", [1, 2, 3, 9, 17, 40])
def test_the_states_after_each_token_are_those_of_shorter_inputs(length):
    parts = rule_inputs(length, seed=length)
    out, states = each(parts)
    assert len(states) == length
    whole, _ = rule(parts)
    assert_close("outputs", out.flatten(2), whole, LIMIT)
    for end, state in enumerate(states, start=1):
        _, wanted = rule({name: t[:, :end] for name, t in parts.items()})
        assert_close(f"after {end} tokens", state.flatten(1), wanted.flatten(1), LIMIT)


@pytest.mark.parametrize("kept", [1, 2, 5, 8])
def test_tokens_that_follow_have_no_part_in_a_state_to_the_bit(kept):
    one, other = rule_inputs(9, seed=1), rule_inputs(9, seed=2)
    for name, t in other.items():
        t[:, :kept] = one[name][:, :kept]
    for a, b in zip(each(one)[1][:kept], each(other)[1][:kept], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wobble", [0.0, 1e-3], ids=["the same", "nearly the same"])
def test_the_rule_is_its_twin_where_keys_repeat_and_nothing_decays(wobble):
    """A series in powers of the chunk's matrix would blow up: its entries are all near one."""
    parts = rule_inputs(LONGEST)
    k = parts["k"][:, :1] + wobble * parts["k"]
    parts |= {"k": k / np.linalg.norm(k, axis=-1, keepdims=True), "g": 0 * parts["g"]}
    parts["beta"] = 1 - 0.01 * parts["beta"]
    # One token at a time, float32 is 8e-6 off here too.
    assert_rule_is_its_twin(parts, limit=3e-5)


def test_the_rule_is_its_twin_where_keys_alternate_and_nothing_decays():
    parts = rule_inputs(LONGEST)
    signs = (-1.0) ** np.arange(LONGEST)[None, :, None, None]
    parts |= {"k": parts["k"][:, :1] * signs, "g": 0 * parts["g"], "beta": 0 * parts["beta"] + 1}
    assert_rule_is_its_twin(parts, limit=3e-5)


def test_the_rule_is_its_twin_where_everything_decays_at_once():
    parts = rule_inputs(LONGEST)
    assert_rule_is_its_twin(parts | {"g": 0 * parts["g"] - 50})


def test_the_rule_is_its_twin_where_strong_decays_come_before_weak_ones():
    parts = rule_inputs(LONGEST)
    often = np.arange(LONGEST) % 8 == 0
    parts["g"] = np.where(often[None, :, None], -50.0, -1e-3) * np.ones_like(parts["g"])
    assert_rule_is_its_twin(parts)


@pytest.mark.parametrize("cut", [1, 63, 64, 70, 129])
def test_the_rule_goes_on_from_a_state(cut):
    parts = rule_inputs(LONGEST)
    whole, last = rule(parts)
    first, state = rule({name: t[:, :cut] for name, t in parts.items()})
    second, state = rule({name: t[:, cut:] for name, t in parts.items()}, state)
    assert_close("outputs", mx.concatenate([first, second], axis=1), whole, LIMIT)
    assert_close("state", state.flatten(1), last.flatten(1), LIMIT)


def test_the_cache_is_as_large_after_many_tokens_as_after_one():
    made, sizes = block(), []
    entry = made.make_cache()
    for length in (1, 1, 2, 70, 1):
        made(inputs(length, DIM), None, entry)
        sizes.append(entry.nbytes)
    mixed = 2 * KEY_HEADS * KEY_DIM + HEADS * VALUE_DIM
    numbers = (TAPS - 1) * mixed + HEADS * KEY_DIM * VALUE_DIM
    assert sizes == [2 * numbers * 4] * 5


def test_the_state_is_float32_whatever_the_inputs_are():
    made = block()
    made.set_dtype(mx.bfloat16)
    entry = made.make_cache()
    for length in (9, 1):
        out = made(inputs(length, DIM).astype(mx.bfloat16), None, entry)
        assert out.dtype == entry[0].dtype == mx.bfloat16
        assert entry[1].dtype == mx.float32
