"""Drives a chat the way a person does, and waits for what they would see."""

import os
from contextlib import asynccontextmanager
from pathlib import Path

from textual._context import visible_screen_stack
from textual.widgets import Static

from mlxarch.app.chat.app import ChatApp
from mlxarch.app.chat.lines import Lines
from mlxarch.app.chat.views import TurnView
from mlxarch.app.engine.protocol import Generate, Load
from mlxarch.app.history import History
from mlxarch.app.settings import Settings

from .fake import FakeEngine


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def chat_app(engine, **options):
    """A chat with a fake engine."""
    settings = Settings(Path(os.devnull) / "config.toml")
    options = {"settings": settings, "clock": Clock(), "restart": FakeEngine, **options}
    options = {"name": "Nanbeige4.1-3B", "history": History.nowhere(), **options}
    return ChatApp(engine, load=Load(path="/models/nanbeige"), **options)


class Chat:
    """A running chat."""

    def __init__(self, app, pilot):
        self.app, self.pilot, self.press = app, pilot, pilot.press
        self.engine, self.session = app.session.engine, app.session

    async def until(self, condition):
        """Let the app work until `condition()`; what never comes is a failure."""
        for _ in range(500):
            if condition():
                return
            await self.pilot.pause(0.01)
        raise AssertionError(f"the chat never got there:\n{self.screen()}")

    async def sees(self, *texts):
        """Wait until the screen shows all `texts`."""
        await self.until(lambda: all(text in self.screen() for text in texts))

    async def ready(self):
        await self.until(lambda: self.app.check_action("send", ()) and self.session.memory)

    async def ask(self, question):
        """Write a question and press Enter."""
        sent = len(self.engine.of(Generate))
        self.app.composer.text = question
        await self.press("enter")
        await self.until(lambda: len(self.engine.of(Generate)) > sent)

    async def command(self, text):
        """Give a command."""
        self.app.composer.text = text
        await self.press("enter")
        await self.pilot.pause()

    async def asked(self, question):
        """Ask, and wait for the whole answer."""
        await self.ask(question)
        await self.until(lambda: not self.session.busy and self.settled())
        await self.pilot.pause()  # it is on the screen, too

    def settled(self):
        """The last turn is shown as far as it is."""
        views = self.app.query(TurnView)
        return bool(views) and self.app.due is None and views.last().figures.display

    def view(self):
        """The widget of the last turn."""
        return self.app.transcript.view(self.session.turn)

    def answer(self):
        """What is shown of the last answer: rendered text, then text that still waits."""
        return shown(self.view().answer)

    def figures(self):
        return shown(self.view().figures)

    def screen(self):
        """The whole screen, as text."""
        # What a box is drawn over is drawn with it, and kept: without, the app would have none.
        visible_screen_stack.set(self.app._background_screens)
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)


def shown(widget):
    """The text of a widget and what is in it, from top to bottom."""
    if isinstance(widget, Lines):
        own = widget.text
    else:
        own = str(widget.visual) if isinstance(widget, Static) else ""
    inside = (shown(child) for child in widget.children if child.display)
    return "\n".join(filter(None, [own, *inside]))


def toasts(chat):
    """What the app said in passing."""
    return "\n".join(note.message for note in chat.app._notifications)


@asynccontextmanager
async def running(engine, size=(80, 24), ready=True, notifications=False, **options):
    """A chat; its model is loaded unless the engine's script has other plans."""
    app = chat_app(engine, **options)
    async with app.run_test(size=size, notifications=notifications) as pilot:
        chat = Chat(app, pilot)
        if ready:
            await chat.ready()
        yield chat
    app.session.engine.close()
    app.session.keeper.history.close()
