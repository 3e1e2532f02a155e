"""Latent and recurrent layers with the CPU's own kernels, against their naive twins."""

import tracemalloc
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import test_delta
import test_lightning
import test_mla
import test_sparse
from close import assert_close
from quickened import any_size, quick
from twins import LIMIT, in_pieces, inputs

from mlxarch import compat, kv
from mlxarch.kernels import QUICK, recurrent, tiles
from mlxarch.rollback import drafting, step_back

pytestmark = pytest.mark.usefixtures(any_size.__name__)
DIM = 20
BLOCKS = {
    "absorbed": (lambda: test_mla.block("absorbed"), test_mla.twin),
    "expanded": (lambda: test_mla.block("expanded"), test_mla.twin),
    "sparse": (test_sparse.block, test_sparse.twin),
    "delta": (test_delta.block, test_delta.twin),
    "lightning": (test_lightning.block, test_lightning.twin),
}


@cache
def case(kind, length):
    """An input, and what the twin makes of it."""
    make, twin = BLOCKS[kind]
    x = inputs(length, DIM)
    return x, np.stack(list(twin(make(), x)))


def block(kind):
    """One with our kernels."""
    made = BLOCKS[kind][0]()
    before = type(made)
    assert type(quick(made)) is QUICK[before]
    return made


@pytest.fixture
def small(monkeypatch):
    """Tiles and chunks so small that there are many, and the last ones are not whole."""
    for module, name, size in [
        (tiles, "ROWS", 5),
        (tiles, "COLUMNS", 7),
        (tiles, "_TILE", 1),
        (recurrent, "_CHUNK", 8),
        (recurrent, "_RUN", 3),
    ]:
        monkeypatch.setattr(module, name, size)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_quick_block_is_its_twin(kind, length):
    (x, wanted), made = case(kind, length), block(kind)
    assert_close("whole", made(x, made.make_mask(x)), wanted, LIMIT)
    assert_close("through a cache", in_pieces(made, x, []), wanted, LIMIT)


@pytest.mark.usefixtures(small.__name__)
@pytest.mark.parametrize("cuts", [[], [3, 40, 41, 57], range(130)], ids=["whole", "cut", "single"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_tiles_and_pieces_change_nothing(kind, cuts):
    x, wanted = case(kind, 130)
    assert_close("in pieces", in_pieces(block(kind), x, cuts), wanted, LIMIT)


@pytest.mark.parametrize("kind", BLOCKS)
def test_drafts_are_taken_and_given_back(kind):
    x, wanted = case(kind, 64)
    made, pieces = block(kind), []
    entry = made.make_cache()

    def feed(start, stop):
        part = x[:, start:stop]
        return np.array(made(part, made.make_mask(part, entry), entry))

    pieces.append(feed(0, 50))
    with drafting([entry]):
        pieces.append(feed(50, 56)[:, :2])
    step_back([entry], 4)
    pieces.append(feed(52, 64))
    assert_close("after a draft", np.concatenate(pieces, axis=1), wanted, LIMIT)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["absorbed", "expanded", "sparse"])
def test_a_cache_in_few_bits_is_read_as_by_mlx(kind, bits, monkeypatch):
    monkeypatch.setattr(test_mla, "RANK", 32)
    monkeypatch.setattr(test_sparse, "RANK", 32)
    monkeypatch.setattr(kv, "_GROUPS", (32,))
    theirs, ours = BLOCKS[kind][0](), block(kind)
    x, entries = inputs(40, DIM), [made.make_cache(bits) for made in (theirs, ours)]
    for start, stop in [(0, 30), (30, 31), (31, 40)]:
        piece = x[:, start:stop]
        wanted, got = (
            made(piece, made.make_mask(piece, entry), entry)
            for made, entry in zip((theirs, ours), entries, strict=True)
        )
        assert_close(f"from {start}", got, wanted, LIMIT)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("length", [1, 3, 40])
def test_dense_matrices_of_heads_are_mlx_s(length, transpose):
    theirs = compat.MultiLinear(12, 9, 5)
    x = mx.random.normal((2, 5, length, 12 if transpose else 9))
    wanted = theirs(x, transpose)
    assert_close("heads", quick(theirs)(x, transpose), wanted, LIMIT)


def test_dense_experts_are_mlx_s():
    theirs = compat.SwitchLinear(12, 9, 5)
    x, chosen = mx.random.normal((1, 7, 1, 1, 12)), mx.random.randint(0, 5, (1, 7, 2))
    wanted = theirs(x, chosen)
    assert_close("experts", quick(theirs)(x, chosen), wanted, LIMIT)


@pytest.mark.parametrize("kind", ["absorbed", "expanded", "sparse"])
def test_scores_are_never_all_there(kind):
    made, x = block(kind), inputs(2000, DIM)
    made(x[:, :9], made.make_mask(x))
    tracemalloc.start()
    made(x, made.make_mask(x))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * 2000 * 2000 * 4


@pytest.mark.parametrize("wobble", [0.0, 1e-3], ids=["the same", "nearly the same"])
def test_the_delta_rule_is_its_twin_where_keys_repeat_and_nothing_decays(wobble):
    parts = test_delta.rule_inputs(130)
    k = parts["k"][:, :1] + wobble * parts["k"]
    parts |= {"k": k / np.linalg.norm(k, axis=-1, keepdims=True), "g": 0 * parts["g"]}
    parts["beta"] = 1 - 0.01 * parts["beta"]
    assert_rule_is_its_twin(parts, limit=3e-5)


def test_the_delta_rule_is_its_twin_where_strong_decays_come_before_weak_ones():
    parts = test_delta.rule_inputs(130)
    often = np.arange(130) % 8 == 0
    parts["g"] = np.where(often[None, :, None], -50.0, -1e-3) * np.ones_like(parts["g"])
    assert_rule_is_its_twin(parts)


def assert_rule_is_its_twin(parts, limit=LIMIT):
    """test_delta's, of the kernels' rule."""
    rows = {name: t.astype(np.float32) for name, t in parts.items()}
    heads, keys = rows["v"].shape[2], rows["k"].shape[3]
    state = np.zeros((2, heads, keys, rows["v"].shape[3]), np.float32)
    out, state = recurrent._delta(**rows, state=state)
    wanted = [
        test_delta.delta.gated_delta(**{n: t[row].astype(np.float64) for n, t in rows.items()})
        for row in range(2)
    ]
    flat = [out.reshape(2, 130, -1), state.reshape(2, -1)]
    assert_close("outputs", flat[0], [row[0].reshape(130, -1) for row in wanted], limit)
    assert_close("state", flat[1], [row[1].flatten() for row in wanted], limit)


def test_what_is_chosen_are_the_least_and_of_equals_the_earliest():
    scores = np.array([[3, 1, 2, 1, np.inf, 1, 0]], np.float32)
    chosen = np.empty((1, 3), np.int64)
    tiles.pick(scores, np.partition(scores, 2, axis=1)[:, 2].copy(), chosen)
    assert chosen.tolist() == [[6, 1, 3]]
    scores[:] = np.nan
    tiles.pick(scores, scores[:, 2].copy(), chosen)
    assert chosen.tolist() == [[0, 0, 0]]


def test_other_types_are_left_to_mlx():
    made = nn.Sequential(test_mla.block())
    made.set_dtype(mx.bfloat16)
    x = inputs(9, DIM).astype(mx.bfloat16)
    wanted = made.layers[0](x)
    assert mx.array_equal(quick(made).layers[0](x), wanted)
