"""Nothing is lost: conversations are on disk while they happen, and open again as they were."""

import contextlib

import pytest

from mlxarch.app.chat.keeping import open_history
from mlxarch.app.chat.sessions import Sessions, when
from mlxarch.app.engine import protocol
from mlxarch.app.history import History
from mlxarch.app.history.file import place

from .driver import running, shown, toasts
from .fake import GATE, FakeEngine, answers, costs, ends, reads, says, thinks


@pytest.fixture
def file(tmp_path):
    return tmp_path / "history.db"


@pytest.fixture
def chatting(file):
    """Opens a chat on the history in a file; what is on disk afterwards can be read again."""

    @contextlib.asynccontextmanager
    async def start(*scripts, **options):
        async with running(FakeEngine(*scripts), history=History.open(file), **options) as chat:
            yield chat

    return start


def saved(file):
    """The last conversation, as another program reads it."""
    with History.open(file) as history:
        return history.load(history.last())


def thread(chat):
    return shown(chat.app.transcript.page)


async def command(chat, text):
    chat.app.composer.text = text
    await chat.press("enter")


async def test_a_conversation_opens_again_as_it_was(chatting, file):
    first = [thinks("Hm."), says("It is **one**.", 20, 30), costs(), ends()]
    async with chatting(first, answers("Two."), answers("Three.")) as chat:
        await chat.asked("a")
        figures = chat.figures()
        await chat.asked("b")
        await chat.press("ctrl+g")
        await chat.until(lambda: "Three." in thread(chat) and chat.settled())
        chat.app.composer.text = "draft"
        await chat.pilot.pause()
    found = saved(file)
    assert (found.model, found.draft) == ("Nanbeige4.1-3B", "draft")
    async with chatting(answers("Four."), resume=found.id, size=(80, 40)) as chat:
        await chat.sees("It is one.", "Three.", "2 of 2", figures, "Thought for 1 token")
        assert chat.app.composer.text == "draft"
        await command(chat, "/version 1")
        await chat.sees("Two.", "1 of 2")
        await chat.asked("c")
        sent = [message["content"] for message in chat.engine.of(protocol.Generate)[0].messages]
        assert sent == ["a", "It is **one**.", "b", "Two.", "c"]
    assert [message.content for message in saved(file).thread()][-2:] == ["c", "Four."]


async def test_an_answer_is_on_disk_while_it_is_written(chatting, file):
    async with chatting([says("Half an answer"), GATE]) as chat:
        await chat.ask("a")
        await chat.until(lambda: "Half an answer" in chat.answer())
        with History.open(file) as other:
            sql = "SELECT content FROM growing"
            await chat.until(lambda: other._read(sql) and other._read(sql)[0][0])
            assert other._read(sql)[0][0] == "Half an answer"


async def test_an_answer_that_was_cut_off_is_shown_and_goes_on(chatting, file):
    async with chatting([says("Half an"), GATE]) as chat:
        await chat.ask("a")
        await chat.until(lambda: "Half an" in chat.answer())
    found = saved(file)
    assert found.thread()[-1].ended == "interrupted"
    async with chatting([says(" answer."), ends()], resume=found.id) as chat:
        await chat.sees("Half an", "cut off when the chat ended")
        assert "/continue has it go on" in toasts(chat)
        await command(chat, "/continue")
        await chat.until(lambda: chat.answer() == "Half an answer.")
        await chat.until(chat.settled)
    found = saved(file)
    assert [message.content for message in found.messages.values()] == ["a", "Half an answer."]


async def test_a_question_without_an_answer_comes_back_into_the_input(chatting, file):
    async with chatting([reads(0, 9), GATE]) as chat:
        await chat.ask("a long question")
    found = saved(file)
    async with chatting(answers("One."), resume=found.id) as chat:
        await chat.until(lambda: chat.app.composer.text == "a long question")
        await chat.press("enter")
        await chat.sees("One.")


async def test_edits_and_forks_share_their_past(chatting, file):
    async with chatting(*(answers(text) for text in ("One.", "Two.", "Three."))) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await command(chat, "/edit")
        await chat.until(lambda: chat.app.composer.text == "b")
        await chat.press("x", "enter")
        await chat.until(lambda: "Three." in thread(chat) and chat.settled())
        await command(chat, "/fork")
        await chat.until(lambda: "a conversation of its own" in toasts(chat))
    with History.open(file) as history:
        fork, first = (history.load(one.id) for one in history.sessions())
    assert len(first.messages) == 6
    assert len(fork.messages) == 4
    assert set(fork.messages) < set(first.messages)


