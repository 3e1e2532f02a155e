"""The engine stays within its memory: it reads in smaller pieces, refuses, or stops in words."""

import psutil
import pytest
import tiny
from test_engine import until
from test_worker import HELLO, Desk, ask, only, text, tokens

from mlxarch import backend
from mlxarch.app.engine.client import Engine
from mlxarch.app.engine.protocol import (
    Delta,
    Error,
    Finish,
    Generate,
    Load,
    Memory,
    Prefill,
    Stats,
)
from mlxarch.app.engine.watch import Watch, cache_bytes, ran_out
from mlxarch.cache import Past
from mlxarch.errors import DoesNotFit
from mlxarch.generate import Answer

BASE = 10_000_000  # bytes, whatever the conversation
STEP = 4 * 256 * 2 * 2 * 8 * 4  # keys and values of 256 tokens in the tiny llama


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A worker in a process that takes nothing but BASE and its cache."""
    folder = tiny.save(tmp_path / "llama", max_position_embeddings=4000)
    desk = Desk()

    def used(watch):
        loaded = desk.worker._loaded
        return BASE + (loaded.past.nbytes if loaded else 0)

    monkeypatch.setattr(Watch, "used", property(used))
    monkeypatch.setattr(backend, "free_memory", lambda: 1 << 40)
    for name, value in (("process", lambda: 0), ("_highest", lambda: 0), ("_EVERY", 0.0)):
        monkeypatch.setattr(f"mlxarch.app.engine.watch.{name}", value)
    desk.path = str(folder)
    desk.load = lambda limit: desk(Load(path=desk.path, memory=limit))
    return desk


def test_an_answer_stops_before_memory_is_full_and_is_kept(desk):
    limit = BASE + 2 * STEP - 1
    desk.load(limit)
    events = desk(ask(max_tokens=None))
    finish = only(events, Finish)
    assert finish.reason == "memory"
    assert finish.remark == (
        "The engine would need 0.01 GB of memory and may take 0.01 GB: shorten the conversation, "
        "keep it in fewer bits (--kv-bits), or allow more (--memory)."
    )
    stats = only(events, Stats)
    assert 256 - 2 <= stats.prompt_tokens + stats.tokens <= 256 + 2
    assert len(text(events)) > 20
    assert {e.limit for e in events if isinstance(e, Memory)} == {limit}
    # A shorter one is answered as ever.
    again = desk(ask())
    assert (only(again, Finish).reason, only(again, Finish).remark) == ("length", "")
    assert tokens(again) == tokens(events)[:8]


def test_what_certainly_does_not_fit_is_refused_before_it_is_read(desk):
    desk.load(BASE + STEP)
    question = [{"role": "user", "content": "w" * 1000}]
    with pytest.raises(DoesNotFit, match=r"conversation's 1,0\d\d tokens need 0\.00 GB for what"):
        desk(ask(question))
    assert not any(isinstance(event, Prefill) for event in desk.events)
    desk.load(BASE + 8 * STEP)
    assert only(desk(ask(question)), Finish).reason == "length"


def test_another_conversation_gives_way(desk):
    desk.load(BASE + 4 * STEP)
    desk(ask([{"role": "user", "content": "a" * 300}]))
    one = desk.worker._loaded.past.nbytes
    assert only(desk(ask([{"role": "user", "content": "b" * 150}])), Finish).reason == "length"
    assert desk.worker._loaded.past.nbytes >= one + STEP // 2  # there is room for both
    events = desk(ask([{"role": "user", "content": "c" * 600}]))
    assert only(events, Finish).reason == "length"
    assert desk.worker._loaded.past.nbytes < 4 * STEP


def test_a_conversation_that_fills_all_but_a_little_gives_way(desk):
    desk.load(1 << 40)
    desk(ask([{"role": "user", "content": "a" * 400}]))
    loaded = desk.worker._loaded
    held = loaded.past.nbytes
    loaded.watch.limit = BASE + held + 100
    # What is there is the beginning of this one: nothing is won by forgetting it.
    with pytest.raises(DoesNotFit):
        desk(ask([{"role": "user", "content": "a" * 2000}]))
    assert loaded.past.nbytes == held
    assert only(desk(ask(HELLO)), Finish).reason == "length"


def test_cache_bytes_are_those_that_a_prompt_takes():
    for family in tiny.CONFIGS:
        model = tiny.model(family)
        past = Past(model)
        list(Answer(model, tiny.PROMPT * 16, past, max_tokens=1))
        least = cache_bytes(model, len(past.tokens), None)
        assert least <= past.nbytes <= 1.5 * least + 4 * STEP
        assert cache_bytes(model, 512, 8) == cache_bytes(model, 512, None) // 4


def test_pieces_shrink_as_the_room_does(monkeypatch):
    watch, taken = Watch(1000), [400]
    monkeypatch.setattr(Watch, "used", property(lambda _: taken[0]))
    monkeypatch.setattr(backend, "free_memory", lambda: 1 << 40)
    assert watch.ceiling() > 1 << 20  # nothing is known yet
    watch._each = 10
    sizes = []
    for taken[0] in (0, 400, 700, 900, 970, 999):
        sizes.append(watch.ceiling())
    assert sizes == [32, 16, 8, 4, 1, 1]
    assert not watch.short(reading=False)
    assert watch.short(reading=True)
    assert watch.needed == 999 + 10


def test_what_a_piece_takes_is_learnt(desk):
    desk.load(1 << 40)
    desk(ask([{"role": "user", "content": "w" * 900}]))
    watch = desk.worker._loaded.watch
    assert 1000 < watch._each < 10_000_000
    assert desk.worker._loaded.pace.ceiling() > 1000


def test_a_model_that_does_not_fit_what_it_may_take_is_refused(desk):
    with pytest.raises(DoesNotFit, match=r"llama needs .* it may take 1\.00 kB for a model"):
        desk.load(1000)
    with pytest.raises(DoesNotFit, match=r"^With llama loaded the engine takes 0\.01 GB; it may"):
        desk.load(BASE - 1)


def test_memory_is_wired_on_metal_alone_and_no_more_than_it_recommends(desk, monkeypatch):
    wired = []
    monkeypatch.setattr("mlx.core.set_wired_limit", wired.append)
    backend.keep_resident(10**12)
    desk.load(None)
    *_, ready, _ = desk(Load(path=desk.path, wired=10**9))
    assert ready.remark == f"Memory can be wired on Metal only, and this is {backend.device()}."
    assert wired == []
    monkeypatch.setattr(backend, "device", lambda: "Metal")
    monkeypatch.setattr(backend, "memory_limit", lambda: 12 * 10**9)
    backend.keep_resident(12 * 10**9)
    with pytest.raises(DoesNotFit, match=r"at most 12\.00 GB resident here, and 12\.10 GB are"):
        backend.keep_resident(121 * 10**8)
    assert wired == [12 * 10**9]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (RuntimeError("[malloc_or_wait] Unable to allocate 9 bytes."), True),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_memory_that_is_refused_ends_an_answer(desk, monkeypatch, error, wanted):
    desk.load(1 << 40)
    whole, said = Answer.__iter__, []

    def broken(answer):
        for token in whole(answer):
            yield token
            said.append(token)
            if len(said) == 3:
                answer.past.clear()
                raise error

    assert ran_out(error) == wanted
    monkeypatch.setattr(Answer, "__iter__", broken)
    if not wanted:
        with pytest.raises(RuntimeError, match="shapes"):
            desk(ask())
        return
    events = desk(ask())
    assert only(events, Finish).reason == "memory"
    assert tokens(events) == [token.id for token in said]
    monkeypatch.undo()


@pytest.mark.slow
def test_a_real_engine_stops_in_time_and_lives_on(tmp_path):
    folder = tiny.save(
        tmp_path / "llama", num_key_value_heads=4, head_dim=64, max_position_embeddings=40_000
    )
    a_token = 4 * 2 * 4 * 64 * 4
    with Engine.start() as engine:
        engine.send(Load(path=str(folder)))
        until(engine, Memory)
        for length in (3000, 20):  # what is compiled and grown stays
            question = [{"role": "user", "content": "w" * length}]
            engine.send(Generate(id=1, messages=question, max_tokens=4))
            until(engine, Finish)
        base = psutil.Process(engine.pid).memory_info().rss
        limit = base + 64_000_000
        engine.send(Load(path=str(folder), memory=limit))
        until(engine, Memory)
        length, most = 32_000_000 // a_token, 0
        question = [{"role": "user", "content": "w" * length}]
        engine.send(Generate(id=2, messages=question))
        while not isinstance(event := engine.receive(), Finish):
            assert not isinstance(event, Error), event
            most = max(most, psutil.Process(engine.pid).memory_info().rss)
        assert event.reason == "memory"
        # What malloc keeps for itself comes and goes.
        assert most < limit + 64_000_000
        engine.send(Generate(id=3, messages=HELLO, max_tokens=4))
        assert any(isinstance(event, Delta) for event in until(engine, Finish))
