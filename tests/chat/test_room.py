"""A context that fills up is said early; what is done about it is chosen, and can be undone."""

from dataclasses import replace

from mlxarch.app.chat.calls import pretty
from mlxarch.app.chat.context import SUM_UP
from mlxarch.app.engine import protocol

from .driver import running, shown, toasts
from .fake import GATE, MEMORY, READY, FakeEngine, costs, ends, fails, reads, says

SMALL = (replace(READY, context=1000), MEMORY)


def takes(text, prompt, tokens=50, reason="stop"):
    """An answer after which the context holds `prompt` and `tokens`."""
    return [says(text), costs(prompt=prompt, tokens=tokens), ends(reason)]


def sent(chat):
    messages = chat.engine.of(protocol.Generate)[-1].messages
    return [message["content"] for message in messages]


def thread(chat):
    return shown(chat.app.transcript.page)


async def command(chat, text):
    chat.app.composer.text = text
    await chat.press("enter")


async def test_a_context_that_is_nearly_full_is_said_once():
    engine = FakeEngine(takes("One.", 700), takes("Two.", 760), takes("Three.", 780), load=SMALL)
    async with running(engine) as chat:
        await chat.asked("a")
        assert "/compact" not in toasts(chat)
        for question in "bc":
            await chat.asked(question)
        assert toasts(chat).count("The context is 81 % full. /compact") == 1
        assert "83 %" not in toasts(chat)


async def test_a_context_that_an_answer_fills_is_said_while_it_does():
    fills = [reads(740, 740), says("Two.", *[20] * 70), GATE, says("More.", *[20] * 190)]
    fills += [costs(prompt=740, tokens=260), ends("context")]
    async with running(FakeEngine(takes("One.", 700), fills, load=SMALL)) as chat:
        await chat.asked("a")
        assert "full" not in toasts(chat)
        await chat.ask("b")
        await chat.until(lambda: "The context is 81 % full. /compact" in toasts(chat))
        assert chat.session.busy
        chat.engine.open()
        await chat.sees("The context is full", "Have the model sum up")
        assert toasts(chat).count("% full") == 1


async def test_what_is_said_of_a_full_context_can_be_done():
    async with running(FakeEngine(takes("One.", 800), load=SMALL)) as chat:
        await chat.asked("a")
        await chat.until(lambda: "85 % full. Nothing is older" in toasts(chat))
        assert "/compact" not in toasts(chat)


async def test_why_there_is_no_summary_is_said():
    cut = takes("The sum", 700, 30, "length")
    broken = [says("The"), fails("No memory is left.", kind="OutOfMemory")]
    engine = FakeEngine(takes("One.", 200), takes("Two.", 600), cut, broken, load=SMALL)
    async with running(engine, size=(80, 40)) as chat:
        for question in "ab":
            await chat.asked(question)
        for why in ("was cut off at the longest answer", "There is no summary: No memory is left."):
            await command(chat, "/compact")
            await chat.until(lambda why=why: why in toasts(chat))
            await chat.until(lambda: "The sum" not in thread(chat))
            assert "Two." in thread(chat)


async def test_an_engine_that_is_killed_while_it_sums_up_is_said_to_be_why():
    engine = FakeEngine(takes("One.", 200), takes("Two.", 600), [says("The"), GATE], load=SMALL)
    async with running(engine, size=(80, 40)) as chat:
        for question in "ab":
            await chat.asked(question)
        await command(chat, "/compact")
        await chat.until(lambda: chat.session.turn.text == "The")
        engine.die(-9)
        await chat.until(lambda: "no summary: The engine stopped (exit code -9)." in toasts(chat))
        assert "Two." in thread(chat)


async def test_the_model_sums_up_and_the_originals_come_back():
    engine = FakeEngine(
        takes("One.", 200), takes("Two.", 600), takes("Three.", 900),
        takes("The sum of it.", 700, 30), takes("Four.", 400), takes("The sum of it.", 700, 30),
        load=SMALL,
    )  # fmt: skip
    async with running(engine, size=(80, 50)) as chat:
        for question in "abc":
            await chat.asked(question)
        await command(chat, "/compact")
        await chat.until(lambda: "2 exchanges were summed up" in toasts(chat))
        assert sent(chat) == ["a", "One.", "b", "Two.", SUM_UP]
        await chat.sees("The sum of it.", "Three.", "2 of 2")
        assert "Two." not in thread(chat)
        assert chat.app.context.share < 0.5
        await chat.asked("d")
        assert sent(chat) == [SUM_UP, "The sum of it.", "c", "Three.", "d"]
        await command(chat, "/version 1")
        await chat.sees("One.", "Two.", "Three.", "1 of 2")
        await command(chat, "/compact")
        await chat.until(lambda: toasts(chat).count("2 exchanges were summed up") == 2)
        await command(chat, "/version 1")
        await chat.sees("One.", "Two.", "Three.", "1 of 2")
        assert "The same answer" not in toasts(chat)


