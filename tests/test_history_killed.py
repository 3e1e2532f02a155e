"""`kill -9` at any moment, and several programs at once: what was on the screen is in the file."""

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlxarch.app.history import History

AT_MOST = 1.0  # seconds of text that a kill may cost

# Chats for ever. Says on stdout what it has just shown to a person, and when.
CHATS = """
import sys, time
from pathlib import Path
from mlxarch.app.history import History

def shown(*what):
    print(time.monotonic(), *what, flush=True)

history = History.open(Path(sys.argv[1]))
session, parent = history.begin(model="guide"), None
shown("session", session)
for turn in range(10_000):
    for count in range(1, 6):
        history.set_draft(session, "question " * count)
        shown("typed", turn, count)
        time.sleep(0.003)
    asked = history.add(session, parent, "user", f"question {turn}")
    history.set_draft(session, "")
    shown("asked", turn)
    draft = history.start(session, asked.id)
    for count in range(1, 8 if turn % 3 else 600):
        draft.grow("word " * count, "thought " * count, [0.003] * count)
        shown("said", turn, count)
        time.sleep(0.003)
    parent = draft.finish("stop").id
    shown("answered", turn, count)
"""

# Writes fifty exchanges and says which conversation they are in.
WRITES = """
import sys
from pathlib import Path
from mlxarch.app.history import History

sys.stdin.readline()
with History.open(Path(sys.argv[1])) as history:
    session, parent = history.begin(model=sys.argv[2]), None
    for turn in range(50):
        asked = history.add(session, parent, "user", f"question {turn}")
        draft = history.start(session, asked.id)
        draft.grow(f"answer {turn}")
        parent = draft.finish("stop").id
    assert history.flush() and not history.trouble, history.trouble
    print(session)
"""


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_after(path, lines):
    """What a chat had shown, as (seconds before the kill, words), when it was killed."""
    with python(CHATS, path) as chat:
        told = [chat.stdout.readline() for _ in range(lines)]
        chat.send_signal(signal.SIGKILL)
        end = time.monotonic()
        told += chat.stdout.readlines()
    steps = [line.split() for line in told if line.endswith("\n")]
    return [(end - float(when), what) for when, *what in steps]


def check(path, steps):
    """All that was shown a second before the kill is there, and nothing that never was."""
    session = next(what[1] for _, what in steps if what[0] == "session")
    old = [what for age, what in steps if age > AT_MOST and what[0] != "session"]
    new = [what for _, what in steps if what[0] != "session"]
    with History.open(path) as history:
        if not old and not history.sessions():
            return
        found = history.load(session)
        assert history.last() == session
    thread = found.thread()
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("SELECT count(*) FROM growing").fetchone() == (0,)

    def reached(steps):
        """How far the chat had come: the turn, then typed, asked, words of the answer, ended."""
        order = {"typed": 0, "asked": 1, "said": 2, "answered": 3}
        kind, *numbers = steps[-1]
        count = int(numbers[1]) if len(numbers) > 1 and kind != "answered" else 0
        return int(numbers[0]), order[kind], count

    questions = [message for message in thread if message.role == "user"]
    answers = [message for message in thread if message.role == "assistant"]
    assert [one.content for one in questions] == [f"question {n}" for n in range(len(questions))]
    for message in thread[:-1]:
        assert message.ended in (None, "stop")
    if len(answers) == len(questions):
        last = answers[-1] if answers else None
        words = len(last.content.split()) if last else 0
        if found.draft:
            here = len(questions), 0, len(found.draft.split())
        elif last is None:
            here = 0, 0, 0
        else:
            here = len(answers) - 1, 2 if last.partial else 3, words if last.partial else 0
        if last and last.partial:
            assert last.ended == "interrupted"
            assert last.content == "word " * words
            assert last.thinking == "thought " * words
            assert len(last.seconds) == words
    else:
        here = len(questions) - 1, 1, 0
    if old:
        assert here >= reached(old)
    assert here[:2] <= (reached(new)[0] + 1, 3)


def test_a_kill_costs_a_second_at_most(tmp_path):
    path = tmp_path / "history.db"
    for lines in (40, 600):
        check(path, killed_after(path, lines))


@pytest.mark.slow
def test_a_kill_at_any_moment_costs_a_second_at_most(tmp_path):
    def killed_many_times(name):
        chance, path = random.Random(name), tmp_path / f"{name}.db"
        for _ in range(10):
            check(path, killed_after(path, chance.randrange(2, 1_500)))

    with ThreadPoolExecutor() as several:  # a chat mostly waits
        list(several.map(killed_many_times, range(4)))


def test_many_programs_may_write_at_once_also_while_the_file_is_made(tmp_path):
    path = tmp_path / "history.db"
    programs = [python(WRITES, path, name) for name in "abcd"]
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    ids = [program.communicate()[0].strip() for program in programs]
    assert [program.returncode for program in programs] == [0] * 4
    with History.open(path) as history:
        assert {one.id for one in history.sessions()} == set(ids)
        for session, name in zip(ids, "abcd", strict=True):
            found = history.load(session)
            said = [message.content for message in found.thread()]
            assert said == [f"{what} {n}" for n in range(50) for what in ("question", "answer")]
            assert found.model == name
        assert len(history.sessions("question 49")) == 4


def test_what_another_program_is_still_writing_is_left_to_it(tmp_path):
    path = tmp_path / "history.db"
    with python(CHATS, path) as chat:
        session = chat.stdout.readline().split()[2]
        for line in chat.stdout:
            if line.split()[1:] == ["said", "0", "200"]:
                break
        with History.open(path) as history:
            assert [one.content for one in history.load(session).thread()] == ["question 0"]
        for line in chat.stdout:
            if line.split()[1] == "answered":
                break
        for line in chat.stdout:  # what was answered has been written by then
            if line.split()[1:3] == ["said", "3"]:
                break
        chat.send_signal(signal.SIGKILL)
    with History.open(path) as history:
        first = history.load(session).thread()[1]
        assert (first.ended, len(first.content.split())) == ("stop", 599)
