"""Whatever is written can be read, in both themes of our own."""

import re
from pathlib import Path

import pytest
from textual.color import Color

from mlxarch.app.chat import theme

from .driver import running
from .fake import FakeEngine, answers

LEGIBLE = 4.5  # times as bright at least.   Source: WCAG 2.2, 1.4.3
LINES = 30  # per cent, below which it is no text: borders, empty bars

FAINT = re.compile(r"(?:^ *color: |^\$faint: |\")\$foreground (\d+)%", re.MULTILINE)


def luminance(color):
    """Relative luminance, from 0 to 1, as WCAG defines it."""
    shares = [part / 255 for part in color.rgb]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ours", [theme.DARK, theme.LIGHT], ids=lambda one: one.name)
def test_faint_text_can_be_read(ours):
    folder = Path(theme.__file__).parent
    sources = [*folder.glob("*.py"), folder / "chat.tcss"]
    found = {int(share) for one in sources for share in FAINT.findall(one.read_text())}
    shares = [share for share in found if share > LINES]
    assert shares
    colours = ours.to_color_system().generate()
    text = Color.parse(colours["foreground"])
    for ground in (Color.parse(colours["background"]), Color.parse(colours["surface"])):
        for share in shares:
            assert contrast(ground.blend(text, share / 100), ground) >= LEGIBLE


def faint(screen):
    """What is written on a screen, not behind it, and differs too little from its ground."""
    for y, line in enumerate(screen._compositor.render_strips()):
        x = 0
        for text, style, _ in line:
            widget, _ = screen.get_widget_at(x, y)
            x += len(text)
            if widget is screen or not re.search(r"\w", text):
                continue
            colours = [Color.from_rich_color(part) for part in (style.color, style.bgcolor)]
            if contrast(*colours) < LEGIBLE:
                yield text.strip()


@pytest.mark.parametrize("ours", [theme.DARK, theme.LIGHT], ids=lambda one: one.name)
async def test_all_that_is_written_can_be_read(ours):
    async with running(FakeEngine(answers("Yes, `so` **it** is.")), size=(100, 40)) as chat:
        chat.app.theme = ours.name
        await chat.asked("Is it?")
        assert not list(faint(chat.app.screen))
        chat.app.composer.text = "/"
        await chat.sees("/select")
        assert not list(faint(chat.app.screen))
        chat.app.composer.text = ""
        for key, text in {"f1": "PgDn scroll", "ctrl+o": "open now", "f3": "Seed"}.items():
            await chat.press(key)
            await chat.sees(text)
            assert not list(faint(chat.app.screen))
            await chat.press("escape")


@pytest.mark.parametrize(
    ("environment", "ours"),
    [
        ({"TERM": "xterm"}, theme.ANSI),
        ({"TERM": "screen"}, theme.ANSI),
        ({"TERM": "linux"}, theme.ANSI),
        ({"TERM": "xterm-256color"}, theme.DARK),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, theme.DARK),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, theme.DARK),
    ],
    ids=str,
)
def test_where_colours_are_few_they_are_the_terminal_s_own(monkeypatch, environment, ours):
    for name in ("COLORTERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert theme.usual() is ours


def pieces(chat):
    """What is drawn, with its style."""
    for line in chat.app.screen._compositor.render_strips():
        yield from ((text, style) for text, style, _ in line if style)


def chosen(chat):
    """What stands out without a colour: the one that is chosen."""
    return " ".join(text.strip() for text, style in pieces(chat) if style.underline)


async def test_without_colours_there_is_none_and_what_is_chosen_stands_out(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with running(FakeEngine(answers("Yes, `so` **it** is.")), size=(80, 24)) as chat:
        await chat.asked("Is it?")

        def plain():
            colours = [part for _, style in pieces(chat) for part in (style.color, style.bgcolor)]
            return all(colour is None or colour.is_default for colour in colours)

        assert plain()
        chat.app.composer.text = "/"
        await chat.until(lambda: chosen(chat).startswith("/select"))
        assert plain()
        chat.app.composer.text = ""
        await chat.press("ctrl+o")
        await chat.until(lambda: "Is it?" in chosen(chat))
        assert plain()
        await chat.press("escape", "f3")
        await chat.sees("Seed")
        await chat.press("shift+tab")
        await chat.until(lambda: "publisher" in chosen(chat))
        await chat.press("escape", "ctrl+up", "up")
        await chat.until(lambda: "Is it?" in chosen(chat))
        assert plain()
        chat.app.theme = theme.DARK.name
        await chat.pilot.pause()
        assert plain()
