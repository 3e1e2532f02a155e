"""The next questions are written while an answer runs, and wait for their turn."""

from textual import events

from mlxarch.app.chat.queue import Waiting
from mlxarch.app.engine import protocol

from .driver import running, shown, toasts
from .fake import GATE, READY, FakeEngine, answers, fails, says


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


async def test_a_folder_is_no_file_and_what_waits_goes_on_waiting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    async with running(FakeEngine([says("One."), GATE, *answers("")])) as chat:
        await chat.ask("a")
        await write(chat, "Sum up @docs/, will you?")
        await write(chat, "c")
        chat.engine.open()
        await chat.until(lambda: "docs is a folder; files come along one by one" in toasts(chat))
        await chat.sees("Waiting: Enter in the empty input", " 1. c")
        assert chat.app.composer.text == "Sum up @docs/, will you?"
        assert sent(chat) == ["a"]


async def test_somebody_who_has_no_home_here_is_only_mentioned():
    async with running(FakeEngine(answers("Yes."))) as chat:
        await chat.press("@", *"~nobodyatall", "/", "x", "enter")
        await chat.until(lambda: sent(chat) == ["@~nobodyatall/x"])


async def test_after_a_failure_nothing_is_sent_unasked():
    engine = FakeEngine([says("Half"), GATE, fails("It broke.")])
    async with running(engine) as chat:
        await chat.ask("a")
        await write(chat, "b")
        engine.open()
        await chat.sees("It broke.", "Waiting: Enter")
        assert sent(chat) == ["a"]


async def test_what_is_sent_while_the_model_is_loaded_is_sent_once_it_is_there():
    engine = FakeEngine(answers("One."), answers("Two."), load=())
    async with running(engine, ready=False) as chat:
        await write(chat, "a")
        await write(chat, "b")
        await chat.sees("Sent when the model is loaded", " 1. a", " 2. b")
        assert not sent(chat)
        engine.tell(READY)
        await chat.until(lambda: sent(chat) == ["a", "b"])


async def test_what_was_typed_before_the_first_screen_is_as_if_it_was_typed_there():
    engine = FakeEngine(answers("One."), load=())
    async with running(engine, ready=False, typed="a\n\n/unfold\nand th") as chat:
        await chat.sees(" 1. a", "and th")
        engine.tell(READY)
        await chat.until(lambda: sent(chat) == ["a"])


async def test_a_model_that_is_not_loaded_leaves_what_waits_alone():
    engine = FakeEngine(answers("One."), load=())
    async with running(engine, ready=False) as chat:
        await write(chat, "a")
        engine.tell(protocol.Error(id=None, kind="CheckpointError", message="It is damaged."))
        await chat.sees("Waiting: Enter in the empty input", " 1. a")
        await chat.press("enter")
        await chat.until(lambda: "No model is loaded" in toasts(chat))
        await chat.press("ctrl+r")
        engine.tell(READY)
        await chat.until(lambda: chat.app.check_action("send", ()))
        assert not sent(chat)
        await chat.press("enter")
        await chat.until(lambda: sent(chat) == ["a"])


async def test_enter_in_an_empty_input_does_nothing_while_an_answer_runs():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        await chat.press("enter", "b")
        await chat.until(lambda: chat.app.composer.text == "b")
        assert not toasts(chat)


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
