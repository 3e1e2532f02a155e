"""Thinking is ended after so many tokens, and what follows is as if the model had ended it."""

import mlx.core as mx
import pytest
from goldens import NAMES, Golden
from test_speculate import Always, Lookup, Noise, itself, prompt_for

import mlxarch
from mlxarch.cache import Past
from mlxarch.generate import Answer
from mlxarch.sampling import History, Sampling
from mlxarch.thinking import Bounded

ENDING = [3, 7, 5]


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return mlxarch.load(Golden(request.param).folder)


class Listener:
    """Reads an answer that begins within thinking, which ENDING ends."""

    def __init__(self):
        self.tokens, self.seconds = [], []

    @property
    def thinks(self):
        return not any(self.tokens[i : i + 3] == ENDING for i in range(len(self.tokens)))

    def hear(self, model, prompt, past=None, *, budget=5, **options):
        past = Past(model) if past is None else past
        options = {"max_tokens": 20, "stake": Always(6), **options}
        bounded = Bounded(
            Answer(model, prompt, past, **options), lambda: self.thinks, budget, ENDING
        )
        for token in bounded:
            self.tokens.append(token.id)
            self.seconds.append(token.seconds)
        return bounded, past


def plain(model, prompt, count, **options):
    return [token.id for token in Answer(model, prompt, Past(model), max_tokens=count, **options)]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, top_k=20, seed=3)])
@pytest.mark.parametrize("who", ["nobody", "itself", "noise"])
def test_the_answer_begins_where_thinking_is_ended(model, who, sampling):
    prompt = prompt_for(model)
    drafter = {
        "nobody": lambda: None,
        "itself": lambda: itself(model, sampling),
        "noise": lambda: Noise(model.embed.weight.shape[0]),
    }[who]()
    listener = Listener()
    bounded, past = listener.hear(model, prompt, sampling=sampling, drafter=drafter)
    said = listener.tokens
    assert said[:5] == plain(model, prompt, 5, sampling=sampling)
    assert said[5:8] == ENDING
    assert said[8:] == plain(model, [*prompt, *said[:8]], 12, sampling=sampling)
    assert (bounded.reason, len(said)) == ("length", 20)
    assert min(listener.seconds) > 0
    assert bounded.right <= bounded.guessed
    # The caches hold what they say: a second question goes on from there.
    more = [*prompt, *said, *prompt_for(model, 5, 1)]
    answer = Answer(model, more, past, max_tokens=6)
    assert [token.id for token in answer] == plain(model, more, 6)
    assert past.tokens[: len(more)] == more


def llama():
    return mlxarch.load(Golden("nanbeige41").folder)


def test_thinking_that_ends_by_itself_is_left_alone():
    model, prompt = llama(), prompt_for(llama())
    free = plain(model, prompt, 20)
    bounded = Bounded(Answer(model, prompt, Past(model), max_tokens=20), lambda: False, 5, ENDING)
    assert [token.id for token in bounded] == free
    listener = Listener()
    listener.hear(model, prompt, budget=None)
    assert listener.tokens == free


@pytest.mark.parametrize(("most", "wanted"), [(4, 4), (5, 5), (8, 5), (9, 9)])
def test_the_longest_answer_counts_what_ends_thinking(most, wanted):
    model, listener = llama(), Listener()
    bounded, _ = listener.hear(model, prompt_for(model), max_tokens=most)
    assert (len(listener.tokens), bounded.reason) == (wanted, "length")


def test_a_context_that_is_full_ends_it():
    model, listener = llama(), Listener()
    bounded, past = listener.hear(model, prompt_for(model), max_tokens=None, context=40)
    assert (len(listener.tokens), bounded.reason) == (10, "context")
    assert len(past.tokens) <= 40


@pytest.mark.parametrize("after", [0, 3, 12])
def test_it_is_cancelled_at_any_point(after):
    model, listener = llama(), Listener()
    bounded, past = listener.hear(
        model, prompt_for(model), cancelled=lambda: len(listener.tokens) >= after
    )
    assert (len(listener.tokens), bounded.reason) == (after, "cancelled")
    assert past.tokens == [*prompt_for(model), *listener.tokens][: len(past.tokens)]


def test_an_answer_that_stops_within_its_thinking_has_stopped():
    model, listener = llama(), Listener()
    prompt = prompt_for(model)
    third = plain(model, prompt, 3)[2]
    bounded, _ = listener.hear(model, prompt, stop_ids={third})
    assert bounded.reason == "stop"
    assert third not in listener.tokens


def test_guesses_never_go_beyond_the_end():
    model = llama()
    prompt = [1, 2, 3, 4] * 8
    listener = Listener()
    listener.hear(model, prompt, drafter=Lookup(), budget=7)
    assert listener.tokens[7:10] == ENDING


def test_penalties_count_what_was_thought():
    said = [1, 5, 5, 2]
    whole = History.of([9, 1], 12, said)
    steps = History.of([9, 1], 12).after(mx.array(said))[-1:]
    assert whole.counts.tolist() == steps.counts.tolist()
    model, listener = llama(), Listener()
    listener.hear(model, prompt_for(model), sampling=Sampling(presence_penalty=1e6), max_tokens=30)
    own = [token for i, token in enumerate(listener.tokens) if i not in (5, 6, 7)]
    assert len(set(own)) == len(own)
