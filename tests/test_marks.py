"""Going back in a conversation: what is read again, what is kept for it, and that it is exact."""

import mlx.core as mx
import numpy as np
import pytest
import tiny_configs
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxarch import backend
from mlxarch.cache import Past
from mlxarch.generate import Answer
from mlxarch.marks import NEAR  # ends of messages are not marked so near each other
from mlxarch.pace import Pace
from mlxarch.sampling import Sampling
from mlxarch.speculate import Lookup, Smaller
from mlxarch.stake import Stake

END, OPEN = 60, 59  # what a message ends with, and what opens an answer
VOCAB = 58  # tokens that people use
LONG = 40  # tokens of a message: several windows, choices and chunks
FAMILIES = [name for name in tiny_configs.CONFIGS if name != "qwen35 experts"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_configs.model(request.param)


@pytest.fixture(scope="module")
def hybrid():
    return tiny_configs.model("qwen3_next")


@pytest.fixture(scope="module")
def windowed():
    return tiny_configs.model("trinity")


def message(seed, length=LONG):
    """Random tokens, and the one that ends them."""
    return [*np.random.default_rng(seed).integers(0, VOCAB, length - 1).tolist(), END]


def prompt(messages):
    """A conversation that is to be answered."""
    return [*(token for each in messages for token in each), OPEN]


def ask(past, messages, **options):
    """Answer a conversation: its tokens, and the answer."""
    tokens = prompt(messages)
    options = {"max_tokens": 6, "mark": len(tokens) - 1, "stop_ids": {END}, **options}
    answer = Answer(past.model, tokens, past, **options)
    return [token.id for token in answer], answer


def talk(past, turns, **options):
    """A conversation of some turns that keeps what was said, each answered."""
    messages = []
    for turn in range(turns):
        messages.append(message(turn))
        said, _ = ask(past, messages, **options)
        messages.append([*said, END] if END not in said else said)
    return messages


def length(messages):
    return sum(map(len, messages))


@pytest.mark.parametrize("bits", [None, 8])
def test_an_edit_reads_only_what_changed(model, bits):
    past = Past(model, bits)
    messages = talk(past, 6)
    for k in (10, 8, 4, 3):  # the last question, one before it ... and an answer
        edited = [*messages[:k], message(100 + k)]
        said, answer = ask(past, edited)
        # The same question as it was, and the one before the last edit, are there as well.
        assert answer.cached > length(messages[:k]) - NEAR
        assert said == ask(Past(model, bits), edited)[0]
        again, answer = ask(past, edited)
        assert (again, answer.cached) == (said, length(edited))


def test_thinking_that_the_next_prompt_drops_costs_only_the_answer(model):
    past, messages = Past(model), []
    for turn in range(4):
        messages.append(message(turn))
        said, answer = ask(past, messages, max_tokens=20)
        if turn:
            # The answer before, as it is shown, and the new question.
            assert len(answer.prompt) - answer.cached <= 4 + LONG + 1
        messages.append([5, 6, 7, END])
    assert said == ask(Past(model), messages[:-1], max_tokens=20)[0]


def test_branches_part_where_they_part(model):
    past = Past(model)
    messages = talk(past, 5)
    for turn in range(3):
        for branch in (200, 300):
            fork = [*messages[:6], message(branch)]
            _, answer = ask(past, fork)
            assert answer.cached >= length(messages[:6]), (turn, branch)


def test_a_branch_that_was_left_is_still_there(model):
    past = Past(model)
    a = talk(past, 4)
    b = [*a[:4], message(300), message(301), message(302)]
    ask(past, b)
    said, answer = ask(past, [*a, message(400)])
    # The last answer's end was never fed.
    assert len(answer.prompt) - answer.cached <= 2 * 16 + LONG + 1
    assert said == ask(Past(model), [*a, message(400)])[0]
    said, answer = ask(past, [*b, message(401), message(402)])
    assert answer.cached >= length(b)
    assert said == ask(Past(model), [*b, message(401), message(402)])[0]


def test_another_conversation_does_not_cost_this_one(model):
    past = Past(model)
    messages = talk(past, 3)
    for other in range(3):
        ask(past, [message(500 + other)])
        _, answer = ask(past, [*messages, message(600)])
        assert len(answer.prompt) - answer.cached <= 16 + LONG + 1


def test_branches_take_no_more_than_their_room(hybrid):
    past = Past(hybrid, room=100_000)
    before = 0
    for other in range(12):
        ask(past, [message(700 + other, 120)])
        now = sum(cache.nbytes for cache in past.caches) + past.now.marks.nbytes
        before = max(before, past.nbytes - now)
    assert 50_000 < before <= 100_000


def test_an_answer_that_goes_on_is_not_read_again_for_its_last_word(hybrid):
    past, question = Past(hybrid), message(0)
    said, _ = ask(past, [question], max_tokens=290, stop_ids=frozenset())
    assert len(past.tokens) > 300
    going_on = [*prompt([question]), *said[:-3], 57]
    answer = Answer(hybrid, going_on, past, max_tokens=6)
    again = [token.id for token in answer]
    assert len(going_on) - answer.cached < 40
    assert again == [t.id for t in Answer(hybrid, going_on, Past(hybrid), max_tokens=6)]


def test_what_is_not_needed_to_go_on_is_shed(windowed):
    past = Past(windowed)
    messages = talk(past, 4)
    ask(past, [message(900)])
    ask(past, messages)
    before = past.nbytes
    past.shed()
    assert past.nbytes < before
    assert len(past.marked) == 1
    said, answer = ask(past, messages)
    assert answer.cached == length(messages)
    assert said == ask(Past(windowed), messages)[0]


def test_what_a_cold_reading_marks(hybrid):
    messages = [message(i) for i in range(21)]
    past = Past(hybrid)
    ask(past, messages, pace=Pace(tokens=8, most=8))
    for k in (19, 11, 3):
        _, answer = ask(past, [*messages[:k], message(100 + k)])
        assert answer.cached == length(messages[:k])


def test_many_short_messages_are_not_read_one_by_one(hybrid):
    past, pieces = Past(hybrid), []
    messages = [message(i, 4) for i in range(201)]
    pace = Pace(tokens=64, most=64)
    ask(past, messages, pace=pace, on_prefill=lambda done, total: pieces.append(done))
    assert len(pieces) <= 804 / 32 + 6
    # Still, none of the last messages is far from a mark.
    for k in (199, 197, 195):
        _, answer = ask(past, [*messages[:k], message(k, 9)])
        assert 0 <= length(messages[:k]) - answer.cached < 20


def spaced(past, count, gap=8):
    """Marks after every few tokens."""
    for i in range(count):
        piece = message(i, gap)
        past.model.hidden(mx.array([piece]), past.caches)
        past.tokens += piece
        past.mark()


def test_marks_take_no_more_than_their_room(hybrid):
    one = Past(hybrid)
    spaced(one, 1)
    size = one.now.marks.nbytes
    past = Past(hybrid, room=6 * size)
    spaced(past, 40)
    kept = past.marked
    assert len(kept) == 6
    # The last one is what the caches hold now.
    assert past.nbytes - sum(cache.nbytes for cache in past.caches) == 5 * size
    # The last ones, and ever fewer further back.
    gaps = np.diff([0, *kept])[::-1]
    assert kept[-1] == 320
    assert gaps[0] == 8
    assert all(gaps[1:] >= gaps[:-1])
    assert Past(hybrid, room=0).nbytes == 0
    none = Past(hybrid, room=0)
    spaced(none, 3)
    assert none.marked == [24]


def test_marks_of_windows_share_their_rows(windowed):
    past = Past(windowed)
    spaced(past, 40, gap=4)
    assert len(past.marked) == 40
    kept = past.nbytes - sum(cache.nbytes for cache in past.caches)
    row = 3 * 2 * 2 * 10 * 4  # bytes: three layers, keys and values, two heads of 10 floats
    assert kept == 160 * row


def test_a_shared_row_outlives_the_mark_that_had_it(windowed):
    """Marks are forgotten in any order; those that are left are whole."""
    wanted = {}
    for rounds in range(8):
        past = Past(windowed)
        spaced(past, 12, gap=4)
        random = np.random.default_rng(rounds)
        for _ in range(random.integers(1, 9)):
            past.now.marks._drop(int(random.integers(0, len(past.marked))))
        for mark in reversed(past.marked):
            past.rewind([*past.tokens[:mark], 58, 58])
            assert len(past.tokens) == mark
            found = np.array(windowed(mx.array([[7]]), cache=past.caches))
            past.tokens.append(7)
            whole = np.array(windowed(mx.array([past.tokens]))[:, -1:])
            np.testing.assert_allclose(found, wanted.setdefault(mark, whole), rtol=1e-4, atol=1e-4)


class Always(Stake):
    def choose(self):
        return self.most


STEPS = st.lists(
    st.tuples(
        st.integers(0, 9),  # messages that are kept
        st.integers(0, 3),  # what is asked then
        st.sampled_from([2, 7, 30]),  # its tokens
        st.sampled_from(["", "", "cancelled", "lookup", "smaller"]),
    ),
    min_size=2,
    max_size=6,
)


@pytest.mark.slow
@given(steps=STEPS)
@settings(max_examples=12)
def test_any_conversation_is_answered_as_if_it_were_the_first(model, steps):
    _as_if_it_were_the_first(model, None, 1 << 30, steps)


@pytest.mark.slow
@given(steps=STEPS, room=st.sampled_from([0, 20_000]))
@settings(max_examples=6)
def test_so_it_is_in_few_bits_and_with_little_room(model, steps, room):
    _as_if_it_were_the_first(model, 8, room, steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@given(steps=STEPS)
@settings(max_examples=4)
def test_so_it_is_where_kernels_of_our_own_write_into_caches(name, steps):
    quick = tiny_configs.model(name)
    backend.quicken(quick)
    _as_if_it_were_the_first(quick, None, 1 << 30, steps)


def _as_if_it_were_the_first(model, bits, room, steps):
    past, guessing = Past(model, bits, room), Past(model, room=room)
    messages = []
    for keep, seed, size, how in steps:
        messages = [*messages[:keep], message(seed, size)]
        options = {"max_tokens": 12, "pace": Pace(tokens=16, most=16)}
        if how == "lookup":
            options |= {"drafter": Lookup(), "stake": Always(3)}
        elif how == "smaller":
            smaller = Smaller(guessing, Sampling(), tiny_configs.VOCAB)
            options |= {"drafter": smaller, "stake": Always(3)}
        if how == "cancelled":
            pieces = iter((False, False, True))
            ask(past, messages, cancelled=lambda: next(pieces, True), **options)  # noqa: B023
            continue
        said, _ = ask(past, messages, **options)
        assert said == ask(Past(model, bits), messages, max_tokens=12)[0]
        messages.append([*said, END])
