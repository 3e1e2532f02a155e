"""Decoding with the CPU's own kernels: tokens at once and one by one, and the cache they share."""

import copy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from goldens import Golden
from quickened import FORMATS, any_size, packed, random
from tiny_configs import CONFIGS, MTP, model, mtp

import mlxarch
from mlxarch import backend, compat
from mlxarch.kernels import crew
from mlxarch.kernels.cache import KVCache, RotatingKVCache
from mlxarch.kernels.layers import Quick
from mlxarch.rollback import drafting, step_back
from mlxarch.sampling import Sampling
from mlxarch.speculate import Heads

pytestmark = pytest.mark.usefixtures(any_size.__name__)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_block_hands_on_numpy_s_arrays(family):
    decoder = model(family)
    backend.quicken(decoder)
    for block in decoder.layers:
        assert all(isinstance(part, Quick) for part in block.children().values())
    seen, first = [], decoder.layers[0]
    before = type(first)

    def look(self, x, *rest):
        seen.append(type(x))
        return before.__call__(self, x, *rest)

    first.__class__ = type("Looking", (before,), {"__call__": look})
    mx.eval(decoder(mx.array([[1, 2, 3]])))
    assert seen == [np.ndarray]


@pytest.mark.parametrize("family", MTP)
def test_heads_for_further_tokens_compute_what_they_did(family):
    """Each is one crossing, and equal to MLX's own."""
    names = [f"mtp.0.{MTP[family]}"]
    (plain,), (quick,) = mtp(family, names), mtp(family, names)
    backend.quicken(quick)
    seen, block = [], type(quick.block)

    def look(self, x, *rest):
        seen.append(type(x))
        return block.__call__(self, x, *rest)

    quick.block.__class__ = type("Looking", (block,), {"__call__": look})
    dim = plain.norm.weight.shape[0]
    caches = plain.make_cache(), quick.make_cache()
    for i, L in enumerate([5, 1, 2]):
        states, embedded = random(1, L, dim, seed=i), random(1, L, dim, seed=9 + i)
        wanted, got = plain(states, embedded, caches[0]), quick(states, embedded, caches[1])
        np.testing.assert_allclose(np.array(got), np.array(wanted), rtol=1e-4, atol=1e-5)
    assert set(seen) == {np.ndarray}


def test_drafts_are_the_same_and_stay_in_numpy(monkeypatch):
    """MLX is asked once a guess at most, by a head that shares the model's vocabulary matrix."""
    folder = Golden("qwen35_dense").folder
    quick = mlxarch.load(folder)
    monkeypatch.setattr(backend, "quicken", lambda _: None)
    plain = mlxarch.load(folder)
    states, drafts, asked = random(1, 9, plain.norm.weight.shape[0]), [], []
    for one in (plain, quick):
        heads = Heads(one, Sampling())
        heads.observe(list(range(3, 12)), states)
        mx.eval(heads.draft(4, 12))
        heads.observe([7, 8], states[:, :2])
        if one is quick:
            monkeypatch.setattr(mx, "eval", asked.append)
        drafts.append(heads.draft(4, 14))
    assert len(asked) <= 4
    assert drafts[0].tolist() == drafts[1].tolist()


@pytest.mark.parametrize(("L", "S"), [(2, 9), (5, 70), (8, 300)])
def test_a_query_does_not_see_how_many_there_are(L, S):
    q, k, v = numbers(1, 6, L, 48), numbers(1, 2, S, 48, seed=1), numbers(1, 2, S, 24, seed=2)
    all_at_once = crew.attend(q, k, v, 0.3, True, None)
    for i in range(L):
        end = S - L + i + 1
        one = crew.attend(
            np.ascontiguousarray(q[:, :, i : i + 1]), k[:, :, :end], v[:, :, :end], 0.3, False, None
        )
        assert (all_at_once[:, i : i + 1] == one).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_tokens_at_once_leave_what_one_by_one_would(bits):
    """To the bit: keys, values and states, also after a step back."""
    decoder = model("nanbeige41", hidden_size=64, intermediate_size=96, head_dim=32)
    nn.quantize(decoder, 32, bits)
    backend.quicken(decoder)
    ids = mx.random.randint(0, 61, (1, 40), key=mx.random.key(1))
    one_by_one, at_once = decoder.make_cache(), decoder.make_cache()
    wanted = mx.concatenate([decoder.hidden(ids[:, i : i + 1], one_by_one) for i in range(8)], 1)
    decoder.hidden(ids[:, :1], at_once)
    with drafting(at_once):
        decoder.hidden(ids[:, 30:35], at_once)
    step_back(at_once, 5)
    got = [decoder.hidden(ids[:, a:b], at_once) for a, b in [(1, 4), (4, 8)]]
    assert mx.array_equal(mx.concatenate(got, axis=1), wanted[:, 1:])
    for ours, theirs in zip(at_once, one_by_one, strict=True):
        for mine, other in zip(ours.keys_and_values(), theirs.keys_and_values(), strict=True):
            assert mx.array_equal(mine, other)


