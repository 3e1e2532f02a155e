"""A cache in few bits: what it rounds, what it leaves, and that nothing else changes."""

from copy import deepcopy
from itertools import pairwise, product

import mlx.core as mx
import numpy as np
import pytest
import tiny_configs
from close import assert_close, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import QuantizedKVCache

from mlxarch import kv
from mlxarch.blocks.attention import Attention
from mlxarch.cache import Past
from mlxarch.compat import CacheList, KVCache, RotatingKVCache
from mlxarch.generate import Answer
from mlxarch.rollback import State, drafting, step_back
from mlxarch.sampling import Sampling
from mlxarch.speculate import Heads, Lookup, Smaller
from mlxarch.stake import Stake

LENGTH = 40
# Only attention knows of rows that begin later.
BATCHED = [
    name
    for name in tiny_configs.CONFIGS
    if all(isinstance(block.mixer, Attention) for block in tiny_configs.build(name).layers)
]


@pytest.fixture(scope="module", params=tiny_configs.CONFIGS)
def model(request):
    name = request.param
    built = tiny_configs.model(name, **tiny_configs.divided(name))
    if name in tiny_configs.MTP:
        built.mtp = tiny_configs.mtp(name, [f"mtp.0.{tiny_configs.MTP[name]}"])
    return built


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, tiny_configs.VOCAB, count).tolist()


def feed(model, caches, ids, *cuts):
    """Logits (B, L, V) of tokens that arrive in pieces."""
    ids = mx.array(ids)[None] if mx.array(ids).ndim == 1 else mx.array(ids)
    edges = [0, *cuts, ids.shape[1]]
    pieces = [model(ids[:, a:b], cache=caches) for a, b in pairwise(edges)]
    return np.array(mx.concatenate(pieces, axis=1))


def rounded(kind, bits, key, value):
    """A plain cache of rows that went through MLX's own quantization and back."""

    class Rounded(kind):
        def update_and_fetch(self, keys, values):
            return super().update_and_fetch(through(keys, key), through(values, value))

    def through(rows, size):
        if size is None:
            return rows
        sizes = {"group_size": 64 if size % 64 == 0 else 32, "bits": bits}
        return mx.dequantize(*mx.quantize(rows, **sizes), **sizes)

    return Rounded


def reference(model, bits):
    """Caches in floats that hold what those in few bits should stand for."""
    found = []
    for block, cache in zip(model.layers, model.make_cache(), strict=True):
        first = cache[0] if isinstance(cache, CacheList) else cache
        if not isinstance(first, State):
            mixer = block.mixer
            latent = not isinstance(mixer, Attention)
            sizes = (mixer.rank, None) if latent else (64, 64)
            kind = rounded(type(first), bits, *sizes)
            first = kind() if type(first) is KVCache else kind(max_size=mixer.window)
            cache = CacheList(first, KVCache()) if isinstance(cache, CacheList) else first
        found.append(cache)
    return found


@pytest.mark.parametrize("bits", kv.BITS)
def test_logits_are_those_of_rows_that_were_rounded(model, bits):
    rows = [tokens(LENGTH, seed) for seed in (0, 1)]
    cuts = (1, 14, 15, 19, 31)
    ours = feed(model, model.make_cache(bits), rows, *cuts)
    assert_close("logits", ours, feed(model, reference(model, bits), rows, *cuts))


def test_few_bits_change_little_and_fewer_more(model):
    plain = feed(model, model.make_cache(), tokens(LENGTH))
    errors = []
    for bits in kv.BITS:
        found = feed(model, model.make_cache(bits), tokens(LENGTH))
        errors.append(np.median([relative(a, b) for a, b in zip(found[0], plain[0], strict=True)]))
    # A step of 8 bits is 17 times as fine as one of 4; random models are touchy.
    assert 0 < errors[0] < 0.05
    assert errors[1] > 5 * errors[0]


@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=6))
@settings(max_examples=5)
def test_any_pieces_give_the_same(model, cuts):
    ids = tokens(LENGTH)
    whole = feed(model, model.make_cache(8), ids)
    assert_close("logits", feed(model, model.make_cache(8), ids, *sorted(cuts)), whole)


@pytest.mark.parametrize("length", [1, 6, LENGTH])
@pytest.mark.parametrize("bits", kv.BITS)
def test_what_was_drafted_and_rejected_leaves_no_trace(model, length, bits):
    before, kept, after = tokens(length), tokens(2, 1), tokens(3, 2)
    caches, plain = model.make_cache(bits), model.make_cache(bits)
    feed(model, caches, before)
    with drafting(caches):
        feed(model, caches, [*kept, *tokens(3, 3)])
    step_back(caches, 3)
    feed(model, plain, before)
    feed(model, plain, kept, 1)
    ours, theirs = (feed(model, each, after, 1, 2) for each in (caches, plain))
    assert_close("going on", ours, theirs)


@pytest.mark.parametrize("model", BATCHED, indirect=True)
@pytest.mark.parametrize("bits", kv.BITS)
def test_rows_of_a_batch_are_what_each_is_by_itself(model, bits):
    alone = [model.make_cache(bits) for _ in range(3)]
    for seed, (caches, length) in enumerate(zip(alone, (5, LENGTH, 1), strict=True)):
        feed(model, caches, tokens(length, seed))
    batch = [parts[0].merge(parts) for parts in zip(*deepcopy(alone), strict=True)]
    assert all(cache.whole for cache in batch)
    for step in range(12):
        if step == 6:  # one has ended
            for cache in batch:
                cache.filter([0, 2])
            del alone[1]
        new = [[each] for each in tokens(len(alone), step)]
        ours = feed(model, batch, new)
        theirs = [feed(model, caches, one) for caches, one in zip(alone, new, strict=True)]
        # A number that is rounded to the step beside it is off by so much.
        assert relative(ours, np.concatenate(theirs)) < 0.01
    ours = feed(model, [cache.extract(1) for cache in batch], [3])
    assert relative(ours, feed(model, alone[1], [3])) < 0.01