async def test_what_is_deleted_is_gone_from_disk(chatting, file):
    async with chatting(*(answers(text) for text in ("One.", "Two.", "Three."))) as chat:
        for question in "abc":
            await chat.asked(question)
        await chat.press("ctrl+up", "up", "up", "up", "d")  # the question b
        await chat.sees("1 after it")
        await chat.press("enter")
        await chat.until(lambda: "Two." not in thread(chat))
    assert [message.content for message in saved(file).messages.values()] == ["a", "One."]


async def test_undo_stands_before_the_exchange_also_afterwards(chatting, file):
    async with chatting(answers("One."), answers("Two.")) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await command(chat, "/undo")
        await chat.until(lambda: "Two." not in thread(chat))
    found = saved(file)
    assert [message.content for message in found.thread()] == ["a", "One."]
    assert len(found.messages) == 4


async def test_conversations_are_searched_opened_renamed_and_deleted(chatting, file):
    async with chatting(answers("Apples."), answers("Pears."), size=(100, 30)) as chat:
        await chat.asked("about apples")
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.app.query("#welcome"))
        await chat.asked("about pears")
        await chat.press("ctrl+o")
        await chat.sees("about apples", "about pears", "Nanbeige4.1-3B · 2 messages · open now")
        await chat.press(*"apples")
        await chat.until(lambda: "about pears" not in chat.screen())
        await chat.press("ctrl+r")
        await chat.sees("Rename", "Empty:")
        await chat.press("ctrl+u", *"Fruit", "enter")
        await chat.sees("Fruit")
        await chat.press("enter")
        await chat.until(lambda: "Apples." in thread(chat))
        assert "Pears." not in thread(chat)
        await chat.press("ctrl+o")
        await chat.sees("Fruit", "about pears")
        await chat.press("ctrl+d")
        await chat.sees("Delete the conversation")
        await chat.press("enter")
        await chat.until(lambda: isinstance(chat.app.screen, Sessions))
        await chat.until(lambda: "about pears" not in chat.screen())
    with History.open(file) as history:
        assert [one.title for one in history.sessions()] == ["Fruit"]


async def test_where_nothing_is_found_nothing_is_offered(chatting):
    async with chatting(answers("Apples.")) as chat:
        await chat.press("ctrl+o")
        await chat.sees("None so far.", "Back")
        assert not {"Open", "Rename", "Export", "Delete"} & set(chat.screen().split())
        await chat.press("escape")
        await chat.asked("about apples")
        await chat.press("ctrl+o")
        await chat.sees("about apples", "Rename", "Delete")
        await chat.press(*"pears")
        await chat.sees("No conversation has all of these words.")
        await chat.until(lambda: "Rename" not in chat.screen())


async def test_an_answer_under_way_is_left_for_another_conversation(chatting, file):
    scripts = answers("Apples."), [says("Half of"), GATE], [says(" a pear."), ends()]
    async with chatting(*scripts, size=(100, 30)) as chat:
        await chat.asked("about apples")
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.app.query("#welcome"))
        await chat.ask("about pears")
        await chat.sees("Half of")
        await chat.press("e", "ctrl+o", *"apples")
        await chat.until(lambda: [one.title for one in chat.app.screen.found] == ["about apples"])
        assert chat.session.busy
        await chat.press("enter")
        await chat.until(lambda: "Apples." in thread(chat))
        assert "The answer was stopped. What was said so far is kept" in toasts(chat)
        assert chat.engine.of(protocol.Stop)
        await command(chat, "/sessions pears")
        await chat.until(lambda: isinstance(chat.app.screen, Sessions) and chat.app.screen.found)
        await chat.press("enter")
        await chat.until(lambda: "Half of" in thread(chat))
        assert chat.app.composer.text == "e"
        await command(chat, "/continue")
        await chat.until(lambda: "Half of a pear." in thread(chat))


