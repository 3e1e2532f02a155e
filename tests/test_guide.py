"""The built-in guide: what it weighs, what it answers, and what it was taught."""

import json
import re
from itertools import islice

import click
import mlx.core as mx
import pytest

import mlxarch
from mlxarch.app.chat.actions import ACTIONS
from mlxarch.app.cli import cli
from mlxarch.app.guide import PATH
from mlxarch.app.guide.training.corpus import Corpus, heldout_questions
from mlxarch.app.guide.training.evaluate import Guide, Question, questions, race
from mlxarch.app.guide.training.grammar import expand, normalise
from mlxarch.app.guide.training.topics import language, read, topics
from mlxarch.compat import count_parameters
from mlxarch.stake import Stake

ASKED = [
    "my CI job ended with return value 2",
    "how do i put a line break in my message without sending",
    "how do I turn a hugging face model into the mlx format?",
    "8 bit version of a local folder please, full command",
    "how many bits does a weight really take at 4 bit",
    "it says there are no safetensors in my folder",
    "the context is full, now what",
    "will this use the gpu in my macbook",
    "is anything I write sent to a server",
    "how many params does kimi have",
    "what kind of attention does step 3.5 flash have",
    "What's the capital of Portugal?",
    "write a python function that reverses a string",
]


NAMES = ("`", '"', "mlxarch ", "config.json ", "safetensors ")


@pytest.fixture(scope="module")
def guide():
    return Guide()


@pytest.fixture(scope="module")
def answers():
    return {answer for topic in topics() for answer in topic.answers}


def test_it_is_small():
    size = sum(file.stat().st_size for file in PATH.iterdir())
    assert size <= 16e6, f"{size / 1e6:.1f} MB"


def test_it_says_its_own_size(guide):
    raw = json.loads((PATH / "config.json").read_text())
    said = next(t for t in topics() if t.name == "guide.size").answers[0]
    assert f"about {count_parameters(guide.model) / 1e6:.1f} million parameters" in said
    assert f"{raw['max_position_embeddings']:,} tokens" in said


@pytest.mark.parametrize("asked", ASKED)
def test_it_answers(guide, asked):
    question = next(one for one in questions() if one.asked == (asked,))
    answer = guide.converse(question.asked)
    assert question.right(answer), answer


def test_it_ends_its_answers_in_whole_sentences(guide):
    answer = guide.converse(("What is mlxarch?",))
    assert answer.endswith(".")
    assert "<|" not in answer


def test_earlier_turns_do_not_confuse_it(guide):
    asked = ("what is the capital of Peru?", "ok then what is mlxarch")
    question = next(one for one in questions() if one.asked == asked)
    answer = guide.converse(asked)
    assert question.right(answer), answer


def test_its_heads_guess_what_it_says_and_change_nothing(guide, monkeypatch):
    monkeypatch.setattr(Stake, "choose", lambda stake: 3)  # else it depends on what they cost
    found = race(guide, ASKED)
    assert found["equal"] == len(ASKED)
    assert found["right"] / found["guessed"] >= 0.95


def test_a_system_prompt_is_accepted(guide):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what is exit code 3?"},
    ]
    assert "Exit code 3" in guide.answer(messages)


def test_the_template_writes_each_mark_as_one_token(guide):
    prompt = guide.tokenizer.prompt([{"role": "user", "content": "Hi 42"}])
    raw = json.loads((PATH / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in raw["added_tokens"]}
    start, end = ids["<|im_start|>"], ids["<|im_end|>"]
    assert [t for t in prompt.tokens if t in (start, end)] == [start, end, start]
    assert prompt.tokens[0] == start
    assert end in guide.tokenizer.stop_ids
    reader = guide.tokenizer.reader()
    text = "".join(reader.read(token)[1] for token in prompt.tokens) + reader.rest()
    assert "Hi 42" in text


def test_it_is_loaded_like_any_checkpoint():
    model = mlxarch.load(PATH, dtype=mx.float32)
    assert mx.isfinite(model(mx.array([[1, 2, 3]]))).all()


def test_heldout_questions_are_many_and_none_is_trained_on():
    forbidden = {normalise(question) for question in heldout_questions()}
    assert len(forbidden) >= 250
    trained = {
        normalise(message["content"])
        for messages in islice(Corpus(seed=0).conversations(), 20_000)
        for message in messages
        if message["role"] == "user"
    }
    assert not forbidden & trained


def test_the_check_would_see_a_heldout_question(monkeypatch):
    monkeypatch.setattr("mlxarch.app.guide.training.corpus.heldout_questions", list)
    trained = {
        normalise(messages[-2]["content"])
        for messages in islice(Corpus(seed=0).conversations(), 20_000)
    }
    assert {normalise(question) for question in heldout_questions()} & trained


def test_a_seed_repeats_the_corpus():
    first, again, other = (list(islice(Corpus(seed).conversations(), 50)) for seed in (3, 3, 4))
    assert first == again != other


def test_every_template_is_a_sentence_and_every_follow_up_leads_somewhere():
    words, known = language(), topics()
    names = {topic.name for topic in known}
    assert len(names) == len(known)
    rng = Corpus(seed=0).rng
    for topic in known:
        assert topic.asks
        for template in topic.asks:
            asked = expand(template, words.sets, rng)
            assert asked.strip()
            assert not set("{}@") & set(asked), template
        assert {name for _, name in topic.follows} <= names


def test_answers_are_whole_sentences_without_placeholders(answers):
    for answer in answers:
        assert answer[-1] in '.!?`"', answer
        assert answer[0].isupper() or answer.startswith(NAMES), answer
        assert not re.search(r"\[(loads|name|hub)\]", answer), answer


def _tree():
    """Each command, and the options of it and of the commands below it."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        yield name, _options(cli.get_command(context, name))


def _options(command):
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = {opt for one in command.params if isinstance(one, click.Option) for opt in one.opts}
    return own.union(*map(_options, below))


def test_the_commands_taught_are_real_ones():
    """All of them, and nothing is said to be lacking that is there."""
    taught, real = read("commands")["command"], dict(_tree())
    assert set(taught) == set(real)
    shown = {name for name, one in read("commands")["option"].items() if "short" in one}
    for name, known in taught.items():
        assert set(known["options"]) <= real[name]
        if not known.get("open"):
            assert not (shown - set(known["options"])) & real[name], name


def test_no_answer_names_what_the_command_line_lacks(answers):
    options = {opt for _, found in _tree() for opt in found} | {"--help", "--version"}
    commands = {name for name, _ in _tree()}
    for answer in answers:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", answer)) <= options, answer
        for code in re.findall(r"`mlxarch ([a-z]+)", answer):
            assert code in commands, answer


def test_no_answer_names_a_key_the_chat_lacks(answers):
    known = {key for action in ACTIONS for key in action.keys.split(",")} | {"ctrl+p", "ctrl+c"}
    for answer in answers:
        for key in re.findall(r"\b(?:Ctrl|Shift|Alt)\+\w+", answer):
            assert key.lower() in known, answer


def test_facts_are_looked_for_in_the_whole_answer():
    question = Question("theme", ("q",), ("first.*last",))
    assert question.right("FIRST line\nand the last")
    assert not question.right("the first line only")