def test_a_prompt_is_reused_as_far_as_it_is_the_same(model):
    past = Past(model, 8)
    first = tokens(LENGTH)
    answer = Answer(model, first, past, max_tokens=6, mark=LENGTH - 8)
    list(answer)
    for prompt in ([*first, *tokens(4, 5)], [*first[: LENGTH - 6], *tokens(5, 6)]):
        again = Answer(model, prompt, past, max_tokens=6, mark=LENGTH - 8)
        said = [token.id for token in again]
        assert again.cached >= LENGTH - 8
        fresh = Answer(model, prompt, Past(model, 8), max_tokens=6)
        assert said == [token.id for token in fresh]


class Always(Stake):
    def choose(self):
        return self.most


@pytest.mark.parametrize(
    ("model", "who"),
    [
        *product(tiny_configs.CONFIGS, ("lookup", "itself")),
        *product(tiny_configs.MTP, ("heads",)),
    ],
    indirect=["model"],
)
def test_speculation_says_what_plain_decoding_says(model, who):
    drafters = {
        "heads": lambda: Heads(model, Sampling()),
        "lookup": Lookup,
        "itself": lambda: Smaller(Past(model), Sampling(), tiny_configs.VOCAB),
    }
    prompt, found = tokens(12) * 2, []
    for drafter in (None, drafters[who]()):
        past = Past(model, 8)
        answer = Answer(model, prompt, past, max_tokens=24, drafter=drafter, stake=Always(5))
        found.append(([token.id for token in answer], past.tokens))
    assert found[0] == found[1]


def test_memory_is_that_of_few_bits():
    model = tiny_configs.model("nanbeige41", **tiny_configs.divided("nanbeige41"))
    sizes = {}
    for bits in (None, *kv.BITS):
        past = Past(model, bits)
        feed(model, past.caches, tokens(LENGTH))
        sizes[bits] = past.nbytes
    # 2 layers, keys and values, 2 heads, 256 rows; a group of 64 has 8 bytes of scale and bias.
    rows = 2 * 2 * 2 * 256
    assert sizes == {None: rows * 64 * 4, 8: rows * (64 + 8), 4: rows * (32 + 8)}


def test_mlx_lm_finds_the_same_where_it_runs():
    model = tiny_configs.model("nanbeige41", **tiny_configs.divided("nanbeige41"))
    ids, cuts = tokens(LENGTH), (17, 20, 21, 22)
    for bits in kv.BITS:
        theirs = [QuantizedKVCache(group_size=64, bits=bits) for _ in model.layers]
        wanted = feed(model, theirs, ids, *cuts)
        assert_close("logits", feed(model, model.make_cache(bits), ids, *cuts), wanted)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_some_heads_at_a_time_are_all_heads(monkeypatch, window, length):
    """However few rows may be unpacked at once, and whichever way they are multiplied."""
    block = Attention(24, 6, 3, 64, window=window)
    caches = [block.make_cache(8) for _ in range(3)]
    x = mx.random.normal((2, 20, 24), key=mx.random.key(0))
    found = []
    for cache, few, at_once in zip(caches, (0, 0, 99), (1, 1 << 30, 1), strict=True):
        monkeypatch.setattr(kv, "_FEW", few)
        monkeypatch.setattr(kv, "_AT_ONCE", at_once)
        for piece in (x, x[:, :length]):
            out = block(piece, block.make_mask(piece, cache), cache)
        found.append(np.array(out))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4, atol=1e-5)


def test_rows_of_no_group_stay_and_are_named():
    model = tiny_configs.model("tiny_aya")  # heads of 10
    caches = model.make_cache(8)
    assert {type(cache) for cache in caches} == {KVCache, RotatingKVCache}
    words = "No cache is kept in 8 bits: 4 layers with rows that are no multiple of 32."
    assert kv.remark(caches, 8) == words
    ids = tokens(LENGTH)
    wanted = feed(model, model.make_cache(), ids)
    np.testing.assert_array_equal(feed(model, caches, ids), wanted)


REMARKS = {
    "nanbeige41": "",
    "trinity": "",
    "kimi_k25": "The cache is kept in 4 bits, except for rotated keys of latents.",
    "glm5": "The cache is kept in 4 bits, except for rotated keys of latents and indexer keys.",
    "ling25": "The cache is kept in 4 bits, except for 2 recurrent states and rotated keys of "
    "latents.",
    "qwen3_next": "The cache is kept in 4 bits, except for 3 recurrent states.",
}


@pytest.mark.parametrize("name", REMARKS)
def test_what_stays_is_named(name):
    model = tiny_configs.build(name, **tiny_configs.divided(name))
    assert kv.remark(model.make_cache(4), 4) == REMARKS[name]


def test_other_bits_are_refused():
    model = tiny_configs.build("nanbeige41")
    with pytest.raises(ValueError, match="6 bits; 8 and 4 are known"):
        model.make_cache(6)
