"""`mlxarch chat` on the command line, up to the first screen."""

import io
import subprocess
import sys

import pytest
from click import UsageError
from click.testing import CliRunner
from platformdirs import user_cache_path

from mlxarch.app import guide
from mlxarch.app.chat.app import ChatApp
from mlxarch.app.chat.session import Sampling
from mlxarch.app.commands import run
from mlxarch.app.commands.chat import command
from mlxarch.app.engine.client import Engine
from mlxarch.app.engine.protocol import Generate, Load
from mlxarch.app.history import History, HistoryError
from mlxarch.errors import HubError

from .fake import READY, FakeEngine, answers


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def engine(monkeypatch):
    """What is started instead of a process."""
    fake = FakeEngine()
    monkeypatch.setattr(Engine, "start", lambda: fake)
    return fake


@pytest.fixture
def chat(engine, monkeypatch):
    """Runs the command in a terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(*arguments):
        with monkeypatch.context() as here:
            here.setattr(sys, "stdin", Terminal())
            here.setattr(sys, "stdout", Terminal())
            here.setattr(sys, "stderr", Terminal())
            return command.main([*arguments], standalone_mode=False)

    return run


PICTURES = """
import io, sys
from mlxarch.app.commands.chat import command
from mlxarch.app.engine.client import Engine

class Terminal(io.StringIO):
    encoding = "utf-8"
    isatty = lambda self: True

def start():
    from textual import constants
    sys.__stdout__.write(str(constants.MAX_FPS))
    sys.exit()

