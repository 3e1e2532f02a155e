"""Latent attention against its naive twin, and what its cache holds."""

from functools import cache, partial

import mlx.core as mx
import pytest
from close import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import LENGTHS, LIMIT, by_row, in_pieces, inputs, latent_matrices, randomised

from mlxarch.blocks import mla as fast
from mlxarch.blocks.mla import LatentAttention
from mlxarch.blocks.rope import Rope
from mlxarch.naive import mla, rope

DIM, HEADS, RANK, HEAD_DIM, ROTATED_DIM, VALUE_DIM, EPS = 20, 3, 12, 10, 4, 6, 1e-3
BASE, SHARPENED, LONGEST = 3e4, 1.7, LENGTHS[-1]
WAYS = {"absorbed": mx.inf, "expanded": 0, "by cost": None}


def block(way="by cost", seed=0, interleaved=True):
    made = LatentAttention(
        DIM,
        HEADS,
        query_rank=14,
        rank=RANK,
        head_dim=HEAD_DIM,
        rotated_dim=ROTATED_DIM,
        value_dim=VALUE_DIM,
        rope=Rope(ROTATED_DIM, BASE, interleaved=interleaved),
        norm_eps=EPS,
        softmax_factor=SHARPENED,
    )
    if WAYS[way] is not None:
        made.expands_from = WAYS[way]
    return randomised(made, seed)


def twin(made, x, interleaved=True):
    return by_row(
        partial(
            mla.latent_attention,
            weights=latent_matrices(made),
            heads=HEADS,
            head_dim=HEAD_DIM,
            rotate=lambda vector, t: rope.rotate(vector, t, BASE, interleaved=interleaved),
            norm_eps=EPS,
            softmax_factor=SHARPENED,
        ),
        x,
    )


@cache
def case(length):
    """An input, and what it becomes whichever way the block goes."""
    x = inputs(length, DIM)
    return x, twin(block(seed=length), x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("length", LENGTHS)
def test_latent_attention_is_its_twin(length, way):
    made, (x, wanted) = block(way, seed=length), case(length)
    assert_close("whole", made(x, made.make_mask(x)), wanted, LIMIT)
    assert_close("through a cache", in_pieces(made, x, []), wanted, LIMIT)


@pytest.mark.parametrize("queries", [1, 5, 256])
@pytest.mark.parametrize("scores", [1, 200, 1 << 23])
@pytest.mark.parametrize("way", ["absorbed", "expanded"])
def test_tiles_change_memory_and_nothing_else(monkeypatch, way, scores, queries):
    monkeypatch.setattr(fast, "_QUERIES", queries)
    monkeypatch.setattr(fast, "_SCORES", scores)
    made, (x, wanted) = block(way, seed=33), case(33)
    assert_close("whole", made(x), wanted, LIMIT)
    assert_close("in pieces", in_pieces(made, x, [3, 20, 21]), wanted, LIMIT)


@pytest.mark.parametrize("way", ["absorbed", "expanded"])
def test_scores_are_never_all_there(monkeypatch, way):
    monkeypatch.setattr(fast, "_QUERIES", 32)
    monkeypatch.setattr(fast, "_SCORES", 1 << 12)
    made, x = block(way), inputs(600, DIM)
    mx.eval(x)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(made(x))
    scores = 2 * HEADS * 600 * 600 * 4
    assert mx.get_peak_memory() - before < scores / 2


def test_a_rope_of_halves_is_its_twin_too():
    made, x = block(interleaved=False), inputs(33, DIM)
    assert_close("halves", made(x, made.make_mask(x)), twin(made, x, interleaved=False), LIMIT)


@settings(max_examples=6)
@given(cuts=st.sets(st.integers(1, LONGEST - 1), max_size=6), way=st.sampled_from(list(WAYS)))
def test_any_split_is_the_twin(cuts, way):
    x, wanted = case(LONGEST)
    assert_close("in pieces", in_pieces(block(way, LONGEST), x, cuts), wanted, LIMIT)


@pytest.mark.parametrize("way", WAYS)
def test_token_by_token_is_the_twin(way):
    x, wanted = case(LONGEST)
    cuts = range(LONGEST - 24, LONGEST)
    assert_close("token by token", in_pieces(block(way, LONGEST), x, cuts), wanted, LIMIT)


@pytest.mark.parametrize(("queries", "other"), [(23, "_expanded"), (24, "_absorbed")])
def test_many_queries_are_expanded_and_few_absorbed(monkeypatch, queries, other):
    """A pair costs R + R or E + F, and to expand a latent costs R (E + F): 12 * 16 / (24 - 16)."""
    monkeypatch.delattr(LatentAttention, other)
    made, x = block(), inputs(queries, DIM)
    assert made(x, made.make_mask(x)).shape == x.shape


def test_the_cache_holds_a_latent_and_a_rotated_key_a_token_for_all_heads():
    made, kept = block(), 0
    entry = made.make_cache()
    for length in (200, 55, 1):  # a multiple of what the cache grows by
        x = inputs(length, DIM)
        made(x, made.make_mask(x, entry), entry)
        kept += length
    assert entry.offset == kept == 256
    assert entry.nbytes == 2 * kept * (RANK + ROTATED_DIM) * 4
