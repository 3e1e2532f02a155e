"""A terminal that goes away takes the chat and its engine with it, whoever ignores SIGHUP."""

import os
import pty
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from mlxarch.app.terminal import when_gone


def test_it_is_told_when_a_terminal_is_gone():
    master, slave = pty.openpty()
    gone = threading.Event()
    when_gone(gone.set, slave, every=0.01)
    assert not gone.wait(0.1)
    os.close(master)
    assert gone.wait(10)
    os.close(slave)


@pytest.mark.slow
def test_a_chat_ends_with_its_terminal_also_under_nohup(tmp_path):
    folders = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    env = {**os.environ, "TERM": "xterm-256color", **dict.fromkeys(folders, str(tmp_path))}
    master, slave = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    chat = subprocess.Popen(
        [sys.executable, "-P", "-m", "mlxarch.app", "chat"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
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
        assert chat.wait(60) in (0, 128 + signal.SIGHUP)
        engine.wait(30)
    finally:
        chat.kill()
        chat.wait()
