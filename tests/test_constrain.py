"""Answers that satisfy a JSON schema, whatever a random model would rather say."""

import builtins
import json

import mlx.core as mx
import numpy as np
import pytest
import tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlxarch import checkpoint
from mlxarch.app.engine.protocol import Delta, Generate, Load
from mlxarch.app.engine.worker import Worker
from mlxarch.app.guide import PATH
from mlxarch.constrain import Constraint, grammar
from mlxarch.errors import FormatError, MlxarchError
from mlxarch.sampling import Sampling
from mlxarch.speculate import Lookup
from mlxarch.tokenizer import Tokenizer

STOPS = {tiny.BOS, tiny.IM_END}
NESTED = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b c", 3, None]},
        "inner": {
            "type": "object",
            "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}},
            "required": ["code"],
            "additionalProperties": False,
        },
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        "number": {"type": "number", "minimum": -1, "exclusiveMaximum": 1.5},
    },
    "required": ["kind", "inner", "list", "number"],
    "additionalProperties": False,
}


class Talker:
    """A random model, which has rows for more tokens than its tokenizer knows."""

    def __init__(self, folder):
        self.model, self.tokenizer = checkpoint.load(folder), Tokenizer(folder)
        self.vocab = self.model.embed.weight.shape[0]

    def constraint(self, schema, **options):
        return Constraint(schema, self.tokenizer, self.vocab, **options)

    def say(self, schema, **options):
        """The tokens that it says, their text, and the answer."""
        options = {"max_tokens": 150, "stop_ids": self.tokenizer.stop_ids, **options}
        constraint = self.constraint(schema)
        tokens, found = tiny.answer(self.model, tiny.PROMPT, constraint=constraint, **options)
        reader = self.tokenizer.reader()
        return tokens, "".join(reader.read(token)[1] for token in tokens) + reader.rest(), found


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    folder = tiny.save(tmp_path_factory.mktemp("tiny") / "llama")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("think>", "other>"))
    made = Talker(folder)
    assert made.vocab > len(made.tokenizer.vocabulary)
    assert made.tokenizer.stop_ids == STOPS
    return made


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return Talker(tiny.save(tmp_path_factory.mktemp("tiny") / "llama"))


def allowed(constraint):
    """The tokens that may follow."""
    return set(np.flatnonzero(np.array(constraint.allowed()[0])).tolist())


SMALL = st.integers(-50, 50)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)
COUNTS = st.integers(0, 4)
SCALARS = st.one_of(SMALL, TEXTS, st.none(), st.booleans())
PATTERNS = st.sampled_from(["^a+b?$", "[xyz]{3}", r"^(no|yes), \d\d$"])
FORMATS = st.sampled_from(["date", "time", "uuid", "ipv4"])


def integers(least, more):
    return {"type": "integer", "minimum": least, "maximum": least + more}


def numbers(least):
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + 1}


def strings(least, more):
    return {"type": "string", "minLength": least, "maxLength": least + more}


def arrays(items, least):
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}


LEAVES = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
    st.builds(integers, SMALL, COUNTS),
    st.builds(numbers, SMALL),
    st.builds(strings, COUNTS, COUNTS),
    PATTERNS.map(lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 30}),
    FORMATS.map(lambda name: {"type": "string", "format": name}),
    st.lists(SCALARS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    SCALARS.map(lambda value: {"const": value}),
)


def objects(inner):
    return st.dictionaries(TEXTS, inner, max_size=3).flatmap(
        lambda properties: st.sets(st.sampled_from([*properties] or [""])).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required & properties.keys()),
                "additionalProperties": False,
            }
        )
    )


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(arrays, inner, st.integers(0, 2)),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
    ),
    max_leaves=4,
)


@settings(max_examples=25)
@given(schema=SCHEMAS, seed=st.integers(0, 9))
def test_every_answer_that_ends_satisfies_its_schema(talker, schema, seed):
    _, text, found = talker.say(schema, sampling=Sampling(temperature=1.0, seed=seed))
    # A random model may go on with the digits of a number for long.
    assume(found.reason != "length")
    assert found.reason == "stop"
    Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.0, top_k=3, seed=1),
        Sampling(temperature=1.5, top_p=0.5, min_p=0.2, seed=2),
        Sampling(repetition_penalty=1.8, presence_penalty=1.0, frequency_penalty=0.5),
    ],
)
def test_it_goes_with_every_way_of_choosing(talker, sampling):
    plain, text, found = talker.say(NESTED, sampling=sampling)
    assert found.reason == "stop"
    Draft202012Validator(NESTED).validate(json.loads(text))
    assert talker.say(NESTED, sampling=sampling, drafter=Lookup())[0] == plain


