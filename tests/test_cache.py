"""What is reused of a conversation: as much as can be, and never wrongly."""

import mlx.core as mx
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tiny import PROMPT, answer, assert_whole, recomputed

from mlxarch.cache import Past
from mlxarch.pace import Pace
from mlxarch.sampling import Sampling

WINDOWED = tiny.model("cohere2")


@pytest.fixture(scope="module", params=tiny.CONFIGS)
def model(request):
    return tiny.model(request.param)


def following(kind, said):
    """What comes after a conversation of PROMPT and its answer."""
    return {
        "extended": [*PROMPT, *said, 9, 8, 7],
        "answer rendered otherwise": [*PROMPT, *said[:2], 200, 9, 8],
        "regenerated": PROMPT,
        "last word changed": [*PROMPT[:-1], 201, 3],
        "middle changed": [*PROMPT[:20], 202, *PROMPT[20:]],
        "unrelated": [203, 204, 205],
    }[kind]


# How much of each is reused: where caches can be cut, all that is shared; a full window, which
# cannot, goes on from its end or from the mark before the prompt's last token, else anew.
LAST = len(PROMPT) - 1
REUSED = {
    "extended": (LAST + 8, LAST + 8),  # the answer's last token was not fed
    "answer rendered otherwise": (LAST + 3, LAST),
    "regenerated": (LAST, LAST),
    "last word changed": (LAST, LAST),
    "middle changed": (20, 0),
    "unrelated": (0, 0),
}


@pytest.mark.parametrize("kind", REUSED)
def test_reuse_is_exact_past_the_window(model, kind):
    past = Past(model)
    said, _ = answer(model, PROMPT, past, max_tokens=8)
    prompt = following(kind, said)
    tokens, ended = answer(model, prompt, past, max_tokens=24)
    assert tokens == recomputed(model, prompt, 24)
    assert ended.cached == REUSED[kind][0 if past.cuttable else 1]
    assert_whole(past)


def test_logits_after_reuse_are_those_without(model):
    past = Past(model)
    said, _ = answer(model, PROMPT, past)
    prompt = [*PROMPT, *said, 9, 8, 7]
    logits = []

    class Keeping(Sampling):
        def choose(self, found, first, history=None):
            logits.append(np.array(found))
            return super().choose(found, first, history)

    _, ended = answer(model, prompt, past, sampling=Keeping())
    assert ended.cached > 0
    for i, found in enumerate(logits):
        whole = model(mx.array([prompt + past.tokens[len(prompt) :][:i]]))[:, -1]
        np.testing.assert_allclose(found, np.array(whole), rtol=1e-4, atol=1e-4)


def test_a_window_that_is_not_full_is_cut(model):
    past = Past(model)
    answer(model, PROMPT[:6], past, max_tokens=4)
    prompt = [*PROMPT[:4], 210, 211]
    tokens, ended = answer(model, prompt, past, max_tokens=30)
    assert ended.cached == 4
    assert tokens == recomputed(model, prompt, 30)


def test_the_mark_is_where_the_conversation_ends():
    model = WINDOWED
    past, opening = Past(model), len(PROMPT) - 5
    answer(model, PROMPT, past, mark=opening)
    # The next rendering drops what opened the answer, as templates that think do.
    prompt = [*PROMPT[:opening], 220, 221, 222]
    for _ in range(3):
        tokens, ended = answer(model, prompt, past, mark=opening, max_tokens=20)
        assert ended.cached == opening
        assert tokens == recomputed(model, prompt, 20)


def test_what_is_kept_at_a_mark_does_not_change_with_the_caches():
    model = WINDOWED
    past = Past(model)
    # Token by token the caches write in place, into the arrays that they had at the mark.
    for _ in range(3):
        tokens, ended = answer(model, PROMPT, past, pace=Pace(tokens=1, most=1), max_tokens=20)
        assert tokens == recomputed(model, PROMPT, 20)
    assert ended.cached == len(PROMPT) - 1


def test_a_mark_is_forgotten_when_what_it_stands_on_is_cut():
    model = WINDOWED
    past = Past(model)
    answer(model, PROMPT[:10], past, max_tokens=2)  # a mark at 9
    other = [*PROMPT[:5], *range(100, 130)]
    _, ended = answer(model, other, past, mark=3, max_tokens=1)
    assert ended.cached == 5
    tokens, ended = answer(model, [*other[:25], 231, 232], past, max_tokens=20)
    assert ended.cached == 0
    assert tokens == recomputed(model, [*other[:25], 231, 232], 20)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(1, 30)), max_size=4))
def test_any_conversation_is_answered_as_if_it_were_the_first(turns):
    model = WINDOWED
    past = Past(model)
    for keep, change, count in turns:
        prompt = past.tokens[:keep] + [240 + change] * (1 + change)
        tokens, _ = answer(model, prompt, past, max_tokens=count, pace=Pace(tokens=7, most=7))
        assert tokens == answer(model, prompt, max_tokens=count)[0]
    assert_whole(past)


def test_memory_of_the_past_is_counted(model):
    past = Past(model)
    assert past.nbytes == 0
    answer(model, PROMPT, past)
    caches = sum(cache.nbytes for cache in past.caches)
    assert past.nbytes > caches if not past.cuttable else past.nbytes == caches
