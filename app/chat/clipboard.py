"""The clipboard of the machine that the person sits at."""

import os

import pyperclip

NOTES = {
    True: "The answer is in the clipboard.",
    False: "The terminal was asked to copy the answer (OSC 52); not every terminal does.",
}


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
