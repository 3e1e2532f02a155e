"""A conversation is a tree: what was asked otherwise or answered again stays beside the first."""

import pyperclip
import pytest
from textual import events

from mlxarch.app.chat.code import blocks
from mlxarch.app.chat.composer import Composer
from mlxarch.app.engine import protocol

from .driver import running, shown, toasts
from .fake import GATE, FakeEngine, answers, costs, ends, reads, says, thinks


def sent(chat):
    """The messages of the last command, as (role, content)."""
    messages = chat.engine.of(protocol.Generate)[-1].messages
    return [(message["role"], message["content"]) for message in messages]


async def command(chat, text):
    """Enter a command."""
    chat.app.composer.text = text
    await chat.press("enter")


async def done(chat, count):
    """Wait for the end of the answer to the command number `count`."""
    await chat.until(lambda: len(chat.engine.of(protocol.Generate)) == count)
    await chat.until(lambda: not chat.session.busy and chat.settled())


def thread(chat):
    """What is shown of the conversation."""
    return shown(chat.app.transcript.page)


async def test_an_edited_question_makes_a_branch_and_the_first_one_stays():
    engine = FakeEngine(answers("One."), answers("Two."), answers("Three."))
    async with running(engine, size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.press("ctrl+up", "up", "up")  # the answer, the question b, the answer to a
        await chat.press("ctrl+up", "e")
        assert chat.app.composer.text == "a"
        await chat.sees("Another version of this question", "esc Back")
        await chat.press("x", "enter")
        await done(chat, 3)
        assert sent(chat) == [("user", "ax")]
        assert "Two." not in thread(chat)
        await chat.sees("Three.", "2 of 2")
        await command(chat, "/version 1")
        await chat.sees("One.", "Two.", "1 of 2")


async def test_ctrl_e_in_an_empty_input_edits_the_last_question():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("first\nsecond")
        await chat.press("ctrl+e")
        await chat.until(lambda: chat.app.composer.text == "first\nsecond")


async def test_ctrl_e_in_a_text_goes_to_the_end_of_the_line():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("first")
        await chat.press("a", "b", "home", "ctrl+e", "c")
        assert chat.app.composer.text == "abc"


async def test_what_was_being_written_comes_back_after_an_edit():
    async with running(FakeEngine(answers("One."), answers("Two."))) as chat:
        await chat.asked("a")
        for leave in ("escape", "enter"):
            chat.app.composer.text = "draft"
            chat.app.action_edit()
            assert chat.app.composer.text == "a"
            await chat.press(leave)
            await chat.until(lambda: chat.app.composer.text == "draft")
            assert not chat.app.composer.border_title
        assert len(chat.engine.of(protocol.Generate)) == 2


async def test_regenerating_keeps_the_first_answer_and_turns_between_them():
    engine = FakeEngine(answers("One."), answers("Two."), answers("Three."))
    async with running(engine) as chat:
        await chat.asked("a")
        await chat.press("ctrl+g")
        await done(chat, 2)
        assert sent(chat) == [("user", "a")]
        await chat.sees("Two.", "2 of 2")
        assert thread(chat).count("2 of 2") == 1  # of the answer; there is one question
        await chat.press("ctrl+up", "left")
        await chat.sees("One.", "1 of 2")
        assert "Two." not in thread(chat)
        await chat.press("right")
        await chat.sees("Two.", "2 of 2")
        await chat.press("escape")
        assert isinstance(chat.app.focused, Composer)
        await chat.asked("b")
        assert sent(chat) == [("user", "a"), ("assistant", "Two."), ("user", "b")]


@pytest.mark.parametrize("letter", ["r", "o"])
async def test_once_an_answer_is_made_the_keyboard_is_the_input_s(letter):
    engine = FakeEngine([says("Half."), GATE], [says("More."), GATE])
    async with running(engine) as chat:
        await chat.ask("a")
        await chat.sees("Half.")
        await chat.press("escape")
        await chat.until(lambda: not chat.session.busy)
        await chat.press("ctrl+up", letter)
        await chat.until(lambda: chat.session.busy)
        await chat.sees("Stop")
        await chat.press("e", "d")  # which would edit and delete a message
        assert chat.app.composer.text == "ed"


async def test_the_arrows_turn_the_question_where_the_answer_has_one_version():
    engine = FakeEngine(answers("One."), answers("Two."))
    async with running(engine) as chat:
        await chat.asked("a")
        await chat.press("ctrl+e", "b", "enter")
        await done(chat, 2)
        await chat.press("ctrl+up", "left")  # the answer is selected
        await chat.sees("One.", "1 of 2", "Later")
        await chat.press("right")
        await chat.sees("Two.", "2 of 2", "Earlier")


async def test_keys_that_follow_at_once_find_a_message_selected():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("a")
        for _ in range(2):
            chat.app.post_message(events.Key("ctrl+up", None))
        await chat.until(lambda: chat.app.transcript.selected is not None)
        await chat.pilot.pause()
        assert chat.app.part == "question"


async def test_with_a_seed_another_answer_has_another_seed():
    from mlxarch.app.sampling import Sampling

    engine = FakeEngine(answers("One."), answers("Two."))
    async with running(engine, sampling=Sampling(seed=5)) as chat:
        await chat.asked("a")
        await chat.press("ctrl+g")
        await done(chat, 2)
        assert [command.seed for command in engine.of(protocol.Generate)] == [5, 6]


async def test_the_arrows_of_versions_can_be_clicked():
    async with running(FakeEngine(answers("One."), answers("Two."))) as chat:
        await chat.asked("a")
        await chat.press("ctrl+g")
        await done(chat, 2)
        versions = chat.view().versions["answer"]
        await chat.pilot.click(versions, offset=(2, 0))
        await chat.sees("One.", "1 of 2")


async def test_a_branch_is_shown_as_it_was_left():
    scripts = [answers(text) for text in ("One.", "Two.", "Three.")]
    async with running(FakeEngine(*scripts), size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.press("ctrl+up", "up", "up", "r")  # the answer to a
        await done(chat, 3)
        assert "Two." not in thread(chat)
        await command(chat, "/version 1")
        await chat.sees("One.", "Two.")


async def test_a_stopped_answer_goes_on_where_it_ended():
    engine = FakeEngine([says("Half an"), GATE], [says(" answer."), ends()])
    async with running(engine) as chat:
        await chat.ask("a")
        assert not chat.app.check_action("continue", ())
        await chat.press("escape")
        await chat.until(chat.settled)
        assert "stopped" in chat.figures()
        await command(chat, "/continue")
        await done(chat, 2)
        assert sent(chat) == [("user", "a"), ("assistant", "Half an")]
        assert "Half an answer." in chat.answer()
        assert "stopped" not in chat.figures()
        assert not chat.app.check_action("continue", ())


async def test_an_answer_that_was_stopped_in_its_thinking_goes_on_thinking():
    engine = FakeEngine([thinks("Let me"), GATE], [thinks(" see."), says("Four."), ends()])
    async with running(engine) as chat:
        await chat.ask("a")
        await chat.sees("Let me")
        await chat.press("escape")
        await chat.until(chat.settled)
        assert "stopped while it was thinking · /continue has it go on" in chat.figures()
        assert chat.app.composer.text == ""
        await command(chat, "/continue")
        await done(chat, 2)
        messages = chat.engine.of(protocol.Generate)[-1].messages
        thought = {"role": "assistant", "content": "", "reasoning_content": "Let me"}
        assert messages == [{"role": "user", "content": "a"}, thought]
        assert chat.session.turn.thinking == "Let me see."
        assert "Four." in chat.answer()


async def test_a_fork_shares_the_past_and_leaves_what_came_later():
    engine = FakeEngine(*(answers(text) for text in ("One.", "Two.", "Three.")))
    async with running(engine, size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.press("ctrl+up", "up", "up", "f")  # from the answer to a
        await chat.until(lambda: "a conversation of its own" in toasts(chat))
        assert "Two." not in thread(chat)
        await chat.asked("c")
        assert sent(chat) == [("user", "a"), ("assistant", "One."), ("user", "c")]


async def test_a_fork_at_a_question_puts_it_into_the_input():
    async with running(FakeEngine(answers("One."), answers("Two."))) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.press("ctrl+up", "up", "f")
        await chat.until(lambda: chat.app.composer.text == "b")
        assert "One." in thread(chat)
        assert "Two." not in thread(chat)


async def test_undo_takes_the_last_exchange_back_and_keeps_it_as_a_version():
    async with running(FakeEngine(answers("One."), answers("Two."), answers("Three."))) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await command(chat, "/undo")
        await chat.until(lambda: chat.app.composer.text == "b")
        assert "Two." not in thread(chat)
        await chat.asked("c")
        assert sent(chat)[-1] == ("user", "c")
        await chat.sees("2 of 2")


async def test_deleting_asks_first_and_takes_what_follows():
    async with running(FakeEngine(answers("One."), answers("Two."))) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.press("ctrl+up", "up", "up", "up", "d")
        await chat.sees("this exchange and 1 after it")
        await chat.press("escape")
        await chat.until(lambda: "for good" not in chat.screen())
        assert "One." in thread(chat)
        await chat.press("d")
        await chat.sees("for good")
        await chat.press("enter")
        await chat.until(lambda: chat.app.query("#welcome"))
        assert not chat.session.transcript.first


async def test_a_click_selects_a_message_and_shows_what_can_be_done():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("question")
        await chat.pilot.click(chat.view().question)
        await chat.sees("Edit   Copy   Fork   Delete   Regenerate")  # the keys are the input's
        assert isinstance(chat.app.focused, Composer)
        await chat.press("ctrl+up")
        await chat.sees("e Edit", "r Regenerate", "d Delete")
        await chat.press("escape")
        await chat.pilot.click(chat.view().question)
        await chat.sees("Edit   Copy")
        await chat.pilot.click(chat.view().choices["question"], offset=(4, 0))
        await chat.until(lambda: chat.app.composer.text == "question")


async def test_what_can_be_done_is_in_view_each_time_a_long_message_is_selected():
    async with running(FakeEngine(answers("- One.\n" * 40))) as chat:
        await chat.asked("question")
        for _ in range(3):
            await chat.press("ctrl+up")
            await chat.sees("e Edit", "r Regenerate")
            await chat.press("escape")
            await chat.until(lambda: "e Edit" not in chat.screen())


async def test_what_can_be_done_is_shown_when_a_selected_answer_has_ended():
    async with running(FakeEngine([says("One."), GATE, costs(), ends()])) as chat:
        await chat.ask("question")
        await chat.sees("One.")
        await chat.press("ctrl+up")
        await chat.sees("c Copy")
        assert "r Regenerate" not in chat.screen()
        chat.engine.open()
        await chat.sees("c Copy", "r Regenerate")


@pytest.mark.parametrize("label", ["Edit", "Fork", "Regenerate", "Continue", "Delete"])
async def test_a_click_does_what_a_letter_does_also_where_the_message_goes(label):
    engine = FakeEngine([says("Half."), GATE], [says("More."), ends()])
    async with running(engine) as chat:
        await chat.ask("a")
        await chat.press("escape")
        await chat.until(lambda: not chat.session.busy)
        chat.app.transcript.select((chat.session.turn, "answer"))
        await chat.sees(label)
        choices = chat.view().choices["answer"]
        await chat.pilot.click(choices, offset=(str(choices.render()).index(label) + 2, 0))
        if "Delete" in label:
            await chat.sees("Delete for good")
            await chat.press("enter")
        await chat.until(lambda: not chat.app.transcript.selected)
        await chat.press("b")
        await chat.until(lambda: chat.app.composer.text.endswith("b"))


async def test_nothing_can_be_changed_while_an_answer_runs():
    async with running(FakeEngine(answers("One."), [reads(0, 9), GATE])) as chat:
        await chat.asked("a")
        await chat.ask("b")
        for name in ("edit", "regenerate", "continue", "fork", "undo", "remove", "version"):
            assert not chat.app.check_action(name, ()), name


@pytest.fixture
def clipboard(monkeypatch):
    taken = []
    monkeypatch.setattr(pyperclip, "copy", taken.append)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return taken


CODE = "First:\n\n```python\nprint(1)\n```\n\nThen:\n\n- in a list\n\n  ```sh\n  ls\n  cd\n  ```\n"


async def test_a_block_of_code_is_chosen_and_copied(clipboard):
    async with running(FakeEngine(answers(CODE))) as chat:
        await chat.asked("a")
        await command(chat, "/code")
        await chat.sees("python · 1 line · print(1)", "sh · 2 lines · ls")
        await chat.press("down", "enter")
        await chat.until(lambda: clipboard == ["ls\ncd"])


async def test_the_selected_message_is_copied(clipboard):
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("a")
        await chat.press("ctrl+up", "c")
        await chat.until(lambda: clipboard == ["One."])
        await chat.press("ctrl+up", "c")
        await chat.until(lambda: clipboard == ["One.", "a"])
        assert "The question is in the clipboard." in toasts(chat)


def test_blocks_of_code_are_found_wherever_they_are():
    assert [block.text for block in blocks(CODE)] == ["print(1)", "ls\ncd"]
    assert [block.text for block in blocks("~~~\nopen still")] == ["open still"]
    assert blocks("none `here`") == []


async def test_a_long_conversation_shows_its_end_first_and_the_rest_on_demand():
    count = 25
    engine = FakeEngine(*(answers(f"Answer {i}.") for i in range(count)))
    async with running(engine) as chat:
        for i in range(count):
            chat.session.ask(f"question {i}")
            await chat.until(lambda: not chat.session.busy)
        await chat.app.transcript.begin(
            chat.app.query_one("#welcome").__class__(chat.session, "m", guide=False)
        )
        await chat.app.show_thread()
        await chat.sees("Answer 24.")
        views = chat.app.transcript.views
        assert len(views) == 10
        for _ in range(40):
            await chat.press("pageup")
        await chat.until(lambda: len(chat.app.transcript.views) == count)
        for _ in range(40):
            await chat.press("pageup")
        await chat.sees("question 0", "Answer 0.")


async def test_a_second_answer_that_never_began_leaves_the_first():
    async with running(FakeEngine(answers("One."), [reads(0, 9), GATE])) as chat:
        await chat.asked("a")
        await chat.press("ctrl+g")
        await chat.sees("Reading the prompt")
        await chat.press("escape")
        await chat.until(lambda: not chat.session.busy and "One." in thread(chat))
        assert chat.app.composer.text == ""
        assert len(chat.session.transcript.first) == 1


async def test_the_same_answer_again_is_explained():
    async with running(FakeEngine(answers("One."), answers("One."))) as chat:
        await chat.asked("a")
        await chat.press("ctrl+g")
        await chat.until(lambda: "at temperature 0 it always is" in toasts(chat))


async def test_a_command_that_has_to_wait_says_so():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        await command(chat, "/edit")
        await chat.until(lambda: "/edit waits until the answer has ended" in toasts(chat))
        assert chat.app.composer.text == "/edit"
