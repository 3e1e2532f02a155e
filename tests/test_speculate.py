"""Speculation says what plain decoding says, whoever drafts; and drafts are what heads foresee."""

from functools import cache
from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from goldens import HEADED, NAMES, Golden

import mlxarch
from mlxarch.cache import Past
from mlxarch.generate import Answer
from mlxarch.sampling import History, Sampling
from mlxarch.speculate import Heads, Lookup, Smaller
from mlxarch.stake import Stake

PLAIN = {
    "greedy": Sampling(),
    "sampled": Sampling(0.8, top_p=0.9, top_k=20, seed=3),
    "penalised": Sampling(
        1.0, min_p=0.05, repetition_penalty=1.2, presence_penalty=0.2, frequency_penalty=0.3, seed=5
    ),
}
GREEDY = Sampling()
DRAFTERS = {
    "heads": Heads,
    "lookup": lambda model, sampling: Lookup(),
    "itself": lambda model, sampling: itself(model, sampling),
    "noise": lambda model, sampling: Noise(model.embed.weight.shape[0]),
}


def itself(model, sampling=GREEDY):
    """A model that guesses for itself, as a smaller one would."""
    return Smaller(Past(model), sampling, model.embed.weight.shape[0])


class Noise:
    """Guesses at random: wrong nearly always."""

    most = 5

    def __init__(self, vocab):
        self.random, self.vocab = np.random.default_rng(0), vocab

    def begin(self, tokens):
        self.seen = list(tokens)

    def observe(self, tokens, states):
        assert states.shape[:2] == (1, len(tokens))
        self.seen += tokens

    def draft(self, count, position):
        assert position == len(self.seen)
        return mx.array(self.random.integers(0, self.vocab, count), dtype=mx.int32)


class Always(Stake):
    """Guesses as much as it may."""

    def choose(self):
        return self.most


class Changing(Stake):
    """Guesses now much, now little, now nothing."""

    def __post_init__(self):
        super().__post_init__()
        self.random = np.random.default_rng(1)

    def choose(self):
        return int(self.random.choice([0, 0, 0, 1, 2, 3, 6]))


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return mlxarch.load(Golden(request.param).folder)


@pytest.fixture(scope="module")
def plain(model):
    """What the model says where nobody drafts, and the tokens in its caches; each found once."""

    @cache
    def find(prompt, sampling, count):
        tokens, _, past = said(model, list(prompt), sampling=sampling, max_tokens=count)
        return tokens, past.tokens

    return lambda prompt, sampling=GREEDY, count=30: find(tuple(prompt), sampling, count)


def prompt_for(model, length=30, seed=0):
    return np.random.default_rng(seed).integers(0, model.embed.weight.shape[0], length).tolist()


def said(model, prompt, past=None, **options):
    past = Past(model) if past is None else past
    answer = Answer(model, prompt, past, **{"max_tokens": 30, "stake": Always(6), **options})
    return [token.id for token in answer], answer, past


def each_model(*cases):
    """Each model with the drafters that it has and how tokens are chosen."""
    found = [
        (name, who, how) for name in NAMES for who, how in cases if who != "heads" or name in HEADED
    ]
    return pytest.mark.parametrize(("model", "who", "how"), found, indirect=["model"])


@each_model(
    *((who, "greedy") for who in DRAFTERS),
    *((who, "sampled") for who in ("heads", "itself")),
    ("noise", "penalised"),
)
def test_an_answer_does_not_depend_on_who_drafts(model, plain, who, how):
    prompt, sampling = prompt_for(model), PLAIN[how]
    drafter = DRAFTERS[who](model, sampling)
    found, answer, past = said(model, prompt, sampling=sampling, drafter=drafter)
    assert (found, past.tokens) == plain(prompt, sampling)
    assert answer.reason == "length"
    assert 0 <= answer.right <= answer.guessed
    if who == "itself":
        assert answer.right == answer.guessed > 20
    # The caches hold what they say: a second question goes on from there.
    more = [*prompt, *found, *prompt_for(model, 5, 1)]
    again, *_ = said(model, more, past, sampling=sampling, drafter=drafter, max_tokens=12)
    assert again == plain(more, sampling, 12)[0]


@each_model(*product(DRAFTERS, PLAIN))
def test_an_answer_does_not_depend_on_how_much_is_guessed(model, plain, who, how):
    prompt, sampling = prompt_for(model), PLAIN[how]
    drafter = DRAFTERS[who](model, sampling)
    options = {"drafter": drafter, "stake": Changing(), "max_tokens": 60}
    found, answer, past = said(model, prompt, sampling=sampling, **options)
    assert (found, past.tokens) == plain(prompt, sampling, 60)
    if who == "itself" and not sampling.remembers:
        assert answer.right == answer.guessed > 10


@pytest.mark.parametrize("length", [1, 2, 60])
def test_prompts_of_any_length(model, plain, length):
    prompt = prompt_for(model, length)
    drafters = [Lookup(), Noise(model.embed.weight.shape[0])]
    for drafter in drafters + ([Heads(model, Sampling())] if model.mtp else []):
        assert said(model, prompt, drafter=drafter)[0] == plain(prompt)[0]


