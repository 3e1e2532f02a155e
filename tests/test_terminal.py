"""A terminal that goes away takes the chat and its engine with it, whoever ignores SIGHUP."""

import os
import pty
import signal
import subprocess
import sys
import termios
import threading

import psutil
import pytest
from textual._xterm_parser import XTermParser
from textual.drivers import linux_driver

from mlxarch.app.chat.actions import NEWLINE
from mlxarch.app.terminal import listening, read_all_keys, when_gone


def test_what_is_typed_before_the_first_screen_is_not_lost():
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    os.write(master, "caf\u00e9\r/help\r\x1b[A\x1bOPhal\x02f".encode())
    shown = b""
    while not shown.endswith(b"hal^Bf"):  # the terminal has it
        shown += os.read(master, 1024)
    with listening(slave) as typed:
        assert typed == "caf\u00e9\n/help\nhalf"
        os.write(master, b"\r")
        assert os.read(slave, 9) == b"\r"
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_a_terminal_may_go_away_meanwhile():
    master, slave = pty.openpty()
    with listening(slave):
        os.close(master)
    os.close(slave)


def test_a_byte_that_is_no_utf_8_does_not_end_the_app():
    read_all_keys()
    decode = linux_driver.getincrementaldecoder("utf-8")().decode
    assert decode(b"\xffa\xc3") + decode(b"\xa9") == "\ufffda\u00e9"


def test_esc_and_enter_at_once_are_alt_enter_which_sends_nothing():
    read_all_keys()
    keys = [event.key for event in XTermParser().feed("a\x1b\rb\r")]
    assert keys == ["a", "alt+enter", "b", "enter"]
    assert "alt+enter" in NEWLINE


def test_it_is_told_when_a_terminal_is_gone():
    master, slave = pty.openpty()
    gone = threading.Event()
    when_gone(gone.set, slave, every=0.01)
    assert not gone.wait(0.1)
    os.close(master)
    assert gone.wait(10)
    os.close(slave)


# Its end has something to say, and comes before anybody puts an end to it.
ENDS_BY_ITSELF = """
import os, sys, time
from mlxarch.app.chat.app import ChatApp
from mlxarch.app.cli import main

def run(app, **how):
    print("\x1b[?1049h", file=sys.stderr, flush=True)
    while os.isatty(0):
        time.sleep(0.01)
    print("Goodbye.", file=sys.stderr, flush=True)

ChatApp.run, sys.argv = run, ["mlxarch", "chat"]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["-m", "mlxarch.app", "chat"], ["-c", ENDS_BY_ITSELF]],
    ids=["as it is", "by itself"],
)
def test_a_chat_ends_with_its_terminal_also_under_nohup(command):
    master, slave = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    chat = subprocess.Popen(
        [sys.executable, "-P", *command],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    signal.signal(signal.SIGHUP, before)
    os.close(slave)
    try:
        seen = b""
        while b"\x1b[?1049h" not in seen:  # it draws
            seen += os.read(master, 65536)
        (engine,) = psutil.Process(chat.pid).children()
        os.close(master)
        assert chat.wait(60) == 128 + signal.SIGHUP
        engine.wait(30)
    finally:
        chat.kill()
        chat.wait()
