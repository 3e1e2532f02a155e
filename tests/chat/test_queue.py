"""The next questions are written while an answer runs, and wait for their turn."""

from textual import events

from mlxarch.app.chat.queue import Waiting
from mlxarch.app.engine import protocol

from .driver import running, shown
from .fake import GATE, FakeEngine, answers, fails, says


def sent(chat):
    """The questions that were sent."""
    return [command.messages[-1]["content"] for command in chat.engine.of(protocol.Generate)]


async def write(chat, text):
    chat.app.composer.text = text
    await chat.press("enter")


async def test_what_is_sent_while_an_answer_runs_waits_and_is_sent_afterwards():
    engine = FakeEngine([says("One."), GATE, *answers("")], answers("Two."), answers("Three."))
    async with running(engine) as chat:
        await chat.ask("a")
        await chat.sees("Queue")
        await write(chat, "b")
        await write(chat, "c")
        await chat.sees("Sent when the answer has ended", " 1. b", " 2. c")
        assert sent(chat) == ["a"]
        engine.open()
        await chat.until(lambda: sent(chat) == ["a", "b", "c"])
        await chat.until(lambda: "Three." in shown(chat.app.transcript.page))
        assert not chat.app.queue.display


async def test_two_questions_in_a_burst_are_both_kept():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        for key, letter in zip(["a", "enter", "b", "enter", "c"], "a\rb\rc", strict=True):
            chat.app.post_message(events.Key(key, letter))
        await chat.until(lambda: chat.app.composer.text == "c" and chat.app.queue.texts == ["b"])
        assert sent(chat) == ["a"]


async def test_stopping_keeps_what_waits_until_enter():
    engine = FakeEngine([says("Half"), GATE], answers("Two."))
    async with running(engine) as chat:
        await chat.ask("a")
        await write(chat, "b")
        await chat.press("escape")
        await chat.sees("Waiting: Enter in the empty input", " 1. b")
        assert sent(chat) == ["a"]
        await chat.press("enter")
        await chat.until(lambda: sent(chat) == ["a", "b"])


async def test_after_a_failure_nothing_is_sent_unasked():
    engine = FakeEngine([says("Half"), GATE, fails("It broke.")])
    async with running(engine) as chat:
        await chat.ask("a")
        await write(chat, "b")
        engine.open()
        await chat.sees("It broke.", "Waiting: Enter")
        assert sent(chat) == ["a"]


async def test_what_waits_is_edited_or_removed():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        for text in ("b", "c", "d"):
            await write(chat, text)
        await chat.press("alt+up")
        await chat.until(lambda: chat.app.composer.text == "d")
        assert chat.app.queue.texts == ["b", "c"]
        chat.app.composer.clear()
        await write(chat, "/unqueue 1")
        await chat.until(lambda: chat.app.composer.text == "b")
        row = chat.app.query(Waiting).first()
        await chat.pilot.click(row, offset=(row.size.width - 2, 0))
        await chat.until(lambda: not chat.app.queue.texts)


async def test_what_waits_is_saved_as_part_of_the_draft():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        await write(chat, "b")
        await chat.press("c")
        await chat.until(lambda: chat.app.composer.text == "c")
        keeper = chat.session.keeper
        await chat.until(lambda: keeper.history.load(keeper.session).draft == "b\n\nc")


async def test_a_new_conversation_gives_back_what_waited():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        await write(chat, "b")
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.app.composer.text == "b")
        assert not chat.app.queue.texts