def test_experts_that_are_not_chosen_are_not_looked_at():
    layer, _ = packed(64, 24, FORMATS[0], experts=5, kind=_experts)
    scales = np.array(layer.scales)
    scales[[0, 2, 4]] = np.nan
    layer.scales = mx.array(scales)
    out = layer(random(1, 3, 1, 1, 64), mx.array([[[1, 3], [3, 1], [1, 1]]]))
    assert mx.isfinite(out).all()


def _experts(*sizes, **options):
    return compat.QuantizedSwitchLinear(*sizes, bias=False, **options)


@pytest.mark.parametrize(
    "held",
    [
        lambda cache: copy.deepcopy(cache).state,
        lambda cache: cache.keys_and_values(),
        lambda cache: [cache.state[0][..., :6, :]],
    ],
)
def test_nothing_is_written_into_arrays_that_somebody_holds(held):
    cache = KVCache()
    cache.put(numbers(1, 2, 5, 8), numbers(1, 2, 5, 8))
    cache.put(numbers(1, 2, 1, 8), numbers(1, 2, 1, 8))
    keys, *_ = held(cache)
    before = np.array(keys)
    cache.trim(3)
    for i in range(3):
        cache.put(numbers(1, 2, 1, 8, seed=7 + i), numbers(1, 2, 1, 8, seed=7))
    assert (np.array(keys) == before).all()


def test_a_cache_is_mlx_lm_s():
    ours, theirs = KVCache(), compat.KVCache()
    for i, length in enumerate([3, 1, 300, 1, 1, 2]):
        k, v = numbers(1, 2, length, 8, seed=i), numbers(1, 2, length, 4, seed=i + 50)
        wanted = theirs.update_and_fetch(mx.array(k), mx.array(v))
        got = ours.put(k, v) if i != 4 else ours.update_and_fetch(mx.array(k), mx.array(v))
        for mine, other in zip(got, wanted, strict=True):
            assert (np.array(mine) == np.array(other)).all()
        ours.trim(1)
        theirs.trim(1)
        assert ours.size() == theirs.size()
    again = KVCache.from_state(ours.state)
    assert (np.array(again.put(k, v)[0]) == np.array(ours.put(k, v)[0])).all()


def test_a_long_cache_is_seldom_moved():
    cache, moved, row = KVCache(), 0, numbers(1, 1, 16, 2)
    for _ in range(1024):
        room = cache.keys
        cache.put(row, row)
        moved += cache.keys is not room
    assert cache.offset == 16384
    assert moved < 32  # it was 64: once every 256 rows
    assert cache.nbytes < 1.2 * 16384 * row[0, 0, :1].nbytes * 2


@pytest.mark.parametrize("lengths", [[3, 1, 300, 1, 1, 2], [20, *[1] * 11, 4, 9, 1], [7, 2, 1, 17]])
def test_a_window_is_mlx_lm_s(lengths):
    ours, theirs = RotatingKVCache(16), compat.RotatingKVCache(16)
    for i, length in enumerate(lengths):
        k, v = numbers(1, 2, length, 8, seed=i), numbers(1, 2, length, 4, seed=i + 50)
        got, wanted = (c.update_and_fetch(*map(mx.array, (k, v))) for c in (ours, theirs))
        for mine, other in zip(got, wanted, strict=True):
            assert (np.array(mine) == np.array(other)).all()
        assert ours.state[2:] == theirs.state[2:]
        assert ours.trim(1) == theirs.trim(1)
