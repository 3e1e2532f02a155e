"""The engine's work, done in this process: a list of events for a list of commands."""

import gc
import json
import weakref

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_configs
from mlx.utils import tree_flatten
from test_tokenizer import spell

from mlxarch import backend, registry
from mlxarch.app.engine.protocol import (
    Delta,
    Finish,
    Generate,
    Load,
    Loading,
    Memory,
    Prefill,
    Ready,
    Stats,
)
from mlxarch.app.engine.worker import Worker
from mlxarch.app.model import resolve
from mlxarch.cache import Past
from mlxarch.errors import ConfigError, ContextFull, DoesNotFit, FormatError
from mlxarch.generate import Answer
from mlxarch.names import rules
from mlxarch.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hello"}]


class Desk:
    """A worker, and what it said."""

    def __init__(self):
        self.events, self.stopped = [], set()
        self.worker = Worker(self.events.append, self.stopped.__contains__)

    def __call__(self, command):
        self.events.clear()
        self.worker.handle(command)
        return list(self.events)


@pytest.fixture(autouse=True)
def no_pulse(monkeypatch):
    """A slow machine tells of memory no oftener than a quick one."""
    monkeypatch.setattr("mlxarch.app.engine.answers._PULSE", 1e9)


@pytest.fixture(scope="module", params=tiny.CONFIGS)
def folder(request, tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("checkpoint") / request.param, request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("checkpoint") / "llama")


@pytest.fixture
def desk(folder):
    desk = Desk()
    desk(Load(path=str(folder)))
    return desk


def ask(messages=HELLO, **options):
    return Generate(id=1, messages=messages, **{"max_tokens": 8, **options})


def only(events, kind):
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def tokens(events):
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


def text(events):
    return "".join(event.text for event in events if isinstance(event, Delta))


def expected(folder, messages, count):
    """An answer by the library alone."""
    model = tiny.model(folder.name)
    prompt = Tokenizer(folder).prompt(messages).tokens
    found = [token.id for token in Answer(model, prompt, Past(model), max_tokens=count)]
    assert not {tiny.BOS, tiny.IM_END} & set(found), "this random model stops; take another seed"
    return found


def test_loading_ends_in_ready_and_memory(folder):
    *loading, ready, memory = Desk()(Load(path=str(folder)))
    assert {type(event) for event in loading} == {Loading}
    assert (loading[0].done, loading[-1].done) == (0, loading[-1].total)
    assert {event.total for event in loading} == {ready.bytes}
    weights = (folder / "model.safetensors").stat().st_size
    assert isinstance(ready, Ready)
    assert weights - 8000 < ready.bytes == memory.weights < weights
    assert ready.parameters * 4 == ready.bytes
    assert (ready.name, ready.context) == (folder.name, 512)
    assert isinstance(memory, Memory)
    assert memory.cache == 0
    assert memory.process > memory.active >= memory.weights


def test_an_answer_is_prefill_deltas_stats_memory_finish(desk, folder):
    events = desk(ask(interval=0))
    assert [type(event) for event in events[-3:]] == [Stats, Memory, Finish]
    kinds = [type(event) for event in events[:-3]]
    assert kinds == sorted(kinds, key=[Prefill, Delta].index)
    assert tokens(events) == expected(folder, HELLO, 8)
    stats, prefill = only(events, Stats), [e for e in events if isinstance(e, Prefill)]
    assert (prefill[0].done, prefill[-1].done) == (0, stats.prompt_tokens)
    assert (stats.tokens, stats.cached_tokens) == (8, 0)
    assert stats.first_token_seconds > stats.prefill_seconds > 0
    seconds = [s for event in events if isinstance(event, Delta) for s in event.seconds]
    assert min(seconds) > 0
    assert stats.decode_seconds == sum(seconds[1:])
    assert only(events, Finish) == Finish(id=1, reason="length")
    assert only(events, Memory).cache > 0


def test_each_token_by_itself_or_gathered(desk):
    alone = [e for e in desk(ask(interval=0)) if isinstance(e, Delta)]
    assert [len(event.tokens) for event in alone] == [1] * 8
    gathered = [e for e in desk(ask(interval=1e9)) if isinstance(e, Delta)]
    # The first one leaves at once: it is waited for.
    assert [len(event.tokens) for event in gathered] == [1, 7]
    assert text(alone) == text(gathered)
    lengths = [length for event in gathered for length in event.lengths]
    assert lengths[:7] == [len(event.text) for event in alone][:7]