async def test_two_windows_on_one_conversation_take_nothing_from_each_other(chatting, file):
    async with chatting(answers("One."), answers("Two.")) as first:
        await first.asked("a")
        first.app.composer.rewrite("a draft")
        session = first.session.keeper.session
        await first.until(lambda: saved(file).draft == "a draft")
        async with chatting(resume=session) as second:  # looks, and leaves nothing behind
            await second.until(lambda: "It is open in another window" in toasts(second))
            assert "One." in thread(second)
            assert second.app.composer.text == ""
        with History.open(file) as history:
            assert [one.id for one in history.sessions()] == [session]
        async with chatting(answers("Other."), resume=session) as second:
            await second.until(lambda: "It is open in another window" in toasts(second))
            await second.asked("b")
            second.app.composer.rewrite("another draft")
            copy = second.session.keeper.session
            await second.until(lambda: saved(file).draft == "another draft")
        await first.asked("c")
    with History.open(file) as history:
        contents = {
            one: [message.content for message in history.load(one).messages.values()]
            for one in (session, copy)
        }
    assert contents == {session: ["a", "One.", "c", "Two."], copy: ["a", "One.", "b", "Other."]}
    assert not [*(file.parent / "open").iterdir()]
    async with chatting(resume=session) as again:  # nobody has it open any more
        assert again.session.keeper.session == session


async def test_what_another_window_has_open_is_not_deleted_here(chatting, file):
    async with chatting(answers("One."), answers("Two.")) as first:
        await first.asked("a")
        async with chatting(size=(100, 30)) as second:
            await second.press("ctrl+o")
            await second.sees("open in another window")
            await second.press("ctrl+d")
            await second.until(lambda: "Another window has it open" in toasts(second))
            assert isinstance(second.app.screen, Sessions)
        await first.asked("b")
    async with chatting() as again:
        await again.press("ctrl+o")
        await again.sees("4 messages")
        assert "another window" not in again.screen()
        await again.press("ctrl+d", "enter")
        await again.sees("None so far.")


async def test_an_edit_ends_with_its_conversation(chatting):
    async with chatting(answers("One.")) as chat:
        await chat.asked("a")
        await command(chat, "/edit")
        await chat.sees("Another version of this question")
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.app.query("#welcome"))
        assert "Another version" not in chat.screen()


async def test_what_was_made_of_a_question_is_saved_and_goes_along(chatting, file):
    async with chatting(answers("One."), answers("Two.")) as chat:
        await chat.asked("a")
        chat.app.composer.rewrite("a draft")
        chat.app.action_edit()
        await chat.until(lambda: saved(file).draft == "a draft")
        await chat.press("b")
        await chat.until(lambda: saved(file).draft == "a draft\n\nab")
        chat.app.transcript.select((chat.session.turn, "answer"))
        await chat.app.carry_out("fork")
        assert chat.app.composer.text == "a draft\nab"
        await chat.press("enter")
        await chat.until(lambda: len(chat.engine.of(protocol.Generate)) == 2)
        assert len(chat.engine.of(protocol.Generate)[-1].messages) == 3


@pytest.mark.parametrize("draft", ["", "a draft"])
async def test_how_an_answer_goes_on_is_said_as_it_can_be_done(chatting, draft):
    async with chatting([says("Half of a"), GATE]) as chat:
        await chat.ask("a")
        await chat.sees("Half of a")
        chat.app.composer.rewrite(draft)
        session = chat.session.keeper.session
    async with chatting(resume=session) as chat:
        how = "Ctrl+Up, then o has it go on" if draft else "/continue has it go on"
        await chat.until(lambda: how in toasts(chat))


