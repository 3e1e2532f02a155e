"""The input: questions from before, long pastes, files."""

import os

import pytest
from textual import events

from mlxarch.app.chat.references import offers
from mlxarch.app.engine.protocol import Generate
from mlxarch.app.history import History

from .driver import running, toasts
from .fake import GATE, FakeEngine, answers

LONG = "\n".join(f"line {i}" for i in range(42))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    (tmp_path / "data.bin").write_bytes(b"\0\1\2")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print()")
    return tmp_path


def asked(chat):
    return chat.engine.of(Generate)[-1].messages[-1]["content"]


async def paste(chat, text):
    chat.app.post_message(events.Paste(text))
    await chat.pilot.pause()


async def test_up_and_down_go_through_what_was_sent_and_what_is_written_waits():
    async with running(FakeEngine(answers("A."), answers("B."))) as chat:
        await chat.asked("first")
        await chat.asked("second\nline")
        chat.app.composer.rewrite("third")
        await chat.press("up")
        assert chat.app.composer.text == "second\nline"
        await chat.press("up")  # within the text
        assert chat.app.composer.text == "second\nline"
        await chat.press("up")
        assert chat.app.composer.text == "first"
        await chat.press("up", "down", "down", "down", "down")
        assert chat.app.composer.text == "third"


async def test_what_is_replaced_in_the_input_is_never_lost():
    async with running(FakeEngine(answers("A."), answers("B."), [GATE])) as chat:
        await chat.asked("first")
        chat.app.composer.rewrite("a draft")
        await chat.press("up", "enter")  # the first question once more
        await chat.until(lambda: len(chat.engine.of(Generate)) == 2)
        assert chat.app.composer.text == "a draft"
        await chat.until(lambda: not chat.session.busy and chat.settled())
        await chat.press("ctrl+up", "slash")  # a command would take the draft's place
        await chat.until(lambda: len(chat.app.screen_stack) == 2)
        await chat.press("escape")
        await paste(chat, LONG)
        await chat.press("ctrl+up", "e", "X", "escape", "ctrl+z", "ctrl+z")
        assert chat.app.composer.text == "firstX"
        await chat.press("ctrl+shift+z", "ctrl+shift+z")
        await chat.until(lambda: chat.app.composer.text == "a draft[paste 1: 42 lines]")
        await chat.press("enter", "ctrl+z", "!", "enter")  # sent, and taken back to be changed
        await chat.until(lambda: len(chat.engine.of(Generate)) == 3)
        await chat.until(lambda: chat.app.queue.texts == [f"a draft{LONG}!"])


async def test_what_was_asked_in_other_conversations_is_gone_through_too():
    history = History.nowhere()
    session = history.begin(model="m")
    one = history.add(session, None, "user", "from before")
    history.add(session, one.id, "assistant", "Yes.")
    async with running(FakeEngine(), history=history) as chat:
        await chat.press("up")
        assert chat.app.composer.text == "from before"


async def test_a_long_paste_is_a_mark_and_is_sent_in_full():
    async with running(FakeEngine(answers("Long."))) as chat:
        await chat.press(*"Sum: ")
        await paste(chat, LONG)
        await chat.sees("Sum: [paste 1: 42 lines]")
        await chat.press("enter")
        await chat.until(lambda: bool(chat.engine.of(Generate)))
        assert asked(chat) == f"Sum: {LONG}"


async def test_a_paste_s_mark_goes_whole_and_can_be_unfolded():
    async with running(FakeEngine()) as chat:
        await paste(chat, LONG)
        await chat.press("backspace")
        assert chat.app.composer.text == ""
        await paste(chat, LONG)
        await chat.app.carry_out("unfold")
        assert chat.app.composer.text == LONG
        assert not chat.app.check_action("unfold", ())


async def test_a_short_paste_is_what_it_is():
    async with running(FakeEngine()) as chat:
        await paste(chat, "two\nlines")
        assert chat.app.composer.text == "two\nlines"


