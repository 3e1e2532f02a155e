"""The chat as a person uses it: keys in, a screen out, a scripted engine behind it."""

import gc
import weakref
from dataclasses import replace
from itertools import count

import pyperclip
import pytest
from textual import events
from textual.widgets import Static, TextArea

from mlxarch.app.chat import garbage, lifecycle
from mlxarch.app.chat.actions import ACTIONS
from mlxarch.app.chat.bars import TokenBars
from mlxarch.app.chat.prose import Prose
from mlxarch.app.chat.session import Phase
from mlxarch.app.engine import protocol
from mlxarch.errors import FormatError

from .driver import running, shown, toasts
from .fake import GATE, MEMORY, READY, FakeEngine, answers, costs, ends, fails, reads, says, thinks


async def test_an_answer_is_seen_while_it_grows_and_stays_as_markdown():
    engine = FakeEngine([says("It is **one"), GATE, says("** thing.\n\n- a\n- b"), costs(), ends()])
    async with running(engine) as chat:
        await chat.ask("What is it?")
        await chat.until(lambda: "It is **one" in chat.answer())
        assert not chat.app.composer.cursor_blink
        engine.open()
        await chat.until(chat.settled)
        assert chat.app.composer.cursor_blink
        assert "It is one thing." in chat.answer()
        assert "**" not in chat.answer()
        assert "\n\n• a\n• b" in chat.answer()
        assert not chat.view().answer.tail.display


async def test_a_growing_answer_and_its_scrollbar_are_one_picture(monkeypatch):
    pictures = []
    lines = "".join(f"- line {i}\n" for i in range(60))
    engine = FakeEngine([says(lines), GATE, says(f"{lines}- finale\n"), GATE])
    async with running(engine) as chat:
        await chat.ask("What is it?")
        await chat.until(lambda: "line 59" in chat.screen() and not chat.app.due)
        await chat.pilot.pause()
        monkeypatch.setattr(chat.app, "_display", lambda screen, it: pictures.append(it))
        engine.open()
        await chat.until(lambda: "finale" in chat.screen() and not chat.app.due)
        await chat.pilot.pause()
        (picture,) = pictures
        columns = {x for line in picture.chops for x, strip in line.items() if strip}
        assert chat.app.transcript.vertical_scrollbar.region.x in columns


async def test_who_is_kept_waiting_at_a_bad_moment_sees_an_answer_all_the_same(monkeypatch):
    """Textual skips a timer that is late before it waits, also one that has a single turn."""
    engine = FakeEngine([says("One"), GATE, says(" two."), GATE])
    async with running(engine) as chat:
        late = count(step=0.5)
        monkeypatch.setattr("textual._time.get_time", lambda: next(late))
        await chat.ask("Why?")
        await chat.sees("One")
        engine.open()
        await chat.sees("One two.")
        await chat.until(lambda: chat.app.due is chat.app.keep_due is None)


async def test_whatever_else_took_time_an_answer_is_seen_each_second(monkeypatch):
    used = count(step=10.0)
    monkeypatch.setattr(lifecycle, "process_time", lambda: next(used))
    monkeypatch.setattr(lifecycle, "SHARE", 1 / 3)
    async with running(FakeEngine([says("One"), GATE, says(" two."), GATE])) as chat:
        await chat.ask("Why?")
        await chat.sees("One")
        chat.engine.open()
        await chat.sees("One two.")
        assert 0 < chat.app.pause <= 1


async def test_of_the_first_token_the_pace_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(lifecycle, "FIGURES", 3600.0)
    script = [says("One", 20), GATE, says(" two three.", 20, 20), GATE, says(" Four.", 9), GATE]
    async with running(FakeEngine(script)) as chat:
        await chat.ask("Why?")
        await chat.sees("tok/s now", "1 token")
        chat.engine.open()
        await chat.sees("One two three.", "50.0 mean")
        chat.engine.open()
        await chat.sees("Four.")
        assert "50.0 mean" in chat.screen()