async def test_a_summary_that_is_stopped_changes_nothing():
    engine = FakeEngine(takes("One.", 200), takes("Two.", 600), [says("The sum"), GATE], load=SMALL)
    async with running(engine, size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await command(chat, "/compact")
        await chat.until(lambda: "The sum" in thread(chat))
        await chat.press("escape")
        await chat.until(lambda: "The summary was stopped. The conversation is" in toasts(chat))
        await chat.until(lambda: "The sum" not in thread(chat))
        assert "Two." in thread(chat)
        assert len(chat.session.transcript.first) == 1
        assert chat.app.composer.text == ""


async def test_a_summary_that_is_left_for_another_conversation_changes_nothing():
    engine = FakeEngine(takes("One.", 200), takes("Two.", 600), [says("The sum"), GATE], load=SMALL)
    async with running(engine) as chat:
        await chat.asked("a")
        await chat.asked("b")
        session = chat.session.keeper.session
        await command(chat, "/compact")
        await chat.until(lambda: "The sum" in thread(chat))
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.session.keeper.session != session)
        kept = chat.session.keeper.history.load(session)
        assert [one.content for one in kept.thread()] == ["a", "One.", "b", "Two."]


async def test_a_question_that_does_not_fit_is_offered_room():
    engine = FakeEngine(
        takes("One.", 300), takes("Two.", 900), [fails("1,100 tokens.", kind="ContextFull")],
        takes("Three.", 700), load=SMALL,
    )  # fmt: skip
    async with running(engine, size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.ask("c")
        await chat.sees("The context is full", "Leave out the oldest exchange", "Neither")
        await chat.press("down", "enter")
        await chat.until(lambda: "1 exchange is left out" in toasts(chat))
        assert chat.app.composer.text == "c"
        await chat.press("enter")
        await chat.until(lambda: sent(chat) == ["b", "Two.", "c"])
        await chat.until(chat.settled)
        await command(chat, "/version 1")
        await chat.sees("One.")


async def test_a_question_that_surely_does_not_fit_is_not_sent():
    engine = FakeEngine(takes("One.", 300), takes("Two.", 900), load=SMALL)
    async with running(engine, size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await command(chat, "x" * 1000)
        await chat.sees("The context is full")
        await chat.press("escape")
        await chat.until(lambda: chat.app.composer.text == "x" * 1000)
        assert len(chat.engine.of(protocol.Generate)) == 2


async def test_an_answer_that_fills_the_context_is_offered_room():
    engine = FakeEngine(takes("One.", 300), takes("Two.", 900, 100, "context"), load=SMALL)
    async with running(engine, size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.sees("The context is full", "Have the model sum up")


async def test_so_many_exchanges_are_left_out_as_one_says():
    engine = FakeEngine(*(takes(f"Answer {i}.", 100 + i) for i in range(5)), load=SMALL)
    async with running(engine, size=(80, 50)) as chat:
        for i in range(4):
            await chat.asked(f"q{i}")
        await command(chat, "/drop 4")
        await chat.until(lambda: "a number from 1 to 3" in toasts(chat))
        await command(chat, "/drop 2")
        await chat.until(lambda: "2 exchanges are left out" in toasts(chat))
        assert "Answer 1." not in thread(chat)
        await chat.asked("d")
        assert sent(chat) == ["q2", "Answer 2.", "q3", "Answer 3.", "d"]


async def test_calls_of_tools_are_shown_and_kept_apart_from_the_text():
    call = lambda id: protocol.ToolCall(id=id, name="look_up", arguments='{"city": "Köln"}')  # noqa: E731
    async with running(FakeEngine([call, costs(), ends()], takes("Two.", 9))) as chat:
        await chat.asked("What is the weather?")
        await chat.sees("Tool call look_up · not run", '"city": "Köln"')
        await chat.asked("b")
        message = chat.engine.of(protocol.Generate)[-1].messages[1]
        assert message["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}


def test_arguments_that_are_no_json_stay_as_they_are():
    assert pretty("city=Köln") == "city=Köln"


async def test_a_file_that_finds_no_room_stays_a_name(tmp_path):
    (tmp_path / "long.txt").write_text("word " * 2000)
    engine = FakeEngine(takes("One.", 100), takes("Two.", 200), load=SMALL)
    async with running(engine) as chat:
        for question in "ab":
            await chat.asked(question)
        await command(chat, f"Sum up @{tmp_path}/long.txt")
        await chat.sees("With this question the context would be longer")
        assert chat.app.composer.text == f"Sum up @{tmp_path}/long.txt"
