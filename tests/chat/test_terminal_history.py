"""Nothing is lost: in a pseudo-terminal, with the real engine, whoever is stopped or killed."""

import json
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from mlxarch.app import guide

pytestmark = pytest.mark.slow

QUESTION = "How do I convert a model?"
RAMBLING = ("--temp", "50", "--seed", "1")  # 2,000 tokens of any words, not 70 that make sense
SAVED = 1.0  # seconds after which what is on the screen is on disk


@pytest.fixture(params=[(80, 24), (120, 40)], ids=["80x24", "120x40"])
def open_chat(request, terminal):
    """Opens a chat on a screen of either size; it can be written in at once."""
    return lambda *arguments: terminal("chat", *arguments, size=request.param)


def thinker(folder):
    """The guide, whose last two tokens are the marks of thinking now; it thinks from the start."""
    shutil.copytree(guide.PATH, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    looks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    for mark, word in zip(("</think>", "<think>"), list(vocab)[:-3:-1], strict=True):
        assert word == "".join(merges.pop())
        vocab[mark] = vocab.pop(word)
        tokenizer["added_tokens"].append({"id": vocab[mark], "content": mark, **looks})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = (folder / "chat_template.jinja").read_text()
    opened = template.replace("assistant\\n", "assistant\\n<think>\\n")
    (folder / "chat_template.jinja").write_text(opened)
    return str(folder)


def loaded(chat):
    chat.sees("Send")  # which cannot be done before
    return chat


def answering(text):
    """Some of an answer is there, and more will come."""
    return "esc Stop" in text and re.search(r"tok/s now", text) is not None


def answered(text):
    """The last answer has ended: its figures are below the last question."""
    below = text.split("──", 1)[0].rpartition("▌")[2]
    return "tok/s ·" in below and "esc Stop" not in text


def history(*arguments):
    """What `mlxarch history` says meanwhile."""
    command = [sys.executable, "-m", "mlxarch.app", "history", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def letters(text):
    """What is left of words, however they are wrapped and set."""
    return "".join(filter(str.isalnum, text))


def said(chat, question):
    """The lines on the screen below a question, or all if it is out of view."""
    lines = [line.strip() for line in chat.screen.display]
    start = max((at for at, line in enumerate(lines) if question in line), default=0) + 1
    end = next(at for at, line in enumerate(lines) if line.startswith("──"))
    return [line for line in lines[start:end] if letters(line)]


def thought(chat):
    """Tokens of the thoughts that are shown."""
    return int(re.search(r"Thought for ([\d,]+) tokens", chat.text)[1].replace(",", ""))


def rambles(chat):
    """Ask, and see the answer begin."""
    chat.type("Tell me a story\r")
    chat.until(lambda text: answering(text) and said(chat, "Tell me a story"))


def test_every_branch_is_there_after_quitting_and_resuming_by_id(open_chat):
    chat = loaded(open_chat())
    chat.type(f"{QUESTION}\r")
    chat.until(lambda text: "mlxarch convert" in text and answered(text))
    chat.press("ctrl+e")
    chat.sees("Another version of this question")
    chat.type(" In 4 bits?\r")
    chat.sees("In 4 bits?", "2 of 2", "--bits 4")
    chat.until(answered)
    chat.press("ctrl+g")
    chat.until(lambda text: text.count("2 of 2") == 2 and answered(text))
    chat.type("a draft")
    chat.sees("│a draft")
    chat.press("ctrl+q")
    assert chat.wait() == 0

    listed = history().splitlines()
    assert len(listed) == 2
    session = listed[1].split()[0]
    assert QUESTION in listed[1]
    assert "guide" in listed[1]

    again = open_chat("--resume", session[:6])
    again.sees("In 4 bits?", "--bits 4", "2 of 2", "tok/s ·", "│a draft")
    assert again.text.count("2 of 2") == 2
    loaded(again)
    again.press(*["ctrl+h"] * len("a draft"))
    again.loses("│a draft")
    again.type("/fork\r")
    again.sees("In 4 bits?")
    again.type("Who are you?\r")
    again.until(lambda text: "▌ Who are you?" in text and answered(text))
    again.press("ctrl+q")
    assert again.wait() == 0
    assert len(history().splitlines()) == 3
    assert "Who are you?" not in history("show", session)


def test_an_answer_is_stopped_while_its_prompt_is_read_and_while_it_comes(open_chat):
    chat = loaded(open_chat(*RAMBLING))
    engine = chat.engine()
    engine.suspend()
    chat.type("Tell me a story\r")
    chat.sees("esc Stop")
    chat.press("escape")
    chat.sees("Stopping")
    engine.resume()
    chat.sees("stopped before the first word", "│Tell me a story", "Send")
    chat.press("enter")
    chat.until(answering)
    chat.press("escape")
    chat.sees("stopped · ", "Send")
    tokens = int(re.search(r"stopped · ([\d,]+) token", chat.text)[1].replace(",", ""))
    assert 0 < tokens < 2_000
    assert engine.is_running()


def test_an_answer_is_stopped_while_it_thinks_and_goes_on_thinking(open_chat, tmp_path):
    chat = loaded(open_chat(thinker(tmp_path / "thinker"), *RAMBLING))
    chat.type("Tell me a story\r")
    chat.until(lambda text: answering(text) and "Thinking" in text)
    chat.press("escape")
    chat.sees("stopped while it was thinking", "Send")
    before = thought(chat)
    chat.type("/continue\r")
    chat.until(answering)
    chat.press("escape")
    chat.sees("stopped while it was thinking", "Send")
    assert thought(chat) > before > 0
    chat.press("ctrl+q")
    assert chat.wait() == 0
    again = open_chat("--continue")
    again.sees("stopped while it was thinking", "Tell me a story")
    assert "thought" in history("show", history().splitlines()[1].split()[0])


def test_a_killed_engine_takes_nothing_along_and_another_goes_on(open_chat):
    chat = loaded(open_chat(*RAMBLING))
    rambles(chat)
    chat.engine().kill()
    shown = said(chat, "Tell me a story")
    chat.sees("The engine stopped (exit code -9).", "Ctrl+R starts")
    chat.press("ctrl+r")
    chat.sees("Send")
    chat.type("/continue\r")
    chat.until(answering)
    chat.press("escape")
    chat.sees("stopped · ", "Send")
    found = history("show", history().splitlines()[1].split()[0])
    assert letters(shown[0]) in letters(found)


def test_a_killed_chat_goes_on_with_draft_and_partial_answer(open_chat):
    chat = loaded(open_chat(*RAMBLING))
    engine = chat.engine()
    rambles(chat)
    chat.type("my next question")
    chat.sees("│my next question")
    engine.suspend()
    end = time.monotonic() + SAVED
    chat.until(lambda text: time.monotonic() > end)
    shown = said(chat, "Tell me a story")
    chat.kill()
    engine.resume()
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running()  # nobody would read what it says

    again = open_chat("--continue")
    again.sees("│my next question", "cut off when the chat ended")
    found = history("show", history().splitlines()[1].split()[0])
    assert "Tell me a story" in found
    assert "cut off when the chat ended" in found
    assert shown
    for line in shown:
        assert letters(line) in letters(found)