def test_a_conversation_goes_on_where_it_was(desk, folder):
    first = desk(ask())
    again = [*HELLO, {"role": "assistant", "content": text(first)}, *HELLO]
    events = desk(ask(again))
    asked = only(first, Stats).prompt_tokens
    # At least the first question, though the answer may be spelled in other tokens now.
    assert only(events, Stats).cached_tokens >= asked - len("_assistant_")
    assert tokens(events) == expected(folder, again, 8)


def test_thinking_is_a_channel(tmp_path):
    template = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
    desk = Desk()
    desk(Load(path=str(tiny.save(tmp_path / "llama", template=template))))
    deltas = [event for event in desk(ask()) if isinstance(event, Delta)]
    assert {event.channel for event in deltas} == {"thinking"}


def test_what_is_dropped_after_thinking_costs_only_itself(tmp_path):
    template = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
    desk = Desk()
    desk(Load(path=str(tiny.save(tmp_path / "cohere2", "cohere2", template=template))))
    question = [{"role": "user", "content": "w" * 3 * tiny.WINDOW}]
    desk(ask(question))
    desk(ask([*question, {"role": "assistant", "content": "yes"}, *HELLO]))
    stats = only(desk.events, Stats)
    # And not what opens an answer, which has come before it.
    assert stats.cached_tokens == len(f"__user_{question[0]['content']}___assistant_")


def test_an_answer_goes_on_with_its_next_token(desk, folder):
    first = desk(ask())
    half = [*HELLO, {"role": "assistant", "content": "Yes, "}]
    events = desk(ask(half))
    assert tokens(events) == expected(folder, half, 8) != tokens(first)
    prompt = Tokenizer(folder).prompt(half).tokens
    assert only(events, Stats).prompt_tokens == len(prompt)
    assert tiny.IM_END not in prompt[-5:]


def test_what_the_template_can_be_told_is_told(tmp_path):
    template = tiny.CHATML.replace("assistant\n", "assistant\n{% if loud is true %}LOUD{% endif %}")
    desk = Desk()
    *_, ready, _ = desk(Load(path=str(tiny.save(tmp_path / "llama", template=template))))
    assert ready.switches == [{"name": "loud", "values": [False, True]}]
    quiet, loud = desk(ask()), desk(ask(switches={"loud": True}))
    assert only(loud, Stats).prompt_tokens == only(quiet, Stats).prompt_tokens + len("LOUD")


def thinker(tmp_path):
    """A model that always begins with thinking."""
    template = tiny.CHATML.replace("assistant\n", "assistant\n<think>\n")
    return tiny.save(tmp_path / "llama", template=template)


@pytest.mark.parametrize("budget", [0, 5])
def test_thinking_is_ended_after_so_many_tokens(tmp_path, budget):
    folder, desk = thinker(tmp_path), Desk()
    *_, ready, _ = desk(Load(path=str(folder)))
    assert ready.thinks
    events = desk(ask(max_tokens=20, thinking_tokens=budget, interval=0, logprobs=True))
    thought = [e for e in events if isinstance(e, Delta) and e.channel == "thinking"]
    answered = [e for e in events if isinstance(e, Delta) and e.channel == "answer"]
    ending = [*spell("\n"), tiny.END_THINK, *spell("\n\n")]
    fed = ending if budget else []
    assert tokens(thought)[:budget] == tokens(desk(ask(max_tokens=20)))[:budget]
    assert tokens(events)[budget : budget + len(fed)] == fed
    assert len(tokens(answered)) == 20 - budget - 2 * bool(budget)
    stats = only(events, Stats)
    assert stats.tokens == len(tokens(events)) == 20
    assert all(len(e.logprobs) == len(e.tokens) == len(e.seconds) for e in [*thought, *answered])
    # What follows is what the model says to that.
    prompt = [*Tokenizer(folder).prompt(HELLO).tokens, *tokens(thought)[:budget], *ending]
    model = tiny.model("llama")
    count = 20 - budget - len(fed)
    wanted = [token.id for token in Answer(model, prompt, Past(model), max_tokens=count)]
    assert tokens(answered)[-count:] == wanted