Engine.start = start
sys.stdin, sys.stdout, sys.stderr = Terminal(), Terminal(), Terminal()
command.main([])
"""


@pytest.mark.parametrize(("wanted", "rate"), [(None, 120), ("30", 30)])
def test_a_picture_follows_the_one_before_soon(wanted, rate, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    if wanted:
        monkeypatch.setenv("TEXTUAL_FPS", wanted)
    else:
        monkeypatch.delenv("TEXTUAL_FPS", raising=False)
    ran = subprocess.run([sys.executable, "-c", PICTURES], stdout=subprocess.PIPE, text=True)
    assert ran.stdout == str(rate)


@pytest.fixture
def opened(monkeypatch):
    """The apps that would have been run."""
    apps = []
    monkeypatch.setattr(ChatApp, "run", lambda app, **how: apps.append(app))
    return apps


@pytest.fixture
def asked(monkeypatch):
    """What `run` was asked instead."""
    calls = []
    monkeypatch.setattr(run, "answer", lambda **options: calls.append(options) or 0)
    return calls


def test_in_a_pipe_it_answers_what_is_piped_in(opened, monkeypatch):
    engine = FakeEngine(answers("Hi you."), load=(READY,))
    monkeypatch.setattr(Engine, "start", lambda: engine)
    result = CliRunner().invoke(command, [".", "--system", "Brief.", "--temp", "1"], input="hello")
    assert (result.exit_code, result.stdout) == (0, "Hi you.\n")
    (request,) = engine.of(Generate)
    assert [m["content"] for m in request.messages] == ["Brief.", "hello"]
    assert request.temperature == 1
    assert not opened


def test_without_a_terminal_and_with_nothing_to_answer_it_points_to_run(
    engine, opened, monkeypatch
):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(UsageError, match=r"-p TEXT") as refused:
        command.main([], standalone_mode=False)
    assert refused.value.exit_code == 2
    assert not opened


@pytest.mark.parametrize("name", ["dumb", "unknown", ""])
def test_a_dumb_terminal_is_no_terminal(chat, opened, asked, monkeypatch, tmp_path, name):
    monkeypatch.setenv("TERM", name)
    monkeypatch.setattr("click.prompt", lambda text, err: f"{text}?")
    chat()
    assert asked.pop()["prompt"] == "Question?"
    monkeypatch.setattr(Terminal, "isatty", lambda stream: stream is sys.stdout)
    assert chat(str(tmp_path), "--seed", "3", "--persona", "terse") == 0
    with pytest.raises(UsageError, match="need a terminal"):
        chat("--continue")
    assert not opened
    (options,) = asked
    assert options["model"] == str(tmp_path)
    assert options["sampling"].seed == 3
    assert "word" in options["system"].lower()


def test_drawing_is_done_on_stderr_which_may_lead_elsewhere(chat, opened, asked, monkeypatch):
    monkeypatch.setattr(Terminal, "isatty", lambda stream: stream is not sys.stderr)
    monkeypatch.setattr("click.prompt", lambda text, err: sys.stdout.getvalue())
    chat()
    assert asked.pop()["prompt"] == "Question: "
    # Where the answer goes into a file, nothing else does.
    monkeypatch.setattr(Terminal, "isatty", lambda stream: stream is sys.stdin)
    monkeypatch.setattr("click.prompt", lambda text, err: f"[{sys.stdout.getvalue()}]")
    sys.stdout.seek(0)
    sys.stdout.truncate()
    chat()
    assert asked.pop()["prompt"] == "[]"
    assert not opened


def test_where_boxes_have_no_letters_nothing_is_drawn(chat, opened, asked, monkeypatch):
    monkeypatch.setattr(Terminal, "encoding", "latin-1")
    monkeypatch.setattr("click.prompt", lambda text, err: "hello")
    chat()
    assert asked.pop()["prompt"] == "hello"
    assert not opened


def test_without_a_model_the_guide_is_opened(chat, opened):
    assert chat() == 0
    (app,) = opened
    assert app.guide
    assert app.session.to_load == Load(path=str(guide.PATH))
    assert app.session.sampling == Sampling()


def test_a_folder_and_all_options_reach_the_chat(chat, opened, tmp_path):
    options = (
        "--system Brief. --temp 0.5 --top-p 0.9 --max-tokens 7 --seed 3 --draft lookup --kv-bits 8"
        " --memory 1GB --wired 900MB --top-k 9 --stop END"
    )
    chat(str(tmp_path), *options.split())
    (app,) = opened
    assert not app.guide
    assert app.model == tmp_path.name
    assert app.session.to_load == Load(
        path=str(tmp_path), draft="lookup", kv_bits=8, memory=10**9, wired=9 * 10**8
    )
    assert app.session.system == "Brief."
    assert app.session.sampling == Sampling(
        max_tokens=7, temperature=0.5, top_p=0.9, seed=3, top_k=9, stop=["END"]
    )


def test_prompts_are_kept_in_the_user_s_cache_if_asked(chat, opened, tmp_path):
    chat(str(tmp_path), "--keep-prompts", "2GB")
    (app,) = opened
    load = app.session.to_load
    assert load.keep == str(user_cache_path("mlxarch") / "prompts")
    assert load.keep_bytes == 2 * 10**9


def test_the_engine_of_the_end_is_closed(chat, engine, monkeypatch):
    second = FakeEngine()

    def run(app, **how):
        app.session.engine = second

    monkeypatch.setattr(ChatApp, "run", run)
    chat()
    assert engine.closed
    assert second.closed


def test_a_model_that_is_not_there_is_told_before_the_screen_is_drawn(chat, opened, engine):
    with pytest.raises(HubError):
        chat("no/such/model")
    assert engine.closed
    assert not opened


@pytest.fixture
def kept():
    """Two conversations in the history."""
    with History.open() as history:
        ids = [history.begin(model="m", path=str(guide.PATH)) for _ in range(2)]
        for session in ids:
            history.add(session, None, "user", "a")
        history.flush()
        yield ids
        for session in ids:
            history.delete(session)


def test_the_last_conversation_goes_on_or_another_one(chat, opened, kept):
    chat("-c")
    chat("--resume", kept[0][:6])
    assert [app.resumed for app in opened] == [kept[1], kept[0]]
    assert opened[0].session.to_load.path == str(guide.PATH)


def test_without_a_conversation_to_go_on_with_a_new_one_begins(chat, opened):
    chat("--continue")
    assert opened[0].resumed is None
    assert "There is no conversation to go on with" in opened[0].note


def test_a_conversation_that_is_not_there_is_told_before_the_screen_is_drawn(chat, opened):
    with pytest.raises(HistoryError, match="zzzz"):
        chat("--resume", "zzzz")
    with pytest.raises(UsageError, match="say which"):
        chat("-c", "--resume", "zzzz")
    assert not opened
