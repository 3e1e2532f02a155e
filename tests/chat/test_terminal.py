"""The chat as a person has it: a pseudo-terminal, the real engine, the guide's real weights."""

import psutil
import pytest

pytestmark = pytest.mark.slow


def test_mlxarch_alone_opens_the_guide_which_answers_and_is_timed(terminal):
    chat = terminal()
    chat.until(lambda text: "mlxarch guide" in text and "12M" in text)
    assert "small model that is part of mlxarch" in chat.text
    chat.type("How do I convert a model?\r")
    chat.until(lambda text: "mlxarch convert" in text and "tok/s" in text and "first" in text)
    chat.type("and in 4 bits?\r")
    chat.until(lambda text: "--bits 4" in text)
    engines = psutil.Process(chat.pid).children()
    chat.type("\x11")  # Ctrl+Q
    assert chat.wait() == 0
    assert not any(engine.is_running() for engine in engines)
