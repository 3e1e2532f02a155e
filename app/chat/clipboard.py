"""The clipboard of the machine that the person sits at."""

import os

import pyperclip


def copy(text: str) -> bool:
    """Copy with a program of this machine; False where there is none.

    Over SSH this machine's clipboard is the wrong one.
    """
    if "SSH_CONNECTION" in os.environ:
        return False
    try:
        pyperclip.copy(text)
    except pyperclip.PyperclipException:
        return False
    return True


def note(what: str, *, copied: bool) -> str:
    """What to tell the person whose answer, question or code was copied."""
    if copied:
        return f"The {what} is in the clipboard."
    return f"The terminal was asked to copy the {what} (OSC 52); not every terminal does."