def test_thinking_without_a_budget_goes_on(tmp_path):
    desk = Desk()
    desk(Load(path=str(thinker(tmp_path))))
    events = desk(ask(max_tokens=30))
    assert {event.channel for event in events if isinstance(event, Delta)} == {"thinking"}


def test_cancelled_before_it_began(desk):
    desk.stopped.add(1)
    events = desk(ask())
    assert tokens(events) == []
    assert only(events, Stats).first_token_seconds == 0
    assert only(events, Finish).reason == "cancelled"


def test_the_publishers_sampling_is_the_default(tmp_path, llama):
    tiny.save(tmp_path / "llama")
    config = {"do_sample": True, "temperature": 5.0}
    (tmp_path / "llama" / "generation_config.json").write_text(json.dumps(config))
    desk = Desk()
    desk(Load(path=str(tmp_path / "llama")))
    greedy = expected(llama, HELLO, 8)
    drawn = [tokens(desk(ask(seed=seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert greedy not in drawn
    assert tokens(desk(ask(temperature=0))) == greedy
    assert tokens(desk(ask(top_p=1e-6))) == greedy
    # Without a seed no two answers are the same, not even after one with a seed.
    assert len({tuple(tokens(desk(ask()))) for _ in range(4)}) > 1


def test_all_that_the_publisher_recommends_is_taken_and_told(tmp_path, llama):
    tiny.save(tmp_path / "llama")
    config = {"do_sample": True, "temperature": 5.0, "top_k": 1, "repetition_penalty": 1.0}
    (tmp_path / "llama" / "generation_config.json").write_text(json.dumps(config))
    desk = Desk()
    *_, ready, _ = desk(Load(path=str(tmp_path / "llama")))
    del config["do_sample"]
    assert ready.defaults == config
    greedy = expected(llama, HELLO, 8)
    assert tokens(desk(ask())) == greedy
    assert tokens(desk(ask(top_k=0, seed=1))) != greedy
    assert tokens(desk(ask(top_k=0, min_p=1.0))) == greedy


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties_keep_a_model_from_repeating_itself(desk, penalty):
    assert len(set(tokens(desk(ask(max_tokens=60))))) < 40
    said = tokens(desk(ask(max_tokens=60, **{penalty: 1e6})))
    assert len(set(said)) == len(said) > 20


@pytest.mark.parametrize("draft", ["off", "lookup"])
def test_a_stop_text_ends_the_answer_before_it(tmp_path, draft):
    folder = tiny.save(tmp_path, "cohere2", template="")
    desk, question = Desk(), [{"role": "user", "content": "one two three, one two three, one two"}]
    desk(Load(path=str(folder), draft=draft))
    free = desk(ask(question, max_tokens=24))
    stop = text(free)[5:8]
    events = desk(ask(question, max_tokens=24, stop=["not there", stop]))
    assert text(events) == text(free)[: text(free).index(stop)]
    assert only(events, Finish).reason == "stop"
    assert tokens(events) == tokens(free)[: len(tokens(events))]
    assert only(events, Stats).tokens == len(tokens(events)) < 24
    # What was read beyond is forgotten again.
    assert tokens(desk(ask(question, max_tokens=24))) == tokens(free)


def test_each_guess_is_told_as_right_or_wrong(folder, tmp_path):
    other = tiny.save(tmp_path / "other", seed=9)
    for smaller, wanted in ((folder, "right"), (other, "wrong")):
        desk = Desk()
        *_, ready, _ = desk(Load(path=str(folder), draft=str(smaller)))
        assert ready.draft == smaller.name
        events = desk(ask(max_tokens=40, interval=0))
        deltas = [event for event in events if isinstance(event, Delta)]
        assert all(len(event.guessed) == len(event.tokens) for event in deltas)
        stats, right = only(events, Stats), sum(sum(event.guessed) for event in deltas)
        wrong = sum(event.rejected for event in deltas)
        assert wrong == stats.guessed_tokens - stats.right_tokens
        assert (right, wrong) == (stats.right_tokens, 0) if wanted == "right" else wrong > right
    desk = Desk()
    *_, ready, _ = desk(Load(path=str(folder)))
    assert ready.draft == "off"
    assert not any(each.guessed for each in desk(ask()) if isinstance(each, Delta))


def test_why_nobody_guesses_is_said_to_who_asked(folder):
    *_, silent, _ = Desk()(Load(path=str(folder)))
    *_, asked, _ = Desk()(Load(path=str(folder), draft="heads"))
    assert (silent.remark, silent.draft) == ("", "off")
    assert asked.draft == "off"
    assert asked.remark.startswith("No tokens are guessed ahead: this checkpoint has no heads")


def test_memory_is_told_again_and_again(desk, monkeypatch):
    monkeypatch.setattr("mlxarch.app.engine.answers._PULSE", 0.0)
    events = desk(ask(interval=0))
    told = [i for i, event in enumerate(events) if isinstance(event, Memory)]
    first = next(i for i, event in enumerate(events) if isinstance(event, Delta))
    assert told[0] < first
    assert len(told) > 8
    assert events[told[-1]].cache > events[told[0]].cache
    assert {events[i].limit for i in told} == {backend.memory_limit()}


def test_a_rest_gives_back_once_what_is_not_in_use(desk, monkeypatch):
    given = []
    monkeypatch.setattr("mlxarch.app.engine.worker.give_back", lambda: given.append(1))
    assert Worker(desk.events.append, desk.stopped.__contains__).patience is None
    desk(ask())
    assert desk.worker.patience
    desk.events.clear()
    desk.worker.rest()
    assert [type(event) for event in desk.events] == [Memory]
    assert len(given) == 1
    assert desk.worker.patience is None
    desk(ask())
    desk.worker.rest()
    assert len(given) == 2


@pytest.mark.parametrize("options", [{}, {"stop": ["e"]}, {"thinking_tokens": 5}])
@pytest.mark.parametrize("draft", ["off", "heads"])
def test_an_answer_is_gone_when_it_has_ended(tmp_path, draft, options, monkeypatch):
    left = []

    class Seen(Answer):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            left.extend(weakref.ref(each) for each in (self, self.drafter) if each is not None)

    monkeypatch.setattr("mlxarch.app.engine.answers.Answer", Seen)
    desk = Desk()
    folder = thinker(tmp_path) if "thinking_tokens" in options else resolve(None, None, True)
    desk(Load(path=str(folder), draft=draft))
    gc.collect()
    gc.disable()
    try:
        assert tokens(desk(ask(max_tokens=20, **options)))
        assert left
        assert [each() for each in left] == [None] * len(left)
    finally:
        gc.enable()


def test_a_full_context_ends_the_answer(tmp_path):
    desk = Desk()
    desk(Load(path=str(tiny.save(tmp_path / "llama", max_position_embeddings=40))))
    events = desk(ask(max_tokens=None))
    stats = only(events, Stats)
    assert only(events, Finish).reason == "context"
    assert stats.prompt_tokens + stats.tokens == 40
    with pytest.raises(ContextFull, match=r"has 1\d\d tokens; the model's context holds 40\."):
        desk(ask([{"role": "user", "content": "w" * 100}]))


def test_a_question_without_a_model_is_an_error():
    with pytest.raises(ConfigError, match="No model is loaded"):
        Desk()(ask())


def test_a_load_that_fails_leaves_no_model_behind(desk, tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        desk(Load(path=str(tmp_path)))
    with pytest.raises(ConfigError, match="No model is loaded"):
        desk(ask())


def test_a_model_that_does_not_fit_is_refused_with_figures(folder, monkeypatch):
    monkeypatch.setattr(backend, "memory_limit", lambda: 50_000)
    with pytest.raises(DoesNotFit, match=r"needs \d+ kB .* this machine has 50\.0 kB"):
        Desk()(Load(path=str(folder)))


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path):
    tiny.save(tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.json").unlink()
    (tmp_path / "llama" / "tokenizer_config.json").unlink()
    with pytest.raises(FormatError, match=r"has no tokenizer\.json"):
        Desk()(Load(path=str(tmp_path / "llama")))


@pytest.mark.parametrize("name", ["qwen35 dense", "qwen3_next", "glm5"])
def test_a_model_s_own_heads_guess_and_change_nothing(tmp_path, name):
    raw, weights = tiny_configs.saved(name, vocab_size=264)
    port = registry.find(raw)
    config = port.model.Config.from_hub(raw)
    (head,) = tiny_configs.mtp(name, [f"mtp.0.{tiny_configs.MTP[name]}"])
    ours = {f"mtp.0.{path}": weight for path, weight in tree_flatten(head.parameters())}
    weights |= rules.translate(rules.inverse(port.names.table(config)), ours)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    tiny.save_tokenizer(tmp_path)
    _assert_guesses_change_nothing(tmp_path, "heads")


def test_what_was_said_before_guesses_and_changes_nothing(tmp_path):
    # Without a template an answer goes on where the question ends.
    _assert_guesses_change_nothing(tiny.save(tmp_path, "cohere2", template=""), "lookup")


def test_a_smaller_model_guesses_and_changes_nothing(folder, tmp_path):
    # One of another family, with rows beyond the tokenizer's.
    smaller = tiny.save(tmp_path / "llama", num_hidden_layers=1, vocab_size=280)
    _assert_guesses_change_nothing(folder, str(smaller))


def _assert_guesses_change_nothing(folder, draft):
    guesser, alone = Desk(), Desk()
    *_, ready, memory = guesser(Load(path=str(folder), draft=draft))
    *_, without, _ = alone(Load(path=str(folder), draft="off"))
    assert ready.parameters >= without.parameters
    assert ready.bytes == memory.weights
    assert (ready.bytes > without.bytes) == (draft != "lookup")
    question = [{"role": "user", "content": "one two three, one two three, one two"}]
    guessed = 0
    for options in ({}, {"temperature": 0.9, "seed": 4}):
        guessing = guesser(ask(question, max_tokens=24, **options))
        plain = alone(ask(question, max_tokens=24, **options))
        assert tokens(guessing) == tokens(plain)
        assert text(guessing) == text(plain)
        assert only(plain, Stats).guessed_tokens == 0
        guessed += only(guessing, Stats).guessed_tokens
        assert 0 <= only(guessing, Stats).right_tokens <= only(guessing, Stats).guessed_tokens
    assert guessed


@pytest.mark.parametrize("draft", ["off", "lookup"])
def test_log_probabilities_are_the_model_s_own(tmp_path, draft):
    folder = tiny.save(tmp_path, "cohere2", template="")
    desk = Desk()
    desk(Load(path=str(folder), draft=draft))
    question = [{"role": "user", "content": "one two three, one two three, one two"}]
    events = desk(ask(question, max_tokens=20, logprobs=True, temperature=1.5, seed=1))
    found = [each for event in events if isinstance(event, Delta) for each in event.logprobs]
    prompt, answer = Tokenizer(folder).prompt(question).tokens, tokens(events)
    logits = np.array(tiny.model("cohere2")(mx.array([prompt + answer]))[0, len(prompt) - 1 : -1])
    shares = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    wanted = shares[np.arange(20), answer]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert not any(event.logprobs for event in desk(ask(question)) if isinstance(event, Delta))


def test_a_cache_in_few_bits_is_smaller_and_guesses_change_nothing_there_either(tmp_path):
    folder = tiny.save(tmp_path, "cohere2", template="", head_dim=32)
    question = [{"role": "user", "content": "one two three, one two three, one two"}]
    sizes = {}
    for bits in (None, 8, 4):
        said = []
        for draft in ("off", "lookup"):
            desk = Desk()
            *_, ready, _ = desk(Load(path=str(folder), draft=draft, kv_bits=bits))
            assert ready.remark == ""
            events = desk(ask(question, max_tokens=24))
            said.append(tokens(events))
            sizes[bits, draft] = only(events, Memory).cache
        assert said[0] == said[1]
    for draft in ("off", "lookup"):
        assert sizes[4, draft] < sizes[8, draft] < 0.4 * sizes[None, draft]


def test_what_a_cache_cannot_keep_in_few_bits_is_said(folder):
    *_, ready, _ = Desk()(Load(path=str(folder), kv_bits=8))
    words = "No cache is kept in 8 bits: 4 layers with rows that are no multiple of 32."
    assert ready.remark == words


def test_a_model_with_other_tokens_cannot_guess(llama, tmp_path):
    smaller = tiny.save(tmp_path / "other")
    tokenizer = json.loads((smaller / "tokenizer.json").read_text())
    tokenizer["added_tokens"][3]["content"] = "<other>"
    (smaller / "tokenizer.json").write_text(json.dumps(tokenizer))
    desk = Desk()
    with pytest.raises(ConfigError, match=r"other knows 261 tokens that are not the 261 of llama"):
        desk(Load(path=str(llama), draft=str(smaller)))
    with pytest.raises(ConfigError, match="No model is loaded"):
        desk(ask())
