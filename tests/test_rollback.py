"""Drafted tokens that are rejected leave no trace in any cache of any architecture."""

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close
from goldens import NAMES, Golden
from mlx.utils import tree_flatten

import mlxarch
from mlxarch.cache import Past
from mlxarch.rollback import State, drafting, step_back

# Before any window is full, while it fills up, and well past it and past the indexer's choice.
LENGTHS = (1, 6, 40)
KEPT = (1, 3)  # of four tokens of which the first is no draft


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return mlxarch.load(Golden(request.param).folder)


def tokens(model, count, seed):
    vocab = model.embed.weight.shape[0]
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def feed(model, caches, ids):
    logits = model(mx.array([ids]), cache=caches)
    mx.eval(logits)
    return logits


def drafted(model, before, kept, rejected):
    """Caches after tokens that were read, and drafts of which some were kept."""
    caches = model.make_cache()
    feed(model, caches, before)
    with drafting(caches):
        feed(model, caches, kept + rejected)
    step_back(caches, len(rejected))
    return caches


def numbers(caches):
    """All that later tokens may see, flat."""
    found = []
    for cache in caches:
        parts = cache.caches if hasattr(cache, "caches") else [cache]
        for part in parts:
            if part.empty():
                continue
            if hasattr(part, "keys"):
                found += [*part.keys_and_values(), part.offset]
            else:
                found += list(part.cache)
    return [np.array(value) for _, value in tree_flatten(found)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", KEPT)
def test_what_was_rejected_leaves_no_trace(model, length, count):
    before, kept = tokens(model, length, 0), tokens(model, count, 1)
    first = drafted(model, before, kept, tokens(model, 4 - count, 2))
    second = drafted(model, before, kept, tokens(model, 4 - count, 3))
    for a, b in zip(numbers(first), numbers(second), strict=True):
        np.testing.assert_array_equal(a, b)
    after = tokens(model, 30, 4)
    for token in after:
        a, b = feed(model, first, [token]), feed(model, second, [token])
        np.testing.assert_array_equal(np.array(a), np.array(b))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", KEPT)
def test_going_on_is_as_if_nothing_had_been_drafted(model, length, count):
    before, kept, after = tokens(model, length, 0), tokens(model, count, 1), tokens(model, 25, 4)
    caches = drafted(model, before, kept, tokens(model, 4 - count, 2))
    plain = model.make_cache()
    feed(model, plain, before)
    for token in kept:
        feed(model, plain, [token])
    for token in after[:5]:
        assert_close("a token", feed(model, caches, [token]), feed(model, plain, [token]), 1e-4)
    # Again and again, as decoding does.
    for start in range(5, 25, 4):
        with drafting(caches):
            feed(model, caches, after[start : start + 2] + tokens(model, 2, start))
        step_back(caches, 2)
        feed(model, caches, after[start + 2 : start + 4])
        theirs = [feed(model, plain, [token]) for token in after[start : start + 4]]
    last = tokens(model, 1, 9)
    assert_close("the end", feed(model, caches, last), feed(model, plain, last), 1e-4)
    assert len(theirs) == 4


def test_a_prompt_that_parts_from_the_last_one_is_read_from_there(model):
    past = Past(model)
    before, other = tokens(model, 12, 0), tokens(model, 6, 1)
    feed(model, past.caches, before)
    past.tokens += before
    kept = past.rewind(before[:8] + other)
    assert kept in (0, 8)
    feed(model, past.caches, (before[:8] + other)[kept:])
    plain = model.make_cache()
    feed(model, plain, before[:8] + other)
    last = tokens(model, 1, 9)
    assert_close("the end", feed(model, past.caches, last), feed(model, plain, last), 1e-4)


def test_a_recurrent_state_is_that_of_plain_decoding(model):
    """Of the drafted tokens at once it is made by other sums, whose rounding alone may differ."""
    if not isinstance(model.make_cache()[0], State):
        assert not any(isinstance(cache, State) for cache in model.make_cache())
        return
    before, kept = tokens(model, 9, 0), tokens(model, 3, 1)
    caches = drafted(model, before, kept, tokens(model, 2, 2))
    plain = model.make_cache()
    feed(model, plain, before)
    for token in kept:
        feed(model, plain, [token])
    ours, theirs = caches[0].cache, plain[0].cache
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-6)
