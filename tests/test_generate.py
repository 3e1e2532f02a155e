"""Generation: its tokens, its clock, its end."""

from itertools import pairwise

import mlx.core as mx
import pytest
import tiny
from mlx_lm.generate import generate_step
from tiny import PROMPT, answer, assert_whole, recomputed

from mlxarch.cache import Past
from mlxarch.errors import FormatError
from mlxarch.generate import Answer, Token
from mlxarch.pace import Pace
from mlxarch.sampling import Sampling, generation_config, recommended


@pytest.fixture(scope="module", params=tiny.CONFIGS)
def model(request):
    return tiny.model(request.param)


@pytest.mark.parametrize("length", [1, 2, tiny.WINDOW, 3 * tiny.WINDOW])
def test_greedy_is_the_likeliest_token_of_the_whole_text(model, length):
    tokens, ended = answer(model, PROMPT[:length], max_tokens=2 * tiny.WINDOW)
    assert tokens == recomputed(model, PROMPT[:length], 2 * tiny.WINDOW)
    assert (ended.reason, ended.cached) == ("length", 0)


def test_tokens_are_those_of_mlx_lm(model):
    theirs = generate_step(mx.array(PROMPT), model, max_tokens=40, prompt_cache=model.make_cache())
    assert answer(model, PROMPT, max_tokens=40)[0] == [token for token, _ in theirs]


@pytest.mark.parametrize("size", [1, 3, tiny.WINDOW, 100])
def test_the_size_of_the_pieces_changes_nothing(model, size):
    seen = []
    tokens, _ = answer(
        model, PROMPT, pace=Pace(tokens=size, most=size), on_prefill=lambda *a: seen.append(a)
    )
    assert tokens == recomputed(model, PROMPT, 8)
    done = [d for d, _ in seen]
    assert (done[0], done[-1]) == (0, len(PROMPT))
    assert {total for _, total in seen} == {len(PROMPT)}
    assert all(0 < b - a <= size for a, b in pairwise(done))


def test_a_pace_learns_from_whole_pieces_only():
    pace = Pace(tokens=8, most=512, seconds=0.4)
    pace.learn(3, 9.0)
    assert pace.tokens == 8
    pace.learn(8, 0.01)
    assert pace.tokens == 32  # four times as many at most
    pace.learn(32, 0.55)
    assert pace.tokens == 32  # a little longer than wanted
    pace.learn(32, 0.9)
    assert pace.tokens == 8  # 14 would take 0.4 s
    pace.learn(8, 99.0)
    assert pace.tokens == 1
    pace = Pace(tokens=512, most=512)
    pace.learn(512, 0.001)
    assert pace.tokens == 512