async def test_what_an_exchange_does_not_need_is_no_widget():
    async with running(FakeEngine(answers("Yes."), answers("No.")), size=(80, 40)) as chat:
        await chat.asked("Why?")
        view = chat.view()
        assert list(view.children) == [view.question, view.answer, view.figures]
        await chat.press("ctrl+g")
        await chat.sees("No.", "2 of 2")
        await chat.press("ctrl+up")
        view = chat.view()
        below = [view.versions["answer"], view.choices["answer"]]
        assert list(view.children) == [view.question, view.answer, view.figures, *below]


@pytest.mark.parametrize(("device", "seconds"), [("CPU", 0.2), ("Metal", 0.1)])
async def test_an_engine_that_has_but_our_cores_is_heard_less_often(device, seconds):
    load = (replace(READY, device=device), MEMORY)
    async with running(FakeEngine(answers("Yes."), load=load)) as chat:
        await chat.asked("Why?")
        (command,) = chat.engine.of(protocol.Generate)
        assert command.interval == seconds


async def test_enter_sends_and_ctrl_j_begins_a_new_line():
    async with running(FakeEngine(answers("Yes."))) as chat:
        await chat.press("a", "ctrl+j", "b", "shift+enter", "c", "alt+enter", "d")
        assert chat.app.composer.text == "a\nb\nc\nd"
        await chat.press("enter")
        await chat.until(lambda: chat.engine.of(protocol.Generate))
        (command,) = chat.engine.of(protocol.Generate)
        assert command.messages == [{"role": "user", "content": "a\nb\nc\nd"}]
        assert chat.app.composer.text == ""


async def test_the_first_screen_says_what_could_not_be_done_as_asked():
    remark = "No cache is kept in 8 bits: 3 recurrent states."
    async with running(FakeEngine(load=(replace(READY, remark=remark), MEMORY))) as chat:
        await chat.sees("tokens in view.", remark)


async def test_keys_that_come_in_a_burst_keep_their_order():
    async with running(FakeEngine(answers("Yes."))) as chat:
        for key, letter in zip(["a", "ctrl+j", "b", "enter", "c"], "a\nb\rc", strict=True):
            chat.app.post_message(events.Key(key, letter))
        await chat.until(lambda: chat.app.composer.text == "c" and chat.session.turn)
        await chat.until(chat.settled)
        assert chat.engine.of(protocol.Generate)[0].messages[0]["content"] == "a\nb"


async def test_an_empty_question_is_not_sent():
    async with running(FakeEngine()) as chat:
        await chat.press("space", "ctrl+j", "enter")
        await chat.pilot.pause()
        assert not chat.engine.of(protocol.Generate)


async def test_the_input_grows_with_its_text_up_to_eight_lines():
    async with running(FakeEngine()) as chat:
        heights = []
        for lines in (1, 3, 30):
            chat.app.composer.text = "\n".join("line" for _ in range(lines))
            await chat.pilot.pause()
            heights.append(chat.app.composer.content_size.height)
        assert heights == [1, 3, 8]


async def test_escape_stops_an_answer_and_keeps_its_text():
    async with running(FakeEngine(answers("One."), [says("Half an ans"), GATE])) as chat:
        await chat.asked("a")
        await chat.ask("b")
        await chat.until(lambda: "Half an ans" in chat.answer())
        await chat.press("escape")
        await chat.until(chat.settled)
        assert chat.engine.of(protocol.Stop) == [protocol.Stop(id=2)]
        assert "Half an ans" in chat.answer()
        assert chat.figures().startswith("stopped")