def test_stops_limits_and_leaving_are_as_without(model, plain):
    prompt = prompt_for(model)
    whole = plain(prompt)[0]
    for room in (1, 2, 3, 7):
        tokens, answer, past = said(model, prompt, drafter=itself(model), max_tokens=room)
        assert (tokens, answer.reason) == (whole[:room], "length")
        assert past.tokens == prompt + whole[: room - 1]
        limits = {"max_tokens": None, "context": len(prompt) + room}
        tokens, answer, past = said(model, prompt, drafter=itself(model), **limits)
        assert (tokens, answer.reason) == (whole[:room], "context")
    for stop in dict.fromkeys(whole[:9]):
        drafter = itself(model)
        tokens, answer, past = said(model, prompt, drafter=drafter, stop_ids={stop})
        assert (tokens, answer.reason) == (whole[: whole.index(stop)], "stop")
        assert past.tokens[: len(prompt) + len(tokens)] == prompt + tokens
        assert past.tokens[len(prompt) + len(tokens) :] in ([], [stop])
    calls = iter([False] * 3 + [True] * 99)
    quick = {"max_tokens": 30, "cancelled": lambda: next(calls)}
    tokens, answer, past = said(model, prompt[:2], drafter=itself(model), **quick)
    assert answer.reason == "cancelled"
    assert len(tokens) < 5
    left = past.tokens
    assert left == said(model, prompt[:2], past=None)[2].tokens[: len(left)]


@pytest.mark.parametrize("stake", [Always(3), Changing()])
@pytest.mark.parametrize("model", HEADED, indirect=True)
def test_a_head_foresees_what_it_would_from_all_tokens_at_once(model, stake):
    """Drafts, made piece by piece with caches, against the heads on everything so far."""
    prompt, drafts = prompt_for(model, 16), []

    class Seen(Heads):
        def draft(self, count, position):
            found = super().draft(count, position)
            drafts.append((position, found.tolist()))
            return found

    found, *_ = said(model, prompt, drafter=Seen(model, Sampling()), stake=stake)
    tokens = prompt + found
    for position, guesses in drafts:
        states = model.norm(model.hidden(mx.array([tokens[: position - 1]])))
        following = [*tokens[1:position]]
        for j, (head, guess) in enumerate(zip(model.mtp, guesses, strict=False)):
            embedded = model.embed(mx.array([following[j:] + guesses[:j]])) * model.embed_scale
            states = head(states[:, : embedded.shape[1]], embedded)
            own = model.logits if head.head is None else head.head
            logits = np.array(own(states[:, -1:])[0, 0])
            assert logits.max() - logits[guess] < 1e-3, (position, j)
    assert len(drafts) > 10


def test_what_is_drawn_has_the_distribution_that_is_asked_for():
    """4,000 positions against probabilities computed in numpy; chi-square at 1 in 100,000."""
    logits = np.array([2.0, 1.5, 1.0, 0.0, -1.0, -3.0])
    cases = {
        Sampling(0.7): np.arange(6),
        Sampling(1.0, top_k=3): np.arange(3),
        Sampling(1.0, top_p=0.8): np.arange(3),
        Sampling(2.0, min_p=0.3): np.arange(4),
    }
    for sampling, allowed in cases.items():
        heat = logits[allowed] / sampling.temperature
        wanted = np.exp(heat) / np.exp(heat).sum()
        rows = mx.broadcast_to(mx.array(logits), (4_000, 6))
        drawn = np.array(sampling.choose(rows, 0))
        counts = np.bincount(drawn, minlength=6)
        assert counts[len(allowed) :].sum() == 0
        expected = wanted * 4_000
        distance = ((counts[: len(allowed)] - expected) ** 2 / expected).sum()
        assert distance < 31, (sampling, counts, expected)  # 5 degrees of freedom: 30.9


def test_penalties_are_those_of_the_formula():
    prompt, answer = [0, 2, 2], [1, 1, 3]
    history = History.of(prompt, 5)
    for token in answer:
        history = history.after(mx.array([token]))
    logits = mx.array([[1.0, 2.0, -1.0, 4.0, 0.5]])
    sampling = Sampling(1.0, repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.125)
    found = np.array(sampling._penalised(logits, history))[0]
    wanted = [0.5, 1.0 - 0.25 - 2 * 0.125, -2.0, 2.0 - 0.25 - 0.125, 0.5]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # All at once or one by one.
    at_once = History.of(prompt, 5)
    at_once = at_once.joined(at_once.after(mx.array(answer)))
    np.testing.assert_array_equal(np.array(at_once.counts[-1]), np.array(history.counts[-1]))


def test_a_lookup_goes_on_with_what_it_knows_and_forgets_what_was_left():
    lasting = Lookup()
    lasting.begin([1, 2, 3, 4, 5, 9, 9])
    lasting.begin([1, 2, 3, 4, 6, 7, 8, 2, 3])  # where the two part, 5 was said, and is no more
    assert lasting.draft(3, 0).tolist() == [4, 6, 7]
    lasting.begin([1, 2, 3])
    assert lasting.draft(3, 0).tolist() == []
