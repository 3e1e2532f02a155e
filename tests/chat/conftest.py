"""Shared by the chat's tests."""

import pytest

from mlxarch.app.chat import lifecycle, views


@pytest.fixture(autouse=True)
def quick_flush(monkeypatch):
    """Growing answers are rendered at once; a person would not see the difference."""
    monkeypatch.setattr(lifecycle, "FLUSH", 0.01)
    monkeypatch.setattr(views, "FLUSH", 0.01)


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """Pictures have their colours, whoever runs the tests."""
    monkeypatch.delenv("NO_COLOR", raising=False)