async def test_a_conversation_is_exported_and_no_file_is_overwritten(
    chatting, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    async with chatting(answers("Apples.")) as chat:
        await chat.asked("a")
        for ending in ("md", "html", "json"):
            await command(chat, f"/export {tmp_path / 'chat'}.{ending}")
            await chat.until(lambda ending=ending: f"chat.{ending}." in toasts(chat))
            assert "Apples." in (tmp_path / f"chat.{ending}").read_text()
        (tmp_path / "chat.md").write_text("mine")
        await command(chat, f"/export {tmp_path}/chat.md")
        await chat.until(lambda: "is there already and stays" in toasts(chat))
        assert (tmp_path / "chat.md").read_text() == "mine"
        await command(chat, refused := f"/export {tmp_path}/chat.doc")
        await chat.until(lambda: "wanted is .md" in toasts(chat))
        assert chat.app.composer.text == refused
        before = {*tmp_path.glob("*.md")}
        for count in (1, 2):  # named after the conversation, and neither in place of the other
            await command(chat, "/export md")
            await chat.until(lambda count=count: toasts(chat).count("Written to 20") == count)
        assert ["Apples." in new.read_text() for new in {*tmp_path.glob("*.md")} - before] == [
            True
        ] * 2


async def test_a_chat_that_ends_within_a_summary_comes_back_as_it_was(chatting, file):
    half = [says("So far"), GATE]
    async with chatting(answers("One."), answers("Two."), half) as chat:
        for question in ("apples?", "pears?"):
            await chat.asked(question)
        await command(chat, "/compact")
        await chat.until(lambda: chat.session.turn.text == "So far")
    whole = [says("All."), costs(), ends()]
    async with chatting(whole, answers("Three."), resume=saved(file).id) as chat:
        await chat.sees("apples?", "One.", "pears?", "Two.")
        assert "So far" not in chat.screen()
        await command(chat, "/compact")
        await chat.until(lambda: "1 exchange was summed up" in toasts(chat))
        await chat.asked("plums?")
        sent = [one["content"] for one in chat.engine.of(protocol.Generate)[-1].messages]
        assert sent[1:] == ["All.", "pears?", "Two.", "plums?"]


async def test_what_another_window_has_deleted_is_not_exported(chatting, file):
    async with chatting(answers("One.")) as chat:
        await chat.asked("apples")
    gone = saved(file).id
    async with chatting() as chat:
        await chat.press("ctrl+o")
        await chat.until(lambda: isinstance(chat.app.screen, Sessions) and chat.app.screen.found)
        chat.session.keeper.history.delete(gone)
        await chat.press("ctrl+s")
        await chat.until(lambda: "Not exported: No conversation has the id" in toasts(chat))


async def test_another_model_that_goes_on_is_said(chatting, file):
    async with chatting(answers("One.")) as chat:
        await chat.asked("a")
    async with chatting(answers("Two."), resume=saved(file).id, name="Other") as chat:
        await chat.until(lambda: "So far Nanbeige4.1-3B answered here" in toasts(chat))
        await chat.asked("b")
    assert saved(file).model == "Other"


async def test_without_a_history_the_chat_works_and_says_so(chatting):
    why = "Nothing is saved: it broke."
    history = History.nowhere(why)
    async with running(FakeEngine(answers("One.")), note=why, history=history) as chat:
        await chat.until(lambda: "Nothing is saved" in toasts(chat))
        await chat.sees("not saved")
        await chat.asked("a")
        assert "One." in chat.answer()


def test_a_history_that_cannot_be_written_is_there_and_not_added_to():
    with History.open() as history:
        session = history.begin(model="guide")
        history.add(session, None, "user", "About cats")
    place().with_name("history.db-wal").mkdir()  # no place for SQLite's own
    history, note = open_history(lambda text: None, lambda text: pytest.fail(text))
    with history:
        assert "Nothing is saved" in note
        assert history.trouble == note
        assert history.last() == session
        history.delete(session)
        assert history.last() is None
    place().with_name("history.db-wal").rmdir()
    with History.open() as history:
        assert history.last() == session


@pytest.mark.parametrize("agreed", [True, False])
def test_a_damaged_history_is_set_aside_if_the_person_agrees(agreed):
    place().parent.mkdir(parents=True)
    place().write_text("no database" * 1000)
    asked = []
    history, note = open_history(lambda text: None, lambda text: asked.append(text) or agreed)
    assert bool(history.trouble) is not agreed
    history.close()
    assert "is damaged" in asked[0]
    assert "Move it aside" in asked[0]
    aside = list(place().parent.glob("history-damaged-*"))
    assert len(aside) == agreed
    assert str(aside[0]) in note if agreed else "Nothing is saved" in note
    assert (aside[0] if agreed else place()).read_text().startswith("no database")


def test_moments_are_written_as_people_remember_them():
    now = 1_780_000_000.0
    assert ":" in when(now - 60, now)
    assert len(when(now - 3 * 86_400, now).split()) == 2
    assert when(now - 400 * 86_400, now).endswith("2025")
