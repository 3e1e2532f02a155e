"""Everything that can be done is reached by key, by command, in the palette and in the help."""

from itertools import product

import pytest
from click.testing import CliRunner
from textual import events
from textual.widgets import OptionList
from textual.widgets._toast import Toast

from mlxarch.app.chat.actions import ACTIONS, command, commands
from mlxarch.app.chat.composer import Composer
from mlxarch.app.chat.keys import Keys
from mlxarch.app.chat.popup import CommandList
from mlxarch.app.commands import chat as command_line
from mlxarch.app.engine import protocol

from .driver import running, toasts
from .fake import GATE, FakeEngine, answers, reads, says

LONG = pytest.param("9" * 5000, id="long")


def listed(chat):
    """The commands that are offered now."""
    popup = chat.app.query_one(CommandList)
    return [line.text.strip()[1:] for line in popup.found] if popup.display else []


async def test_every_action_has_its_method():
    async with running(FakeEngine()) as chat:
        assert all(callable(getattr(chat.app, f"action_{action.name}")) for action in ACTIONS)


def test_no_two_actions_share_a_name_or_a_command():
    names = [action.name for action in ACTIONS]
    words = [action.slash for action in ACTIONS if action.slash]
    assert len(set(names)) == len(names)
    assert len(set(words)) == len(words)


def test_whatever_is_in_the_palette_is_a_command_too():
    assert not [action.name for action in ACTIONS if action.palette and not action.slash]


def test_commands_that_begin_so_come_before_those_that_contain_it():
    found = [action.slash for action in commands("t")]
    assert found.index("theme") < found.index("stop")
    assert [action.slash for action in commands("set")][:2] == ["set", "settings"]
    assert command("nonsense") is None


async def test_set_alone_opens_all_settings_as_its_help_says():
    assert "alone, all of them" in command("set").help
    async with running(FakeEngine()) as chat:
        await chat.press("slash", "s", "e", "t")
        await chat.until(lambda: listed(chat)[:1] == ["set"])
        await chat.press("enter")
        await chat.sees("Ctrl+S applies")


async def test_a_slash_lists_the_commands_and_letters_choose_among_them():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("a")
        await chat.press("slash")
        await chat.until(lambda: "new" in listed(chat))
        assert "stop" not in listed(chat)  # nothing runs
        await chat.press("n")
        await chat.until(lambda: listed(chat)[:1] == ["new"])
        await chat.sees("/new", "Begin a new conversation")
        await chat.press("backspace", "backspace")
        await chat.until(lambda: not listed(chat))


async def test_arrows_and_enter_choose_a_command():
    async with running(FakeEngine()) as chat:
        await chat.press("slash", "t", "h")
        await chat.until(lambda: listed(chat) == ["theme"])
        await chat.press("backspace", "backspace")
        await chat.until(lambda: len(listed(chat)) > 1)
        place = listed(chat).index("help")
        await chat.press(*["down"] * place, "enter")
        await chat.sees("Esc closes")
        assert chat.app.composer.text == ""


async def test_tab_completes_a_command_and_says_what_may_follow():
    async with running(FakeEngine()) as chat:
        await chat.press("slash", "t", "h", "tab")
        await chat.until(lambda: chat.app.composer.text == "/theme ")
        await chat.sees("/theme [NAME]")
        for letter in "nord":
            await chat.press(letter)
        await chat.press("enter")
        await chat.until(lambda: chat.app.theme == "nord")
        assert chat.app.composer.text == ""


async def test_escape_closes_the_list_and_nothing_else():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        await chat.press("slash", "s")
        await chat.until(lambda: listed(chat))
        await chat.press("escape")
        await chat.until(lambda: not listed(chat))
        assert chat.app.composer.text == "/s"
        assert not chat.engine.of(protocol.Stop)
        await chat.press("t")
        assert not listed(chat)


async def test_a_click_chooses_a_command():
    async with running(FakeEngine()) as chat:
        await chat.press("slash", "h")
        await chat.until(lambda: "help" in listed(chat))
        place = listed(chat).index("help")
        await chat.pilot.click(OptionList, offset=(3, place))
        await chat.sees("Esc closes")


