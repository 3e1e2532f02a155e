"""The pictures of the README, from the app itself with a scripted engine.

    python tests/screenshots.py docs/screenshots

`make screenshots` does it.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from chat.children import Children
from chat.driver import running
from chat.fake import GATE, FakeEngine, answers, costs, ends, says

from mlxarch.app.chat import sessions

SIZE = (100, 30)
QUESTION = "How do I convert a model to 4 bits, and what does it cost?"
ANSWER = """\
One command does it, and a model **larger than memory** is fine:

```sh
mlxarch convert Nanbeige/Nanbeige4.1-3B out --bits 4
```

| dtype | bytes a weight | KL |
|---|---:|---:|
| bfloat16 | 2 | 0 |
| 4 bits | 0.56 | 0.021 |

"""
REST = "It takes about as long as reading the source, and it goes on where it was"
OWN = [31, 29, 33, 30, 36, 32, 30, 31, 58, 33, 30, 34, 29, 31, 88, 32, 30, 31, 29, 37]


def drafted(text, rounds):
    """Of four tokens three are guessed; some guesses are wrong."""
    times = [part for own in rounds for part in (own, own / 9, own / 8, own / 9)]
    guessed = [index % 4 > 0 for index in range(len(times))]
    size = -(-len(text) // len(times))
    lengths = [len(text[at : at + size]) for at in range(0, len(text), size)]
    return says(
        text, *times, guessed=guessed, rejected=len(rounds) // 3, lengths=lengths[: len(times)]
    )


async def answering(chat):
    """An answer grows; the panel shows it token by token."""
    chat.session.clock.now = 10.0
    await chat.ask(QUESTION)
    chat.session.clock.now = 11.75
    chat.engine.open()
    await chat.sees(REST[:30], "right")


async def figures(chat):
    """All that is known of an answer."""
    await answering(chat)
    chat.engine.open()
    await chat.until(chat.settled)
    await chat.command("/figures")
    await chat.sees("by the model")


async def tokens(chat):
    """Each token in the colour of its time; those that were guessed are underlined."""
    await answering(chat)
    await chat.command("/tokens")
    await chat.sees("each token by its time")


async def settings(chat):
    """How this model answers."""
    await chat.press("f3")
    await chat.sees("Settings")


async def conversations(chat):
    """What was said before."""
    for question in ("What is a window?", "Why is the first token slow?", QUESTION):
        await chat.asked(question)
        if question != QUESTION:
            await chat.press("ctrl+n")
            await chat.until(lambda: chat.app.query("#welcome"))
    await chat.press("ctrl+o")
    await chat.sees("open now")


async def models(chat):
    """What is here, what fits, what may be fetched."""
    await chat.press("f2")
    await chat.sees("To be fetched")
    await chat.press("down")
    await chat.sees("estimate")


async def help_(chat):
    """Every key and command."""
    await chat.press("f1")
    await chat.sees("Help")


GROWING = [GATE, drafted(ANSWER, OWN), drafted(REST, OWN[:8]), GATE]
WHOLE = costs(prompt=1812, cached=1290, prefill=0.61, first=0.84, tokens=112, guessed=(84, 8))
PICTURES = {
    "chat": (answering, [GROWING]),
    "figures": (figures, [[*GROWING, WHOLE, ends()]]),
    "tokens": (tokens, [GROWING]),
    "settings": (settings, []),
    "sessions": (conversations, [answers("A limit."), answers("The prompt."), answers(ANSWER)]),
    "models": (models, []),
    "help": (help_, []),
}


async def take(folder):
    """Write one SVG each."""
    sessions.when = lambda seconds, now: "14:05"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (talk, scripts) in PICTURES.items():
        async with running(FakeEngine(*scripts), size=SIZE, start_child=Children()) as chat:
            await talk(chat)
            await chat.pilot.pause()
            picture = chat.app.export_screenshot(title="mlxarch chat")
            (folder / f"{name}.svg").write_text(picture)
            print(folder / f"{name}.svg")


if __name__ == "__main__":
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory() as made:
        for kind in ("DATA", "CONFIG", "CACHE"):
            os.environ[f"XDG_{kind}_HOME"] = made
        asyncio.run(take(Path(sys.argv[1])))