async def test_escape_stops_while_the_prompt_is_read_and_gives_the_question_back():
    async with running(FakeEngine([reads(0, 4096), GATE])) as chat:
        await chat.ask("a long question")
        await chat.sees("Reading the prompt")
        await chat.press("escape")
        await chat.until(chat.settled)
        assert chat.engine.of(protocol.Stop) == [protocol.Stop(id=1)]
        assert chat.app.composer.text == "a long question"
        assert "a long question" in shown(chat.view())
        assert chat.figures().startswith("stopped before the first word")


async def test_a_question_is_not_given_back_over_what_was_written_since():
    async with running(FakeEngine([reads(0, 4096), GATE])) as chat:
        await chat.ask("first")
        chat.app.composer.text = "second"
        await chat.press("escape")
        await chat.until(chat.settled)
        assert chat.app.composer.text == "second"


async def test_escape_while_nothing_runs_changes_nothing():
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("a")
        chat.app.composer.text = "draft"
        await chat.press("escape")
        await chat.pilot.pause()
        assert chat.app.composer.text == "draft"
        assert "One." in chat.answer()
        assert not chat.engine.of(protocol.Stop)


async def test_an_error_is_shown_and_the_conversation_goes_on():
    scripts = answers("One."), [says("Half"), fails("It broke.")], answers("Three.")
    async with running(FakeEngine(*scripts), size=(80, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.sees("It broke.")
        await chat.asked("c")
        await chat.sees("One.", "Half", "It broke.", "Three.")


async def test_when_the_engine_dies_the_conversation_stays_and_another_engine_takes_over():
    second = FakeEngine(answers("Two."))
    engine = FakeEngine(answers("One."), [says("Half"), GATE])
    async with running(engine, size=(80, 40), restart=lambda: second) as chat:
        await chat.asked("a")
        await chat.ask("b")
        await chat.until(lambda: "Half" in chat.answer())
        engine.die(-9, "Insufficient Memory")
        await chat.sees("exit code -9", "Insufficient Memory", "Restart")
        await chat.press("ctrl+r")
        await chat.until(lambda: chat.session.phase is Phase.IDLE)
        chat.engine = second
        assert engine.closed
        assert second.of(protocol.Load) == engine.of(protocol.Load)
        await chat.asked("c")
        contents = [message["content"] for message in second.of(protocol.Generate)[0].messages]
        assert contents == ["a", "One.", "b", "Half", "c"]
        assert "Two." in chat.answer()


async def test_an_engine_that_does_not_start_may_be_tried_again():
    def fail():
        raise OSError("no more processes")

    async with running(FakeEngine(), size=(80, 40), restart=fail) as chat:
        chat.engine.die(1)
        await chat.until(lambda: chat.session.phase is Phase.GONE)
        await chat.press("ctrl+r")
        await chat.sees("no more processes")
        assert chat.app.check_action("restart", ())


async def test_a_model_that_cannot_be_loaded_is_tried_again_in_the_same_engine():
    error = protocol.Error(id=None, kind="DoesNotFit", message="It needs 129 GB.")
    async with running(FakeEngine(load=(error,)), ready=False) as chat:
        await chat.sees("It needs 129 GB.")
        chat.app.composer.text = "kept"
        await chat.press("enter")
        await chat.until(lambda: "No model is loaded" in toasts(chat))
        chat.engine.load = (READY,)
        await chat.press("ctrl+r")
        await chat.until(lambda: chat.session.phase is Phase.IDLE)
        assert len(chat.engine.of(protocol.Load)) == 2


async def test_a_word_that_is_not_of_the_protocol_is_shown_and_nothing_more():
    async with running(FakeEngine(answers("One."))) as chat:
        chat.engine.tell(FormatError("b'Hello' is no message."))
        await chat.sees("FormatError", "b'Hello' is no message.")
        await chat.asked("a")
        assert "One." in chat.answer()


async def test_stopping_is_shown_until_it_is_done():
    async with running(FakeEngine([says("One two"), GATE])) as chat:
        await chat.ask("a")
        await chat.sees("tok/s now")
        chat.engine.send = lambda command: None
        await chat.press("escape")
        await chat.sees("stopping")


async def test_a_new_conversation_forgets_the_old_one():
    async with running(FakeEngine(answers("One."), answers("Two."))) as chat:
        await chat.asked("a")
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.app.query("#welcome") and "One." not in chat.screen())
        await chat.asked("b")
        assert chat.engine.of(protocol.Generate)[1].messages == [{"role": "user", "content": "b"}]


@pytest.fixture
def clipboard(monkeypatch):
    """What reached this machine's clipboard; `broken` makes it one that has none."""
    taken = []

    def copy(text):
        if "broken" in taken:
            raise pyperclip.PyperclipException
        taken.append(text)

    monkeypatch.setattr(pyperclip, "copy", copy)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return taken


async def test_the_last_answer_is_copied_as_markdown(clipboard):
    async with running(FakeEngine(answers("It is **one**."), [fails("No.")])) as chat:
        assert not chat.app.check_action("copy", ())
        await chat.asked("a")
        await chat.asked("b")
        await chat.press("ctrl+y")
        await chat.until(lambda: "in the clipboard" in toasts(chat))
        assert clipboard == ["It is **one**."]


@pytest.mark.parametrize("reason", ["no program", "over ssh"])
async def test_where_this_machine_cannot_copy_the_terminal_is_asked(clipboard, monkeypatch, reason):
    if reason == "over ssh":
        monkeypatch.setenv("SSH_CONNECTION", "somewhere")
    else:
        clipboard.append("broken")
    async with running(FakeEngine(answers("One."))) as chat:
        await chat.asked("a")
        await chat.press("ctrl+y")
        await chat.until(lambda: "OSC 52" in toasts(chat))
        assert chat.app.clipboard == "One."
        assert "One." not in clipboard


async def test_what_is_selected_in_the_input_is_copied_too(clipboard):
    async with running(FakeEngine()) as chat:
        await chat.press("a", "b", "shift+left", "ctrl+c")
        await chat.until(lambda: clipboard)
        assert clipboard == ["b"]


async def test_every_answer_keeps_its_figures():
    figures = costs(prompt=1812, cached=1290, prefill=0.61, first=0.84)
    slow = [says("a b c", 300, 20, 20), figures, ends("length")]
    async with running(FakeEngine(slow, answers("Two.")), size=(120, 40)) as chat:
        await chat.asked("a")
        await chat.asked("b")
        await chat.sees(
            "cut at the token limit · 3 tokens · 50.0 tok/s · 20 ms", "cached 1,290 of 1,812"
        )
        assert chat.figures().startswith("1 token ")


async def test_all_figures_of_an_answer_are_shown_on_demand():
    script = [says("a b c", 300, *[20] * 18, 90), costs(cached=20, guessed=(3, 1)), ends("length")]
    async with running(FakeEngine(script), size=(80, 40)) as chat:
        assert not chat.app.check_action("figures", ())
        await chat.asked("a")
        assert "95 %" not in chat.screen()
        await chat.pilot.click(".line")
        await chat.sees("5 % 20 · 50 % 20 · 95 % 90", "cached 20 of 24 tokens · 4 read in 0.31 s")
        await chat.sees("3 right, 1 wrong (75 %)", "ended         cut at the token limit")
        await chat.command("/figures")
        await chat.until(lambda: "95 %" not in chat.screen())


async def test_tokens_are_coloured_by_their_time_when_asked_for():
    first = says("One two **ee**", 9, 20, 50, lengths=[4, 4, 6], guessed=[False, False, False])
    script = [first, GATE, says(" four", 2, lengths=[5], guessed=[True]), costs(), ends()]
    async with running(FakeEngine(script, answers("Next.")), size=(80, 40)) as chat:
        await chat.ask("a")
        await chat.command("/tokens")
        await chat.sees("each token by its time", "One two **ee**")
        chat.engine.open()
        await chat.sees("**ee** four", "guessed")
        text = chat.view().coloured
        rows = [row.text for row in text.rows(text.size.width)]
        row = next(row for row in rows if row.plain.startswith("One"))
        styles = {row.plain[span.start : span.end]: str(span.style) for span in row.spans}
        assert "warning" in styles["**ee**"]
        assert "underline" in styles[" four"]
        await chat.asked("b")  # also what comes after
        await chat.until(lambda: chat.screen().count("each token by its time") == 2)
        await chat.command("/tokens")
        await chat.until(lambda: "by its time" not in chat.screen() and "ee four" in chat.screen())


async def test_the_panel_shows_the_speed_of_now_and_the_mean():
    engine = FakeEngine(
        [says("x", *[100] * 21), says("y", *[20] * 10), GATE, costs(first=0.84), ends()]
    )
    async with running(engine) as chat:
        await chat.ask("a")
        await chat.sees("13.6 mean", "median 100 · slowest 100")
        assert chat.app.query_one("#rate").value == "50.0"
        engine.open()
        await chat.sees("tok/s mean", "first in 0.84 s")
        assert chat.app.query_one("#rate").value == "13.6"


async def test_slow_tokens_are_tall_and_of_another_colour():
    times = [20, 20, 20, 20, 20, 45, 20, 90, 20]
    async with running(FakeEngine([says("x", *times), GATE])) as chat:
        await chat.ask("a")
        bars = chat.app.query_one(TokenBars)
        await chat.until(lambda: len(bars.seconds) == len(times))
        upper, lower = bars.render_line(0), bars.render_line(1)
        # The scale is 50 ms, so 20 ms are six eighths of the lower row.
        assert upper.text.rstrip() == "     ▆ █"
        assert lower.text.rstrip() == "▆▆▆▆▆█▆█▆"
        styles = {segment.text[0]: segment.style.color for segment in lower}
        assert styles["▆"] != styles["█"]


async def test_guesses_are_counted_and_differ_from_the_models_own_tokens_without_colour():
    script = [
        says("a b", 40, 40, 20, guessed=[False, False, True]),
        says("c", 40, 20, guessed=[False, True], rejected=3),
        GATE,
        costs(guessed=(2, 4)),
        ends(),
    ]
    async with running(FakeEngine(script), size=(120, 40)) as chat:
        await chat.ask("a")
        await chat.sees("│ guessed: 2 right, 3 wrong (40 %)")
        assert chat.app.query_one(TokenBars).render_line(1).text.rstrip() == "██│█│"
        chat.engine.open()
        await chat.until(chat.settled)
        await chat.sees("│ guessed: 2 right, 4 wrong (33 %)")  # the engine's own figures
        assert "33 % of 6 guesses right" in chat.figures()


async def test_the_newest_token_is_at_the_right_when_there_are_more_than_fit():
    async with running(FakeEngine([says("x", *[20] * 200, 1), GATE])) as chat:
        await chat.ask("a")
        bars = chat.app.query_one(TokenBars)
        await chat.until(lambda: len(bars.seconds) == 201)
        assert bars.render_line(1).text[-2:] == "█▁"
        assert "█▁  \n" in chat.screen()  # within the panel's padding


async def test_reading_the_prompt_shows_how_far_it_is_and_how_long_it_takes():
    engine = FakeEngine([reads(1024, 4096, 1024), GATE, reads(2560, 4096, 1024), GATE])
    async with running(engine) as chat:
        await chat.ask("a")
        await chat.sees("1,024 of 4,096 tokens")
        chat.session.clock.now = 3.0
        engine.open()
        await chat.sees(
            "2,560 of 4,096 tokens", "cached 1,024 of 4,096 tokens · 512 tok/s · about 3 s left"
        )
        await chat.press("escape")
        await chat.until(lambda: "Reading" not in chat.screen())


async def test_loading_shows_how_far_it_is():
    half = protocol.Loading(path="m", done=1_200_000_000, total=7_870_000_000)
    async with running(FakeEngine(load=(half,)), ready=False) as chat:
        await chat.sees("1.2 GB of 7.9 GB")


async def test_what_is_thought_is_seen_then_folded_then_shown_on_demand():
    engine = FakeEngine([thinks("First this.\nThen that."), GATE, says("So."), costs(), ends()])
    async with running(engine) as chat:
        assert not chat.app.check_action("thinking", ())
        await chat.ask("a")
        await chat.sees("Then that.")
        engine.open()
        await chat.until(chat.settled)
        await chat.sees("Thought for 4 tokens")
        assert "Then that." not in chat.screen()
        await chat.press("ctrl+t")
        await chat.sees("Then that.")
        assert "So." in chat.answer()


MARKUP = "[bold]b[/bold] [@click=app.quit]x[/] [/nothing] [red"


async def test_text_is_never_markup():
    """Neither a model nor a person nor an error can style the screen, or break it."""
    script = [thinks(MARKUP), says(MARKUP), costs(), ends()]
    engine = FakeEngine(script, [fails(MARKUP, kind=MARKUP)])
    async with running(engine, size=(120, 50), name=MARKUP) as chat:
        await chat.asked(MARKUP)
        await chat.press("ctrl+t")
        await chat.asked(MARKUP)
        await chat.until(lambda: chat.screen().count(MARKUP) == 8)
        assert all("@click" not in style.meta for style in styles(chat) if style)


EVIL = "a\x1b[31mb\x9bc\x07d\x08e\x7f\u202eg\u2066\rf"


async def test_no_control_character_reaches_the_terminal():
    """It would be obeyed: a model could write to the clipboard, or clear the screen."""
    blocks = f"{EVIL}\n\n`{EVIL}`\n\n- {EVIL}\n\n```\n{EVIL}\n```\n\n|{EVIL}|\n|-|\n"
    engine = FakeEngine([thinks(EVIL), says(blocks), fails(EVIL, kind=EVIL)])
    async with running(engine, size=(80, 60), name=EVIL) as chat:
        chat.app.post_message(events.Paste(EVIL))
        await chat.until(lambda: chat.app.composer.text)
        await chat.press("enter")
        await chat.sees("Thought")
        await chat.press("ctrl+t")
        engine.die(1, EVIL)
        # What ends a line of a paste ends one of the question, too.
        await chat.until(lambda: chat.screen().count("a␛[31mb�c␇d␈e␡�g�f") == 10)
        assert chat.screen().count("a␛[31mb�c␇d␈e␡�g�") == 11
        assert not set(chat.screen()) & set("\x1b\x9b\x07\x08\x7f\r\u202e\u2066")


async def test_html_of_a_model_is_text():
    text = "<div>one</div>\n\nA <b>two</b> and <script>three</script>\n\n<!-- four -->"
    async with running(FakeEngine(answers(text))) as chat:
        await chat.asked("a")
        for piece in ("<div>one</div>", "<b>two</b>", "<script>", "<!-- four -->"):
            assert piece in chat.answer()


async def test_a_line_break_of_a_model_is_a_line_break():
    async with running(FakeEngine(answers("Roses are red,\nviolets are blue."))) as chat:
        await chat.asked("a")
        assert "Roses are red,\nviolets are blue." in chat.answer()


@pytest.mark.parametrize(
    ("address", "opened"), [("https://example.org/x", True), ("file:///etc/passwd", False)]
)
async def test_only_links_to_the_web_are_opened(monkeypatch, address, opened):
    visited = []
    async with running(FakeEngine(answers("Text."))) as chat:
        await chat.asked("a")
        monkeypatch.setattr(chat.app, "open_url", visited.append)
        chat.view().query_one(Prose).action_link(address)
        await chat.until(lambda: visited or "Not opened" in toasts(chat))
        assert visited == [address] * opened


async def test_the_end_is_followed_until_the_person_scrolls_up():
    long = "\n\n".join(f"Line {i}" for i in range(40))
    engine = FakeEngine([says(long), GATE, says("\n\nThe end."), GATE, says("\n\nReally.")])
    async with running(engine) as chat:
        transcript = chat.app.transcript
        await chat.ask("a")
        await chat.sees("Line 39")
        await chat.press("pageup")
        place = transcript.scroll_y
        assert place < transcript.max_scroll_y
        engine.open()
        await chat.until(lambda: "The end." in chat.answer())
        assert transcript.scroll_y == place
        await chat.press("pagedown", "pagedown")
        await chat.sees("The end.")
        engine.open()
        await chat.sees("Really.")


async def test_a_long_conversation_draws_its_end_and_the_rest_where_one_scrolls_to_it():
    async with running(FakeEngine(*[answers(f"Answer {i}.") for i in range(30)])) as chat:
        transcript = chat.app.transcript
        for i in range(30):
            await chat.asked(f"Question {i}")
            assert len(transcript.views) <= 15
        await chat.sees("Question 29", "Answer 29.")
        for _ in range(60):
            await chat.press("up" if transcript.has_focus else "ctrl+up")
        await chat.sees("Question 0", "Answer 0.")
        assert [view.turn.question for view in transcript.views] == [
            f"Question {i}" for i in range(30)
        ]


async def test_garbage_is_looked_for_at_first_and_when_an_answer_has_ended_now_and_then(
    monkeypatch,
):
    looks = []
    monkeypatch.setattr(garbage, "collect", lambda app: looks.append(app.session.busy))
    monkeypatch.setattr(garbage, "REST", 0.01)
    async with running(FakeEngine(*[answers("Text.")] * 4)) as chat:
        await chat.until(lambda: looks)
        chat.app.clock.now = 5.0
        await chat.asked("a")
        for now in (5.0, 9.9):
            chat.app.clock.now = now
            await chat.pilot.pause(0.05)
            assert looks == [False], "there was one but a while ago"
        chat.app.clock.now = 10.0
        await chat.until(lambda: looks == [False] * 2)
        chat.app.clock.now = 30.0
        await chat.asked("a")
        await chat.press("b")
        await chat.pilot.pause(0.05)
        assert looks == [False] * 2, "somebody is typing"
        chat.app.clock.now += 0.1
        await chat.until(lambda: looks == [False] * 3)
        chat.app.clock.now += garbage.LATEST
        await chat.asked("a")
        assert looks == [False] * 4, "somebody types all the time"


def test_objects_that_have_been_there_for_a_while_are_looked_at_only_when_asked():
    before = gc.get_threshold()
    try:
        garbage.wait()
        looks = [each["collections"] for each in gc.get_stats()]
        kept = [[i] for i in range(200_000)]
        assert [each["collections"] for each in gc.get_stats()][1] > looks[1]
        assert [each["collections"] for each in gc.get_stats()][2] == looks[2]
        assert len(kept) == 200_000
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def test_a_conversation_that_is_left_is_looked_for_at_once(monkeypatch):
    looks = []
    monkeypatch.setattr(garbage, "collect", looks.append)
    async with running(FakeEngine(*[answers("Text.")] * 3)) as chat:
        await chat.until(lambda: looks)
        for now, wanted in ((5.0, 1), (20.0, 2), (25.0, 2)):
            await chat.asked("a")
            chat.app.clock.now = now
            await chat.press("a", "ctrl+n")
            await chat.pilot.pause()
            assert len(looks) == wanted
        chat.app.clock.now = 40.0
        await chat.press("a")
        await chat.app.resume(chat.app.session.keeper.history.sessions()[-1].id)
        await chat.until(lambda: len(looks) == 3)


async def test_what_an_answer_left_behind_is_looked_for_at_once(monkeypatch):
    looks = []
    monkeypatch.setattr(garbage, "collect_new", lambda: looks.append(True))
    async with running(FakeEngine(answers("Text."), answers("Text."))) as chat:
        await chat.until(lambda: looks)
        for wanted in (2, 3):
            await chat.asked("a")
            assert len(looks) == wanted


async def test_settings_that_were_looked_at_leave_nothing_behind():
    async with running(FakeEngine()) as chat:
        looks = []
        for _ in range(2):
            await chat.press("f3")
            looks += [weakref.ref(each) for each in chat.app.screen.query(TextArea)]
            await chat.press("escape")
            await chat.until(lambda: len(chat.app.screen_stack) == 1)

        def gone():
            garbage.collect(chat.app)
            return not any(look() for look in looks)

        await chat.until(gone)  # a screen that is closed still has to be taken down


async def test_every_action_has_its_method():
    async with running(FakeEngine()) as chat:
        assert all(callable(getattr(chat.app, f"action_{action.name}")) for action in ACTIONS)


@pytest.mark.parametrize(
    ("active", "shown", "colour"),
    [
        (10_500_000_000, "memory 10.5 of 13.3 GB", None),
        (10_700_000_000, "▲ memory 10.7 of 13.3 GB", "warning"),
        (13_000_000_000, "‼ memory 13.0 of 13.3 GB", "error"),
    ],
)
async def test_memory_that_is_nearly_full_is_marked(active, shown, colour):
    memory = replace(MEMORY, active=active)
    async with running(FakeEngine(load=(READY, memory)), size=(120, 40)) as chat:
        await chat.sees(shown, "weights 7.9 GB · cache 120 MB · process 8.1 GB")
        for place in ("#status", "#gauges"):
            line = chat.app.query_one(place).render()
            styles = " ".join(str(span.style) for span in line.spans)
            assert (f"${colour}" in styles) == bool(colour)


async def test_the_context_fills_while_an_answer_grows_and_warns_in_time():
    script = [reads(80, 80), says("a", *[20] * 19), GATE, says("b", 20), GATE]
    async with running(FakeEngine(script, load=(replace(READY, context=120), MEMORY))) as chat:
        await chat.ask("a")
        await chat.sees("99 of 120 · 82 %")
        assert "▲ 99 of 120 · 82 % · 120 MB" in chat.app.query_one("#status").render().plain
        chat.engine.open()
        await chat.sees("100 of 120 · 83 %")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
async def test_the_header_always_fits_and_the_name_goes_last(width):
    async with running(FakeEngine(), size=(width, 24)) as chat:
        line = chat.app.query_one("#status").render()
        assert line.cell_length <= max(width - 4, len("Nanbeige4.1-3B") + 1)
        assert line.plain.startswith("Nanbeige4.1-3B")
        assert ("8.1 of 13.3 GB" in line.plain) == (width >= 40)
        assert ("3.9B" in line.plain) == (width >= 80)


async def test_the_guide_says_what_it_is_and_how_to_get_a_real_model():
    async with running(FakeEngine(), guide=True, name="guide") as chat:
        await chat.sees("This is the guide", "mlxarch chat Nanbeige/Nanbeige4.1-3B")


@pytest.mark.parametrize("over", [None, "f1", "ctrl+p"])
async def test_ctrl_q_quits_at_once_also_while_an_answer_runs(over):
    async with running(FakeEngine([says("Slow"), GATE])) as chat:
        await chat.ask("a")
        if over:
            await chat.press(over)
        await chat.press("ctrl+q")
        await chat.until(lambda: not chat.app.is_running)
        assert chat.app.return_code == 0


def styles(chat):
    """The styles of everything on the screen."""
    lines = chat.app.screen._compositor.render_strips()
    return [segment.style for line in lines for segment in line]


def test_the_driver_reads_what_is_shown():
    assert shown(Static("plain")) == "plain"
