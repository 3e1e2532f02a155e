"""The engine as a process: what goes over its pipes, and how it ends."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
import tiny

from mlxarch.app.engine.client import Engine
from mlxarch.app.engine.protocol import (
    Delta,
    Error,
    Finish,
    Generate,
    Load,
    Loading,
    Memory,
    Prefill,
    Quit,
    Ready,
    Stats,
    Stop,
)
from mlxarch.errors import FormatError

HELLO = [{"role": "user", "content": "hello"}]
LONG = [{"role": "user", "content": "word " * 6000}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "llama", max_position_embeddings=40_000)


@pytest.fixture(scope="module")
def engine(folder):
    """One for the tests that leave it alive; a model is loaded."""
    with Engine.start() as engine:
        load(engine, folder)
        yield engine


def load(engine, folder):
    engine.send(Load(path=str(folder)))
    return until(engine, Ready)


def until(engine, kind):
    """All events up to one of a kind; an error, or an engine that ends before, is a failure.

    Without those of memory, of which some come when nothing is asked for a while.
    """
    events = []
    while (event := engine.receive()) is not None:
        if isinstance(event, Memory) and kind is not Memory:
            continue
        events.append(event)
        if isinstance(event, kind):
            return events
        assert not isinstance(event, Error), event
    raise AssertionError(f"the engine ended, {engine.exit_code}: {engine.log_tail()}")


def answer(engine, messages, number, **options):
    engine.send(Generate(id=number, messages=messages, **{"max_tokens": 8, **options}))
    return until(engine, Finish | Error)


def text(events):
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_two_turns(engine):
    first = answer(engine, HELLO, 1)
    messages = [*HELLO, {"role": "assistant", "content": text(first)}, *HELLO]
    second = answer(engine, messages, 2)
    (stats,) = [event for event in second if isinstance(event, Stats)]
    assert 0 < stats.cached_tokens < stats.prompt_tokens
    assert second[-1] == Finish(id=2, reason="length")
    assert {event.id for event in second if hasattr(event, "id")} == {2}


def test_stop_is_heard_while_it_prefills(engine):
    engine.send(Generate(id=3, messages=LONG))
    begun = until(engine, Prefill)
    engine.send(Stop(id=3))
    events = begun + until(engine, Finish)
    assert events[-1] == Finish(id=3, reason="cancelled")
    last = [event for event in events if isinstance(event, Prefill)][-1]
    assert last.done < last.total
    assert text(events) == ""
    # What was read is kept, and what follows is right.
    assert answer(engine, HELLO, 4)[-1].reason == "length"


def test_stop_is_heard_while_it_answers(engine):
    engine.send(Generate(id=5, messages=HELLO, interval=0))
    begun = until(engine, Delta)
    engine.send(Stop(id=5))
    events = begun + until(engine, Finish)
    assert events[-1].reason == "cancelled"
    again = answer(engine, HELLO, 6, max_tokens=5)
    assert text(again)[:1] == text(events)[:1]


def test_a_late_stop_is_not_for_the_next_answer(engine):
    answer(engine, HELLO, 7)
    engine.send(Stop(id=7))
    assert answer(engine, HELLO, 7)[-1].reason == "length"


def test_errors_leave_it_alive(engine, folder, tmp_path):
    (refused,) = answer(engine, [{"role": "assistant", "content": "hi"}], 8)
    assert (refused.id, refused.kind, refused.fatal) == (8, "FormatError", False)
    (full,) = answer(engine, [{"role": "user", "content": "w" * 50_000}], 9)
    assert (full.id, full.kind) == (9, "ContextFull")
    engine._commands.write(b'{"type": "sing"}\n')
    engine._commands.flush()
    (unknown,) = until(engine, Error)
    assert unknown.kind == "FormatError"
    engine.send(Load(path=str(tmp_path)))
    (missing,) = until(engine, Error)
    assert (missing.id, missing.kind) == (None, "ConfigError")
    assert "has no config.json" in missing.message
    events = load(engine, folder)
    assert {type(event) for event in events} == {Loading, Ready}
    assert until(engine, Memory)[-1].weights == events[-1].bytes
    assert answer(engine, HELLO, 10)[-1].reason == "length"


def test_ctrl_c_in_the_terminal_is_not_for_it(engine):
    os.kill(engine.pid, signal.SIGINT)
    assert answer(engine, HELLO, 11)[-1].reason == "length"


NOISY = """
import os
from mlxarch.app.engine import server, worker