@pytest.mark.parametrize("end", ["\r", "\r\n"])
async def test_lines_of_a_paste_end_as_terminals_have_it(end):
    async with running(FakeEngine(answers("Yes."))) as chat:
        await paste(chat, f"two{end}lines")
        assert chat.app.composer.text == "two\nlines"
        await paste(chat, end.join(["line"] * 3000))
        await chat.sees("[paste 1: 3,000 lines]")
        await chat.press("enter")
        await chat.until(lambda: chat.engine.of(Generate))
        assert asked(chat) == "two\nlines" + "\n".join(["line"] * 3000)


async def test_files_are_offered_chosen_sent_and_shown_by_their_names(here):
    async with running(FakeEngine(answers("Two lines."))) as chat:
        await chat.press(*"See @n")
        await chat.sees("notes.txt")
        await chat.press("tab")
        assert chat.app.composer.text == "See @notes.txt "
        await chat.press("enter")
        await chat.until(lambda: bool(chat.engine.of(Generate)))
        assert asked(chat) == "See @notes.txt\n\nFile notes.txt:\n```\none\ntwo\n```"
        await chat.sees("See @notes.txt", "▤ notes.txt · 7 characters")
        assert "File notes.txt:" not in chat.screen()
        # To be asked otherwise it is the question alone again.
        await chat.until(lambda: not chat.session.busy)
        await chat.app.carry_out("edit")
        assert chat.app.composer.text == "See @notes.txt"


async def test_a_folder_whose_name_has_a_space_is_looked_into(here):
    folder = here / "my notes"
    folder.mkdir()
    (folder / "to do.txt").write_text("rest")
    async with running(FakeEngine(answers("Yes."))) as chat:
        await chat.press(*"Do @my", "tab")
        await chat.until(lambda: chat.app.composer.text == 'Do @"my notes/')
        await chat.sees("my notes/to do.txt")
        await chat.press("tab")
        await chat.until(lambda: chat.app.composer.text == 'Do @"my notes/to do.txt" ')
        await chat.press("enter")
        await chat.until(lambda: bool(chat.engine.of(Generate)))
        assert "File my notes/to do.txt:" in asked(chat)


def test_only_what_can_be_sent_is_offered(here):
    os.mkfifo(here / "pipe.txt")
    for name, to in (("gone.txt", "nowhere"), ("itself", "itself"), ("zero.txt", "/dev/zero")):
        (here / name).symlink_to(to)
    (here / "link.txt").symlink_to("notes.txt")
    (here / "ours").symlink_to("src")
    for name in ('a "b".txt', 'quo"te.txt', "hash#1.txt", "ünï 🙂.txt", ".hidden"):
        (here / name).write_text("x")
    files = ["data.bin", "hash#1.txt", "link.txt", "notes.txt", 'quo"te.txt', "ünï 🙂.txt"]
    assert offers("") == ["ours/", "src/", *files]
    assert offers(".h") == [".hidden"]
    assert offers("itself/") == offers("pipe.txt/") == offers(f"{'x' * 300}/") == []


async def test_a_folder_is_looked_into_and_escape_closes_the_list(here):
    async with running(FakeEngine()) as chat:
        await chat.press(*"@s", "enter")
        await chat.sees("src/main.py")
        await chat.press("enter")
        assert chat.app.composer.text == "@src/main.py "
        await chat.press("@")
        await chat.sees("data.bin")
        await chat.press("escape")
        await chat.until(lambda: "data.bin" not in chat.screen())
        await chat.press("d")
        await chat.sees("data.bin")


async def test_a_click_chooses_a_file(here):
    async with running(FakeEngine()) as chat:
        await chat.press("@")
        await chat.sees("notes.txt")
        await chat.pilot.click("#files", offset=(3, 2))
        await chat.until(lambda: chat.app.composer.text == "@notes.txt ")


async def test_what_is_no_text_is_said_and_the_question_is_kept(here):
    async with running(FakeEngine()) as chat:
        chat.app.composer.text = "Read @data.bin"
        await chat.press("enter")
        await chat.until(lambda: "data.bin is no text" in toasts(chat))
        assert chat.app.composer.text == "Read @data.bin"
        assert not chat.engine.of(Generate)