def test_seconds_add_up_to_the_time_it_took(model, monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr("mlxarch.generate.perf_counter", lambda: float(next(ticks)))
    ended = Answer(model, PROMPT[:5], Past(model), max_tokens=4)
    tokens = list(ended)
    assert all(isinstance(token, Token) for token in tokens)
    # One reading of the clock a token; whatever lies between two is the later one's.
    assert [token.seconds for token in tokens] == [1.0] * 4
    assert ended.prefill_seconds > 0


@pytest.mark.parametrize("after", [0, 1, 2])
def test_cancelled_while_it_prefills(model, after):
    past, asked = Past(model), []

    def cancelled():
        asked.append(len(past.tokens))
        return len(asked) > after

    tokens, ended = answer(model, PROMPT, past, pace=Pace(tokens=8, most=8), cancelled=cancelled)
    assert (tokens, ended.reason) == ([], "cancelled")
    assert past.tokens == PROMPT[: 8 * after]
    again, ended = answer(model, PROMPT, past)
    assert again == recomputed(model, PROMPT, 8)
    assert ended.cached == 8 * after
    assert_whole(past)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_cancelled_while_it_answers(model, count):
    past, heard = Past(model), []
    ended = Answer(model, PROMPT, past, cancelled=lambda: len(heard) >= count)
    for token in ended:
        heard.append(token.id)
    assert ended.reason == "cancelled"
    assert heard == recomputed(model, PROMPT, count)
    assert past.tokens == PROMPT + heard
    assert_whole(past)


def test_a_consumer_may_leave(model):
    past = Past(model)
    tokens = iter(Answer(model, PROMPT, past))
    heard = [next(tokens).id for _ in range(3)]
    tokens.close()
    assert past.tokens == PROMPT + heard
    assert_whole(past)


def test_an_error_on_the_way_leaves_nothing_half_known(model):
    past = Past(model)
    answer(model, PROMPT, past)

    class Broken(Sampling):
        def choose(self, logits, first, history=None):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        answer(model, [*PROMPT, 1, 2], past, sampling=Broken())
    assert past.tokens == []
    assert_whole(past)


def test_stop_ids_end_the_answer_and_are_not_part_of_it(model):
    free = recomputed(model, PROMPT, 6)
    stop = next(token for token in free[1:] if token != free[0])
    at = free.index(stop)
    past = Past(model)
    tokens, ended = answer(model, PROMPT, past, stop_ids={stop, 100_000})
    assert (tokens, ended.reason) == (free[:at], "stop")
    # It was fed, as a template will have it in the next prompt.
    assert past.tokens == PROMPT + free[: at + 1]
    assert_whole(past)


@pytest.mark.parametrize(("room", "reason"), [(0, "context"), (1, "context"), (5, "context")])
def test_a_full_context_ends_the_answer(model, room, reason):
    past = Past(model)
    tokens, ended = answer(model, PROMPT, past, max_tokens=None, context=len(PROMPT) + room)
    assert (len(tokens), ended.reason) == (room, reason)
    assert len(past.tokens) <= len(PROMPT) + room
    assert_whole(past)


def test_no_step_is_taken_beyond_the_last_token(model):
    past = Past(model)
    tokens, ended = answer(model, PROMPT, past, max_tokens=3)
    assert ended.reason == "length"
    assert past.tokens == PROMPT + tokens[:2]
    assert_whole(past)


def test_an_empty_prompt_is_an_error(model):
    with pytest.raises(ValueError, match="no tokens"):
        answer(model, [])


def drawn(model, seed, **options):
    return answer(model, PROMPT, sampling=Sampling(seed=seed, **options), max_tokens=20)[0]


def test_a_seed_repeats_an_answer(model):
    assert drawn(model, 5, temperature=1.0) == drawn(model, 5, temperature=1.0)
    assert drawn(model, 5, temperature=1.0) != drawn(model, 6, temperature=1.0)


def test_a_narrow_nucleus_and_no_temperature_are_greedy(model):
    greedy = recomputed(model, PROMPT, 20)
    assert drawn(model, 5, temperature=0.0, top_p=0.5) == greedy
    assert drawn(model, 5, temperature=2.0, top_p=1e-6) == greedy


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p():
    logits = mx.log(mx.array([[0.05, 0.4, 0.25, 0.3]]))
    for top_p, wanted in [(0.39, {1}), (0.5, {1, 3}), (0.9, {1, 2, 3}), (0.96, {0, 1, 2, 3})]:
        draw = Sampling(1.0, top_p)
        assert {draw.choose(logits, i).item() for i in range(200)} == wanted
    # Heat comes first: at 10 the four are nearly even, so that half of it is two or three.
    draw = Sampling(10.0, 0.7)
    assert {draw.choose(logits, i).item() for i in range(200)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ({}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.1, "top_p": 0.95}, {"temperature": 0.1, "top_p": 0.95}),
        ({"do_sample": True, "temperature": 0.6, "top_p": None}, {"temperature": 0.6}),
        # Some name only the tokens to draw from, which asks for drawing.
        ({"top_k": 20, "min_p": 0.1}, {"temperature": 1.0, "top_k": 20, "min_p": 0.1}),
        # Penalties are not drawing; what was meant for it is kept for who asks.
        (
            {"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.05, "top_k": 40},
            {"temperature": 0.0, "repetition_penalty": 1.05, "top_k": 40},
        ),
        ({"repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
    ],
)
def test_what_the_publisher_recommends(raw, wanted):
    assert recommended(raw) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "warm"),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_k", 2.5),
        ("repetition_penalty", True),
        ("min_p", [1]),
    ],
)
def test_a_recommendation_that_makes_no_sense_is_named(name, value):
    with pytest.raises(FormatError, match=rf"{name} in generation_config\.json is"):
        recommended({name: value})


def test_a_damaged_generation_config_is_named(tmp_path):
    assert generation_config(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text("[1")
    with pytest.raises(FormatError, match=r"generation_config.json cannot be read"):
        generation_config(tmp_path)
    (tmp_path / "generation_config.json").write_text("[1]")
    with pytest.raises(FormatError, match="holds a list"):
        generation_config(tmp_path)