async def test_a_command_works_while_an_answer_runs():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        chat.app.composer.text = "/stop"
        await chat.press("enter")
        await chat.until(lambda: chat.engine.of(protocol.Stop))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/nonsense 1", "There is no command /nonsense"),
        ("/stop", "/stop has nothing to do"),
        ("/help me", "/help takes nothing after it"),
        ("/theme black", "There is no theme 'black'"),
        ("/preset none", "There is no preset none; there are publisher"),
        ("/persona none", "There is no persona none; there are plain"),
        ("/set heat 3", "There is no setting heat"),
        ("/set top_p 3", "top_p is '3'; wanted is a number above 0"),
    ],
)
async def test_a_command_that_cannot_be_done_is_kept_and_explained(text, reason):
    async with running(FakeEngine()) as chat:
        chat.app.composer.text = text
        await chat.press("enter")
        await chat.until(lambda: reason in toasts(chat))
        assert chat.app.composer.text == text
        assert not chat.engine.of(protocol.Generate)


@pytest.mark.parametrize("number", ["0", "-1", "3", LONG, "²", "x", "1 2"])
@pytest.mark.parametrize("word", ["drop", "version", "unqueue"])
async def test_a_number_that_is_not_there_is_said_and_the_command_kept(word, number):
    three = [answers(text) for text in ("One.", "Two.", "Three.")]
    async with running(FakeEngine(*three, answers("Other."), [says("Slow"), GATE])) as chat:
        for question in "abc":
            await chat.asked(question)
        await chat.command("/regenerate")
        await chat.until(lambda: not chat.session.busy)
        if word == "unqueue":
            await chat.ask("d")
            for question in ("e", "f"):
                chat.app.composer.text = question
                await chat.press("enter")
            await chat.until(lambda: len(chat.app.queue.texts) == 2)
        await chat.command(f"/{word} {number}")
        await chat.until(lambda: "is not there; wanted is a number from 1 to 2." in toasts(chat))
        assert chat.app.composer.text == f"/{word} {number}"
        assert len(list(chat.session.transcript.turns)) == (4 if word == "unqueue" else 3)


async def test_what_has_nothing_to_do_is_not_said_to_wait_for_the_answer():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        for word in ("unqueue", "restart", "think"):
            await chat.command(f"/{word}")
            await chat.until(lambda word=word: f"/{word} has nothing to do." in toasts(chat))
        await chat.command("/undo")
        await chat.until(lambda: "/undo waits until the answer has ended" in toasts(chat))


async def test_what_is_said_again_is_never_longer_than_a_few_lines():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("a")
        for command_ in ("system", "rename", "preset", "export", "nonsense"):
            await chat.command(f"/{command_} {'x' * 5000}")
        await chat.until(lambda: toasts(chat).count("\n") == 4)
        assert max(map(len, toasts(chat).splitlines())) <= 500
        assert "There is no preset xxx" in toasts(chat)
        assert "…; there are publisher" in toasts(chat)


async def test_a_long_paste_after_a_command_is_meant_in_full():
    async with running(FakeEngine()) as chat:
        await chat.press(*"/system ")
        chat.app.post_message(events.Paste(long := "Be kind. " * 200))
        await chat.sees("[paste 1")
        await chat.press("enter")
        await chat.until(lambda: chat.session.system == long.strip())


@pytest.mark.parametrize("text", ["//usr/bin is what?", " /usr/bin is what?"])
async def test_text_that_only_looks_like_a_command_is_sent(text):
    async with running(FakeEngine(answers("A folder."))) as chat:
        await chat.asked(text)
        assert chat.engine.of(protocol.Generate)[0].messages[0]["content"] == "/usr/bin is what?"


async def test_an_unknown_theme_is_not_set():
    async with running(FakeEngine()) as chat:
        before = chat.app.theme
        chat.app.composer.text = "/theme pitch-black"
        await chat.press("enter")
        await chat.until(lambda: "There is no theme 'pitch-black'" in toasts(chat))
        assert chat.app.theme == before


def test_no_two_entries_of_the_palette_have_one_name():
    titles = [action.title or action.label for action in ACTIONS if action.palette]
    assert len(set(titles)) == len(titles)


async def test_the_palette_offers_what_is_possible_now():
    always = {"Help", "Quit", "Theme"}
    async with running(FakeEngine(answers("One."), [reads(0, 9), GATE])) as chat:

        def offered():
            return {command.title for command in chat.app.get_system_commands(chat.app.screen)}

        assert offered() >= always
        assert not offered() & {"Copy", "New", "Stop"}
        await chat.asked("a")
        assert offered() >= always | {"Copy", "New", "Delete exchange", "Delete conversation"}
        await chat.ask("b")
        assert "Stop" in offered()


def missing(chat):
    """What the help does not say of the actions, wherever its lines are broken."""
    words = set(chat.screen().split())
    return [action for action in ACTIONS if set(action.help.split()) - words]


