"""The figures of an answer, and how they are written."""

import json

import pytest

from mlxarch.app.chat import figures
from mlxarch.app.chat.bars import scale, squeeze
from mlxarch.app.chat.transcript import Turn
from mlxarch.app.engine.protocol import Delta

from .fake import costs


def turn(*milliseconds, text="words", **more):
    made = Turn(id=1, question="?", asked=0.0, text=text, **more)
    made.seconds = [ms / 1000 for ms in milliseconds]
    return made


def test_the_first_token_is_not_part_of_the_pace():
    pace = figures.pace([5.0, 0.02, 0.02, 0.08])
    assert pace.mean == pytest.approx(3 / 0.12)
    assert pace.median == 0.02
    assert pace.slowest == 0.08


def test_what_had_been_guessed_is_no_measure_of_the_models_own_tokens():
    pace = figures.pace([5.0, 0.02, 0.001, 0.001, 0.03], [False, False, True, True, False])
    assert pace.median == pytest.approx(0.025)
    assert pace.mean == pytest.approx(4 / 0.052)


def test_now_is_the_last_ten_tokens():
    pace = figures.pace([9.0] + [0.1] * 50 + [0.01] * 10)
    assert pace.now == pytest.approx(100)
    assert pace.mean == pytest.approx(60 / 5.1)


@pytest.mark.parametrize("seconds", [[], [0.3]])
def test_without_a_second_token_there_is_no_pace(seconds):
    assert figures.pace(seconds) == figures.Pace(None, None, None, None)


def test_tokens_that_took_no_time_have_no_rate():
    assert figures.pace([0.1, 0.0, 0.0]).mean is None


def test_the_summary_names_every_figure():
    done = turn(300, *[20] * 40, ended="stop")
    done.account(costs(prompt=1812, cached=1290, prefill=0.61, first=0.84)(1))
    expected = "41 tokens · 50.0 tok/s · 20 ms · first 0.84 s · cached 1,290 of 1,812 tokens"
    assert figures.summary(done) == expected


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"ended": "cancelled"}, "stopped · 3 tokens"),
        ({"ended": "length"}, "cut at the token limit · 3 tokens"),
        ({"ended": "context"}, "the context is full · 3 tokens"),
        ({"failed": True}, "failed · 3 tokens"),
        ({"ended": "cancelled", "text": ""}, "stopped before the first word"),
        (
            {"ended": "cancelled", "text": "", "thinking": "Hm"},
            "stopped while it was thinking · /continue has it go on",
        ),
        ({"ended": "stop", "text": "", "thinking": "Hm"}, "ended before the first word"),
        ({"failed": True, "text": " \n"}, "failed before the first word"),
        ({"ended": "stop", "text": ""}, "ended before the first word"),
    ],
)
def test_the_summary_says_how_the_answer_ended(more, start):
    assert figures.summary(turn(20, 20, 20, **more)).startswith(start)


def test_the_first_token_is_timed_from_the_question_until_the_engine_knows_better():
    asked = Turn(id=1, question="?", asked=10.0)
    delta = Delta(id=1, channel="answer", text="a b c", tokens=[1, 2, 3], seconds=[0.5, 0.1, 0.1])
    asked.grow(delta, now=11.0)
    assert asked.first == pytest.approx(0.8)
    asked.account(costs(first=0.79)(1))
    assert asked.first == 0.79


def test_figures_are_kept_as_json_and_come_back_as_they_were():
    said = turn()
    text = {"tokens": [1, 2, 3], "seconds": [0.31, 0.02, 0.021]}
    said.grow(Delta(id=1, channel="thinking", text="Hm.", **text), now=1.0)
    answer = {"lengths": [4, 0, 3], "guessed": [False, True, True], "rejected": 2}
    said.grow(Delta(id=1, channel="answer", text="So it is", **text, **answer), now=2.0)
    said.account(costs(prompt=1812, cached=1290, guessed=(2, 2))(1))
    said.ended = "length"
    back = turn(text=said.text, thinking=said.thinking)
    figures.recall(back, json.loads(json.dumps(figures.facts(said))))
    assert vars(back) == vars(said)


def test_characters_are_counted_for_the_token_that_brought_them():
    said = turn(text="")
    tokens = {"tokens": [1, 2, 3], "seconds": [0.1] * 3}
    said.grow(Delta(id=1, channel="answer", text="a\r\nbc!", lengths=[3, 0, 2], **tokens), now=1.0)
    said.grow(Delta(id=1, channel="answer", text=" End", tokens=[], seconds=[]), now=1.0)
    assert (said.text, said.lengths) == ("a\nbc! End", [2, 0, 7])


def test_without_a_token_there_is_no_first_one():
    stopped = turn(ended="cancelled")
    stopped.account(costs(first=0.0, tokens=0)(1))
    assert stopped.first is None


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (figures.rate, 42.71, "42.7"),
        (figures.rate, 99.96, "100"),
        (figures.rate, 1280.4, "1,280"),
        (figures.tokens, 1, "1 token"),
        (figures.tokens, 2048, "2,048 tokens"),
        (figures.milliseconds, 0.000424, "0.42"),
        (figures.milliseconds, 0.00424, "4.2"),
        (figures.milliseconds, 0.0424, "42"),
        (figures.duration, 0.844, "0.84 s"),
        (figures.duration, 42.4, "42 s"),
        (figures.duration, 125, "2 min 5 s"),
        (figures.size, 7_870_000_000, "7.9 GB"),
        (figures.size, 42_000_000, "42.0 MB"),
        (figures.size, 900, "1 kB"),
        (figures.short, 812, "812"),
        (figures.short, 9_949, "9.9k"),
        (figures.short, 131_072, "131k"),
        (figures.short, 3_930_000_000, "3.9B"),
        (figures.short, 32_100_000_000, "32.1B"),
    ],
)
def test_numbers_are_written_short(write, value, text):
    assert write(value) == text


def test_the_scale_is_round_and_one_slow_token_does_not_flatten_the_others():
    assert scale([0.021, 0.022, 0.028]) == pytest.approx(0.03)
    assert scale([0.024] * 20 + [1.5]) == pytest.approx(0.06)
    assert scale([0.0, 0.0]) > 0


def test_a_long_answer_is_squeezed_into_the_means_of_neighbours():
    assert squeeze([1, 3, 5, 7, 2, 2], 3) == [2, 6, 2]
    assert squeeze([1, 2], 9) == [1, 2]
    assert squeeze([], 9) == []
