"""Shared by the chat's tests."""

import pytest
from textual.widgets import TextArea

from mlxarch.app.chat import lifecycle
from mlxarch.app.chat.colours import lexer_of

from .terminal import Terminal


@pytest.fixture(autouse=True)
def quick_flush(monkeypatch):
    """Growing answers are rendered at once; a person would not see the difference."""
    monkeypatch.setattr(lifecycle, "FLUSH", 0.01)
    monkeypatch.setattr(lifecycle, "FIGURES", 0.0)
    monkeypatch.setattr(lifecycle, "TURNS", 0.0)
    monkeypatch.setattr(lifecycle, "SHARE", 100.0)
    monkeypatch.setattr(lifecycle, "SPARED", 100.0)


@pytest.fixture(autouse=True)
def steady_cursor(monkeypatch):
    """The cursor does not blink: that is a clock."""
    monkeypatch.setattr(TextArea, "_toggle_cursor_blink_visible", lambda area: None)


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """Pictures have their colours, whoever runs the tests."""
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(autouse=True)
def known_languages():
    """Code in the tests has its colours at once."""
    for language in ("python", "py", "sh", "text"):
        lexer_of(language)


@pytest.fixture
def terminal():
    """Opens a pseudo-terminal with mlxarch in it, as often as asked."""
    opened = []

    def open_terminal(*arguments, **options):
        opened.append(Terminal(*arguments, **options))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()
