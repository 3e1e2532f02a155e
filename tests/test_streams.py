"""Standard streams that are closed, full, without end, or that do not take all there is."""

import os
import pty
import subprocess
import sys

import pytest

from mlxarch.app.history import History

COMMAND = [sys.executable, "-P", "-m", "mlxarch.app"]


def done(command, **streams):
    """An exit code, and what was said on stderr."""
    ended = subprocess.run(command, stderr=subprocess.PIPE, timeout=300, check=False, **streams)
    return ended.returncode, ended.stderr.decode()


def test_a_full_disk_is_told_in_a_line():
    with open("/dev/full", "wb") as full:
        code, said = done([*COMMAND, "--help"], stdout=full)
    assert (code, said) == (4, "Not all could be written: No space left on device.\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_streams_may_be_closed(closed):
    """Their numbers must not go to the next file that is opened."""
    shell = ["bash", "-c", f'exec {closed}; exec "$@"', "-", *COMMAND, "history", "--json"]
    code, said = done(shell, stdout=subprocess.DEVNULL)
    assert (code, "Traceback" in said) == (0, False)


def on_terminal(name, *arguments):
    """What is drawn on a terminal of that name."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": name}
    done([*COMMAND, *arguments], stdout=slave, env=environment)
    os.close(slave)
    drawn = os.read(master, 65536)
    os.close(master)
    return drawn.decode()


def test_a_dumb_terminal_gets_no_escape_sequences():
    with History.open() as history:
        session = history.begin(model="guide")
        history.add(session, None, "user", "Tell me of cats")
    assert "\x1b" in on_terminal("xterm", "history", "show", session)
    plain = on_terminal("dumb", "history", "show", session)
    assert "Tell me of cats" in plain
    assert "\x1b" not in plain


def test_letters_that_an_encoding_does_not_have_are_question_marks():
    with History.open() as history:
        history.add(history.begin(model="guide"), None, "user", "caf\u00e9 \u2192 tea")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    out = subprocess.check_output([*COMMAND, "history"], env=environment)
    assert b"caf\xe9 ? tea" in out


@pytest.mark.slow
def test_an_answer_goes_nowhere_where_stdout_is_closed():
    run = [*COMMAND, "run", "-p", "What is mlxarch?", "--max-tokens", "4"]
    assert done(["bash", "-c", 'exec 1>&-; exec "$@"', "-", *run], stdin=subprocess.DEVNULL) == (
        0,
        "",
    )


@pytest.mark.slow
def test_an_input_without_end_is_not_read_for_ever():
    with open("/dev/zero", "rb") as zeros:
        code, said = done([*COMMAND, "run", "-p", "q"], stdin=zeros, stdout=subprocess.DEVNULL)
    assert code == 1
    assert said.startswith("FormatError: What is piped in is longer than 16.0 MB;")