@pytest.mark.slow
def test_the_guide_answers_in_json():
    schema = NESTED["properties"]["inner"]
    text = Talker(PATH).say(schema)[1]
    Draft202012Validator(schema).validate(json.loads(text))


def test_the_engine_keeps_to_a_schema_after_thinking(tmp_path):
    template = tiny.CHATML.replace("assistant\n", "assistant\n<think>")
    assert template != tiny.CHATML
    folder = tiny.save(tmp_path / "llama", template=template)
    events = []
    worker = Worker(events.append, lambda answer: False)
    worker.handle(Load(path=str(folder)))
    schema = {"enum": ["yes", "no"]}
    messages = [{"role": "user", "content": "hello"}]
    # With this seed the random model soon ends its thinking.
    hot = {"temperature": 4.0, "seed": 31, "max_tokens": 60}
    worker.handle(Generate(id=1, messages=messages, schema=schema, **hot))
    said = {channel: "" for channel in ("thinking", "answer")}
    for event in events:
        if isinstance(event, Delta):
            said[event.channel] += event.text
    assert said["thinking"]
    assert json.loads(said["answer"]) in ("yes", "no")
    with pytest.raises(FormatError, match="cannot be followed"):
        worker.handle(Generate(id=2, messages=messages, schema={"type": "x"}))


class Oracle(Lookup):
    """Guesses what was said before, and every third token wrong."""

    def __init__(self, tokens):
        self.known = tokens

    def draft(self, count, position):
        start = position - len(tiny.PROMPT)
        guesses = [t if (start + i) % 3 else 7 for i, t in enumerate(self.known[start:])]
        return mx.array(guesses[:count], dtype=mx.int32)

    def begin(self, tokens):
        pass

    def observe(self, tokens, states):
        pass


def test_guesses_right_and_wrong_change_nothing(talker):
    plain, _, _ = talker.say(NESTED)
    tokens, _, found = talker.say(NESTED, drafter=Oracle([*plain, tiny.IM_END]))
    assert (tokens, found.reason) == (plain, "stop")
    assert 0 < found.right < found.guessed


def test_it_may_stop_when_the_value_is_whole_and_only_then(talker):
    constraint = talker.constraint({"type": "integer", "minimum": 0})
    digits = {talker.tokenizer.vocabulary[digit] for digit in "0123456789"}
    assert allowed(constraint) == digits
    constraint.take(talker.tokenizer.vocabulary["4"])
    assert allowed(constraint) == digits | STOPS


def test_a_value_that_is_cut_short_says_so(talker):
    _, text, found = talker.say(NESTED, max_tokens=9)
    assert found.reason == "length"
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(text)


def test_rows_beyond_the_tokenizer_are_never_said(talker):
    constraint = talker.constraint({})
    assert constraint.allowed().shape == (1, talker.vocab)
    assert max(allowed(constraint)) < len(talker.tokenizer.vocabulary)


def test_thinking_is_free_but_must_end(thinker):
    constraint = thinker.constraint({"const": 1}, thinking=True)
    one, free = thinker.tokenizer.vocabulary["1"], set(range(thinker.vocab)) - STOPS
    rows = np.array(constraint.allowed([5, tiny.END_THINK, 7, 7]))
    assert [set(np.flatnonzero(row).tolist()) for row in rows[:3]] == [free, free, {one}]
    assert allowed(constraint) == free
    constraint.take(5)
    constraint.take(tiny.END_THINK)
    assert allowed(constraint) == {one}


def test_thinking_that_the_prompt_has_ended_does_not_begin_again(thinker):
    one = thinker.tokenizer.vocabulary["1"]
    opening = [tiny.IM_START, tiny.THINK, tiny.END_THINK, 7]
    assert allowed(thinker.constraint({"const": 1}, opening=opening)) == {one}
    assert allowed(thinker.constraint({"const": 1}, opening=opening[:2])) == {one, tiny.THINK}


def test_a_model_may_begin_to_think_by_itself(thinker):
    constraint = thinker.constraint({"const": 1})
    one = thinker.tokenizer.vocabulary["1"]
    assert allowed(constraint) == {one, tiny.THINK}
    constraint.take(tiny.THINK)
    assert allowed(constraint) == set(range(thinker.vocab)) - STOPS
    constraint.take(tiny.END_THINK)
    assert allowed(constraint) == {one}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "foo"}, "Invalid type: foo."),
        ({"not": {}}, 'Unimplemented keys: ["not"].'),
        ({"type": "string", "pattern": "("}, "unclosed group."),
        ({"$ref": "https://example.org/s.json"}, "not fetch"),
        ({"enum": []}, "Unsatisfiable"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_words(schema, words):
    with pytest.raises(FormatError, match=r"^The JSON schema cannot be followed: ") as refused:
        grammar(schema)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "llguidance":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MlxarchError, match=r"pip install 'mlxarch\[schema\]'"):
        grammar({})
