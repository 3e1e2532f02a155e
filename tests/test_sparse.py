"""Sparse attention and its indexer against their naive twins, the shared choice, the caches."""

from functools import cache
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import LENGTHS, LIMIT, in_pieces, inputs, latent_matrices, randomised

from mlxarch.blocks import sparse
from mlxarch.blocks.rope import Rope
from mlxarch.blocks.sparse import Indexer, SparseLatentAttention
from mlxarch.naive import rope
from mlxarch.naive import sparse as naive

DIM, HEADS, RANK, HEAD_DIM, ROTATED_DIM, VALUE_DIM, EPS, BASE = 20, 3, 12, 10, 4, 6, 1e-3, 3e4
QUERY_RANK, INDEX_HEADS, INDEX_DIM, TOP_K = 14, 5, 12, 7
LONGEST = LENGTHS[-1]
TURN = {
    "rotate": lambda vector, t: rope.rotate(vector, t, BASE, interleaved=True),
    "norm_eps": EPS,
}


def block(seed=0, indexed=True):
    turn = Rope(ROTATED_DIM, BASE, interleaved=True)
    indexer = Indexer(
        DIM,
        INDEX_HEADS,
        query_rank=QUERY_RANK,
        head_dim=INDEX_DIM,
        rotated_dim=ROTATED_DIM,
        top_k=TOP_K,
        rope=turn,
    )
    made = SparseLatentAttention(
        DIM,
        HEADS,
        indexer=indexer if indexed else None,
        query_rank=QUERY_RANK,
        rank=RANK,
        head_dim=HEAD_DIM,
        rotated_dim=ROTATED_DIM,
        value_dim=VALUE_DIM,
        rope=turn,
        norm_eps=EPS,
    )
    return randomised(made, seed)


def twin_choice(made, x):
    sizes = {"heads": INDEX_HEADS, "rotated_dim": ROTATED_DIM, "top_k": TOP_K}
    rows = np.array(x, dtype=np.float64)
    return [naive.choose(row, latent_matrices(made), **sizes, **TURN) for row in rows]


def twin(made, x, choice=None):
    rows, weights = np.array(x, dtype=np.float64), latent_matrices(made)
    return [
        naive.sparse_attention(row, weights, chosen, heads=HEADS, head_dim=HEAD_DIM, **TURN)
        for row, chosen in zip(rows, choice or twin_choice(made, x), strict=True)
    ]


@cache
def longest():
    x = inputs(LONGEST, DIM)
    return x, twin(block(), x)


@pytest.fixture(params=[(256, 1 << 23), (50, 20_000), (1, 1)], ids=["whole", "tiles", "single"])
def budget(request, monkeypatch):
    """How much the block may score or gather at once."""
    queries, numbers = request.param
    monkeypatch.setattr(sparse, "_QUERIES", queries)
    monkeypatch.setattr(sparse, "_BUDGET", numbers)


@pytest.mark.parametrize("length", [*LENGTHS, TOP_K, TOP_K + 1])
def test_sparse_attention_is_its_twin(length):
    made, x = block(seed=length), inputs(length, DIM)
    wanted = twin(made, x)
    assert_close("whole", made(x, made.make_mask(x)), wanted, LIMIT)
    assert_close("through a cache", in_pieces(made, x, []), wanted, LIMIT)


@pytest.mark.usefixtures("budget")
def test_the_budget_changes_memory_and_nothing_else():
    x, wanted = longest()
    made = block()
    assert_close("whole", made(x, made.make_mask(x)), wanted, LIMIT)
    assert_close("in pieces", in_pieces(made, x, [3, 40, 41]), wanted, LIMIT)


def test_what_is_scored_and_gathered_is_never_all_there(monkeypatch):
    monkeypatch.setattr(sparse, "_QUERIES", 32)
    monkeypatch.setattr(sparse, "_BUDGET", 1 << 12)
    made, x = block(), inputs(600, DIM)
    mx.eval(x)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(made(x, made.make_mask(x)))
    scores = 2 * INDEX_HEADS * 600 * 600 * 4
    assert mx.get_peak_memory() - before < scores / 2


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, LONGEST - 1), max_size=6))
def test_any_split_is_the_twin(cuts):
    x, wanted = longest()
    assert_close("in pieces", in_pieces(block(), x, cuts), wanted, LIMIT)


def test_token_by_token_is_the_twin():
    x, wanted = longest()
    assert_close("token by token", in_pieces(block(), x, range(24)), wanted, LIMIT)


@pytest.mark.parametrize("length", [TOP_K + 1, 65])
def test_the_indexer_chooses_as_its_twin(length):
    made, x = block(seed=length), inputs(length, DIM)
    chosen = made.indexer(x, made.q_a_norm(made.q_a_proj(x)), 0)
    assert chosen.shape == (2, length, TOP_K)
    for ours, theirs in zip(chosen.tolist(), twin_choice(made, x), strict=True):
        for t, (found, wanted) in enumerate(zip(ours, theirs, strict=True)):
            assert {s for s in found if s <= t} == set(wanted), f"token {t}"


def test_up_to_top_k_tokens_there_is_no_choice():
    made, x = block(), inputs(TOP_K, DIM)
    assert made.indexer(x, made.q_a_norm(made.q_a_proj(x)), 0) is None


def test_the_choice_leaves_something_out():
    """Else the tests above would hold for attention to everything."""
    x, wanted = longest()
    everything = [[list(range(t + 1)) for t in range(LONGEST)]] * 2
    assert relative(wanted, twin(block(), x, everything)) > 0.1


@cache
def pair():
    """Two layers, of which the second has no indexer, and what it should make of the input."""
    first, second, x = block(seed=1), block(seed=2, indexed=False), inputs(65, DIM)
    return first, second, x, twin(second, x, twin_choice(first, x))


@settings(max_examples=6)
@given(cuts=st.sets(st.integers(1, 64), max_size=4))
def test_a_layer_without_an_indexer_shares_the_choice_of_the_one_before(cuts):
    """As the decoder runs them: one mask for both, made for the first."""
    first, second, x, wanted = pair()
    caches = first.make_cache(), second.make_cache()
    pieces = []
    for start, stop in pairwise(sorted({0, *cuts, 65})):
        piece = x[:, start:stop]
        mask = first.make_mask(piece, caches[0])
        first(piece, mask, caches[0])
        pieces.append(np.array(second(piece, mask, caches[1])))
    assert_close("shared", np.concatenate(pieces, axis=1), wanted, LIMIT)


def test_a_choice_does_not_outlive_its_pass():
    made, x = block(), inputs(TOP_K + 1, DIM)
    first = made.make_mask(x)
    made(x, first)
    assert first.chosen is not None
    assert made.make_mask(x).chosen is None


def test_the_caches_hold_latents_and_the_indexers_keys():
    made = block()
    entry = made.make_cache()
    for length in (200, 55, 1):  # a multiple of what the cache grows by
        x = inputs(length, DIM)
        made(x, made.make_mask(x, entry), entry)
    assert entry.nbytes == 2 * 256 * (RANK + ROTATED_DIM + INDEX_DIM) * 4
    assert block(indexed=False).make_cache().nbytes == 0
