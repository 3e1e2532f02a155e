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


def test_inline_what_is_said_stays_in_the_terminal_and_is_not_repeated(terminal):
    def left(chat):
        """What is there when the chat has ended, from the first question on."""
        chat.press("ctrl+q")
        assert chat.wait() == 0
        lines = [line.strip() for line in chat.screen.display]
        return lines[lines.index("You") :] if "You" in lines else []

    chat = terminal("chat", "--inline")
    chat.sees("Send", "small model that is part of mlxarch")
    assert chat.screen.display[1].startswith("  mlxarch guide")
    assert not any(line.strip() for line in chat.screen.display[25:])  # is the terminal's
    chat.type("How do I convert a model?\r")
    chat.sees("mlxarch convert", "tok/s", "first in", "cached ")
    assert left(chat)[:2] == ["You", "How do I convert a model?"]
    assert "Send" not in chat.text

    chat = terminal("chat", "--inline", "--continue")
    chat.sees("Send", "mlxarch convert")
    assert left(chat) == []
    chat = terminal("chat", "--inline", "--continue")
    chat.sees("Send", "mlxarch convert")
    chat.type("and in 4 bits?\r")
    chat.until(lambda text: "tok/s ·" in text.partition("▌ and in 4 bits?")[2])
    assert left(chat)[:2] == ["You", "and in 4 bits?"]


def test_what_a_terminal_says_by_mistake_ends_nothing(terminal):
    chat = terminal()
    chat.sees("Send")
    # Another encoding, an end without its paste, answers to what nobody asked; mouse and keys.
    chat.type_bytes(b"\xff\xfe\xe9 \x1b[201~\x1b[999;999H\x1b]0;x\x07")
    chat.type_bytes(b"\x1b[<64;10;10M\x1b[27;5;9~\x00")
    chat.type("still here")
    chat.sees("still here")
    chat.press("ctrl+q")
    assert chat.wait() == 0