def handle(self, command):
    print("printed", flush=True)
    os.write(1, b'{"type": "finish", "id": 0, "reason": "stop"}\\n')
    raise KeyError("unforeseen")

worker.Worker.handle = handle
server.main()
"""


def test_what_libraries_print_is_not_an_event_and_surprises_are(monkeypatch):
    start = subprocess.Popen

    def noisy(command, **options):
        return start([sys.executable, "-c", NOISY], **options)

    monkeypatch.setattr(subprocess, "Popen", noisy)
    with Engine.start() as engine:
        engine.send(Load(path="anything"))
        assert engine.receive() == Error(id=None, kind="KeyError", message="'unforeseen'")
        log = engine.log_tail()
        assert "printed" in log
        assert '"finish"' in log
        assert log.endswith("KeyError: 'unforeseen'")
        engine.send(Generate(id=4, messages=HELLO))
        assert engine.receive().id == 4


def test_a_killed_engine_is_gone():
    with Engine.start() as engine:
        assert engine.exit_code is None
        os.kill(engine.pid, signal.SIGKILL)
        assert engine.receive() is None
        assert engine.exit_code == -signal.SIGKILL
        engine.send(Stop(id=1))
        assert engine.receive() is None


def test_quit_needs_no_more_than_that():
    with Engine.start() as engine:
        engine.send(Quit())
        assert engine.receive() is None
        assert engine.exit_code == 0


def test_close_ends_it_whatever_it_does(folder):
    engine = Engine.start()
    load(engine, folder)
    engine.send(Generate(id=1, messages=LONG))
    until(engine, Prefill)
    engine.close()
    assert engine.exit_code == 0
    assert engine.receive() is None
    engine.send(Stop(id=1))
    engine.close()
    assert engine.log_tail() == ""


def test_close_frees_a_thread_that_waits_for_it():
    engine = Engine.start()
    heard = []
    thread = threading.Thread(target=lambda: heard.append(engine.receive()))
    thread.start()
    engine.close()
    thread.join()
    assert heard == [None]


def test_one_that_does_not_end_is_killed(monkeypatch):
    start = subprocess.Popen

    def deaf(command, **options):
        return start([sys.executable, "-c", "import signal; signal.pause()"], **options)

    monkeypatch.setattr(subprocess, "Popen", deaf)
    monkeypatch.setattr("mlxarch.app.engine.client._PATIENCE", 0.1)
    engine = Engine.start()
    engine.close()
    assert engine.exit_code == -signal.SIGKILL


def test_something_else_than_an_event_is_an_error(monkeypatch):
    start = subprocess.Popen

    def chatty(command, **options):
        return start([sys.executable, "-c", "print('hello')\nprint('half', end='')"], **options)

    monkeypatch.setattr(subprocess, "Popen", chatty)
    with Engine.start() as engine:
        with pytest.raises(FormatError, match="hello"):
            engine.receive()
        assert engine.receive() is None


ORPHAN = """
from mlxarch.app.engine.client import Engine
engine = Engine.start()
print(engine.pid, flush=True)
input()
"""


def test_it_does_not_outlive_the_app():
    app = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with app:
        engine = psutil.Process(int(app.stdout.readline()))
        app.kill()
    engine.wait(timeout=30)


def test_what_was_read_is_saved_in_the_end_also_while_it_answers(folder, tmp_path):
    kept = Load(path=str(folder), keep=str(tmp_path / "kept"), keep_bytes=1 << 30)
    cached = []
    for _ in range(2):
        with Engine.start() as engine:
            engine.send(kept)
            until(engine, Ready)
            engine.send(Generate(id=1, messages=LONG))
            events = until(engine, Delta)
            cached.append(max(e.cached for e in events if isinstance(e, Prefill)))
        assert engine.exit_code == 0
    assert cached[0] == 0
    assert cached[1] > 29_000