async def test_the_help_has_every_key_and_command_and_scrolls():
    async with running(FakeEngine(), size=(80, 200)) as chat:
        await chat.press("f1")
        await chat.sees("Figures", *(action.usage for action in ACTIONS if action.slash))
        await chat.until(lambda: not missing(chat))
    async with running(FakeEngine(), size=(80, 24)) as chat:
        await chat.press("f1")
        await chat.sees("Writing")
        await chat.press("end")
        await chat.sees("median of an answer")
        await chat.press("escape")
        await chat.until(lambda: "median of an answer" not in chat.screen())
        assert isinstance(chat.app.focused, Composer)


async def test_in_a_small_window_a_notice_leaves_what_is_typed_in_view():
    async with running(FakeEngine(), size=(40, 10), notifications=True) as chat:
        await chat.press(*"/nonsense", "enter")
        await chat.sees("There is no command /nonsense", "│/nonsense")
        (notice,) = chat.app.screen.query(Toast)
        assert not notice.region.overlaps(chat.app.query_one(Composer).region)


async def test_the_help_on_a_narrow_screen_says_below_each_key_what_it_does():
    async with running(FakeEngine(), size=(40, 24)) as chat:
        await chat.press("f1")
        await chat.sees("  Send what is in the input")


def test_help_on_the_command_line_lists_keys_and_commands():
    result = CliRunner().invoke(command_line.command, ["--help"])
    assert result.exit_code == 0
    flat = " ".join(result.output.split())
    for action in ACTIONS:
        assert action.help in flat
        assert action.usage in flat
        assert action.key in flat


async def test_the_footer_follows_what_happens_and_fits():
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        footer = chat.app.keys
        shown = {entry.action.name for entry in footer.entries}
        assert shown >= {"send", "newline", "help", "quit"}
        await chat.ask("a")
        await chat.sees("Stop")
        assert "Send" not in chat.screen()
        moments, enter = (
            ("writing", "editing", "answering", "selecting", "broken"),
            ("send", "queue"),
        )
        for moment, other in product(moments, enter):  # Enter does one of them
            footer.show(moment, [action for action in ACTIONS if action.name != other])
            await chat.pilot.pause()
            assert len(footer.entries) <= 8
            assert footer.render().cell_length <= 80, moment


async def test_the_footer_says_more_below_the_mouse_and_presses_what_is_clicked():
    async with running(FakeEngine(answers("Yes."))) as chat:
        footer = chat.app.keys
        help_ = chat.screen().splitlines()[-1].index("f1")
        await chat.pilot.hover(Keys, offset=(help_, 0))
        assert footer.tooltip == next(one.help for one in ACTIONS if one.name == "help")
        assert footer.styles.pointer == "pointer"
        under = [segment.style.bgcolor for segment in footer.render_line(0)]
        assert len(set(under)) == 2
        await chat.pilot.hover(Keys, offset=(79, 0))
        assert footer.tooltip is None
        await chat.pilot.click(Keys, offset=(help_, 0))
        await chat.sees("Ctrl+J")
        await chat.press("escape")
        chat.app.composer.text = "really?"
        await chat.pilot.click(Keys, offset=(1, 0))
        await chat.sees("Yes.")


async def test_ctrl_c_stops_the_answer_and_twice_ends_the_chat():
    async with running(FakeEngine([says("Half an answer"), GATE])) as chat:
        await chat.ask("a")
        chat.session.clock.now = 10.0
        await chat.press("ctrl+c")
        await chat.until(lambda: "Stopping. Ctrl+C again ends the chat." in toasts(chat))
        await chat.until(chat.settled)
        assert "Half an answer" in chat.answer()
        chat.session.clock.now = 12.5
        await chat.press("ctrl+c")
        await chat.pilot.pause()
        assert chat.app.is_running
        chat.session.clock.now = 14.0
        await chat.press("ctrl+c")
        await chat.until(lambda: not chat.app.is_running)
        assert chat.app.return_code == 130


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "⏎ Send  ^j New line  / Commands  ^o Open  f2 Models  f1 Help  ^q Quit"),
        (60, "⏎ Send  / Commands  ^o Open  f2 Models  f1 Help  ^q Quit"),
        (40, "⏎ Send  / Commands  f1 Help  ^q Quit"),
        (20, "⏎ Send  f1 Help"),
    ],
)
async def test_a_narrow_footer_has_fewer_keys_and_none_is_cut(width, line):
    async with running(FakeEngine(), size=(120, 24)) as chat:
        await chat.pilot.resize_terminal(width, 24)
        await chat.until(lambda: chat.screen().splitlines()[-1].strip() == line)
