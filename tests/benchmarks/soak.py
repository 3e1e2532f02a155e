"""Does the chat grow? What people do all day with the guide, and the memory of both processes.

    python tests/benchmarks/soak.py [MINUTES] [--share 0.5] [--seed 0]

Without a number, an hour. By chance, the same for a seed: questions are asked, edited, answered
anew, queued, stopped and gone on with; answers hundreds of tokens long are code; conversations are
forked, left for others, begun; versions are turned, screens opened, settings changed. Between two
things it pauses, so that both processes take no more than a share of one core; once a minute for
some seconds, as somebody does who reads, and then both have let go of what they do not need.

Printed after that are the things done and the questions so far, resident megabytes of the app and
of the engine, those that the engine holds of conversations, and the app's Python objects. What the
engine holds depends on which conversations were read last, and differs by half from minute to
minute; so it is looked at by itself. At the end, how much the app and the rest of the engine grew
an hour in the second half, by least squares, the most that was held of conversations in either
half, and verdicts: exit code 0 if these are small shares, 1 if one is not. Caches of the app fill
up in the first twenty minutes, so that a shorter run always grows.
"""

import argparse
import asyncio
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
from texts import code

from mlxarch.app.chat import garbage
from mlxarch.app.chat.app import ChatApp
from mlxarch.app.engine import protocol
from mlxarch.app.engine.client import Engine
from mlxarch.app.history import History
from mlxarch.app.model import resolve

BOUND = 0.05  # that a process may grow an hour, of what it has
SPREAD = 0.25  # by which the most that is held of conversations may differ from half to half
READING = 12  # of the time, one part is spent so
QUESTIONS = (
    "How do I convert a model?",
    "Which models are supported?",
    "How do I quantize to 4 bits?",
    "What does tok/s mean?",
    "How do I serve a model?",
    "How do I search my history?",
    "Will it fit in 16 GB?",
    "How do I stop an answer?",
)
CHARACTERS = 4  # of code that a token brings


class Voice:
    """The real engine, whose tokens read as code when that is wanted."""

    exit_code = None

    def __init__(self):
        self.engine, self.text = Engine.start(), ""
        self.send, self.log_tail, self.close = (
            self.engine.send,
            self.engine.log_tail,
            self.engine.close,
        )

    def receive(self):
        event = self.engine.receive()
        if isinstance(event, protocol.Delta) and self.text:
            end = CHARACTERS * len(event.tokens)
            said, self.text = self.text[:end], self.text[end:]
            return replace(event, text=said, lengths=[CHARACTERS] * len(event.tokens))
        return event


class Person:
    """Somebody at a chat."""

    def __init__(self, app: ChatApp, pilot, random):
        self.app, self.pilot, self.random = app, pilot, random
        self.questions = 0
        self.acts = {
            self.ask: 6,
            self.edit: 2,
            self.regenerate: 2,
            self.queue: 1,
            self.code: 2,
            self.stop: 1,
            self.fork: 1,
            self.switch: 2,
            self.turn: 1,
            self.look: 2,
            self.select: 1,
            self.undo: 1,
            self.set: 1,
            self.colour: 1,
            self.compact: 1,
            self.new: 1,
        }

    async def act(self):
        """One thing, and all that comes of it."""
        crowded = self.app.context.share > 0.6
        (act,) = self.random.choices([*self.acts], [*self.acts.values()])
        await (self.new if crowded else act)()
        await self.idle()
        while len(self.app.screen_stack) > 1:  # it asks what to do with a full context
            await self.pilot.press(self.random.choice(["enter", "escape"]))
            await self.idle()

    def can(self, action):
        """It is in the footer or the palette now."""
        return self.app.check_action(action, ())

    async def idle(self):
        """Wait until the next question can be sent."""
        while not (self.app.session.ready and not self.app.session.busy and self.can("send")):
            await asyncio.sleep(0.02)
        await self.pilot.pause()

    async def say(self, text):
        """Write, and press Enter."""
        self.app.composer.text = text
        await self.pilot.press("enter")

    async def ask(self):
        self.questions += 1
        await self.say(f"{self.random.choice(QUESTIONS)} ({self.questions})")

    async def edit(self):
        if self.can("edit"):
            self.app.composer.text = ""
            await self.pilot.press("ctrl+e")
            await self.say(f"{self.app.composer.text} And why?")

    async def regenerate(self):
        if self.can("regenerate"):
            await self.say("/regenerate")

    async def queue(self):
        await self.ask()
        if self.app.session.busy:
            await self.ask()

    async def code(self):
        await self.babble(300)

    async def stop(self):
        await self.babble(300)
        await asyncio.sleep(self.random.random() / 4)
        if self.app.session.busy:
            await self.pilot.press("escape")
        await self.idle()
        self.app.session.engine.text = code(100)
        if self.can("continue"):
            await self.say("/continue")

    async def babble(self, tokens):
        """A long answer: at such a temperature the guide does not stop by itself."""
        if self.app.context.share > 0.3:
            await self.new()
        for setting in ("temperature 3", f"max_tokens {tokens}"):
            await self.say(f"/set {setting}")
        self.app.session.engine.text = code(tokens)
        await self.ask()
        for setting in ("temperature", "max_tokens"):
            await self.say(f"/set {setting}")

    async def fork(self):
        if self.can("fork"):
            await self.say("/fork")
            await self.ask()

    async def switch(self):
        await self.say("/sessions " + self.random.choice(["", "convert", "4 bits", "why"]))
        await self.pilot.press(*["down"] * self.random.randrange(9), "enter")
        if len(self.app.screen_stack) > 1:
            await self.pilot.press("escape")
        await self.pilot.pause()
        self.app.composer.text = ""

    async def turn(self):
        if self.can("version"):
            await self.say("/version")

    async def look(self):
        await self.pilot.press(self.random.choice(["f1", "f2", "f3"]))
        await self.pilot.press("down", "down", "escape")

    async def select(self):
        await self.pilot.press("ctrl+up", *["up"] * self.random.randrange(12), "escape")
        await self.pilot.press("pageup", "pageup", "pagedown", "pagedown")

    async def undo(self):
        if self.can("undo"):
            await self.say("/undo")
            self.app.composer.text = ""

    async def set(self):
        await self.say(
            self.random.choice(["/persona teacher", "/preset greedy", "/system Be brief."])
        )

    async def colour(self):
        if self.can("tokens"):
            await self.say("/tokens")
            await self.say("/figures")
            await self.say("/tokens")

    async def compact(self):
        if self.can("compact"):
            await self.say("/compact")

    async def new(self):
        if self.can("new"):
            await self.pilot.press("ctrl+n")


class Sample(NamedTuple):
    """How things stood."""

    seconds: float
    acts: int
    questions: int
    app: float  # megabytes
    engine: float
    held: float
    objects: int

    def __str__(self):
        return (
            f"{self.seconds / 60:8.1f}{self.acts:8}{self.questions:8}{self.app:9.1f}"
            f"{self.engine:11.1f}{self.held:9.1f}{self.objects:9}"
        )


def bounded(seen):
    """Whether nothing grew in the second half of what was seen; says by how much."""
    middle = seen[-1].seconds / 2
    half = [sample for sample in seen if sample.seconds >= middle]
    if half[0].questions == half[-1].questions:
        raise SystemExit("nothing was asked in the second half: the chat is stuck")
    hours = [sample.seconds / 3600 for sample in half]
    found = []
    sizes = {
        "app": [each.app for each in half],
        "engine": [each.engine - each.held for each in half],
    }
    for name, size in sizes.items():
        slope, bound = statistics.linear_regression(hours, size).slope, BOUND * size[0]
        verdict = "bounded" if slope < bound else f"NOT bounded, wanted is below {bound:.1f}"
        print(f"{name}: {slope:+.1f} MB an hour in the second half: {verdict}")
        found.append(slope < bound)
    first, second = (
        max(each.held for each in seen if (each.seconds >= middle) is later)
        for later in (False, True)
    )
    found.append(second < first * (1 + SPREAD))
    verdict = "bounded" if found[-1] else f"NOT bounded, wanted is below {first * (1 + SPREAD):.1f}"
    print(f"conversations: at most {first:.1f} MB in the first half, {second:.1f} since: {verdict}")
    return all(found)


async def soak(seconds, share, seed):
    """Until the time is over; whether memory is bounded."""
    engine = Voice()
    processes = psutil.Process(), psutil.Process(engine.engine.pid)
    home = Path(os.environ["XDG_DATA_HOME"])
    history = History.open(home / "history.db")
    kept = {"keep": str(home / "prompts"), "keep_bytes": 1 << 26}
    load = protocol.Load(path=str(resolve(None, None, True)), **kept)
    app = ChatApp(engine, load=load, name="guide", restart=Voice, history=history)
    garbage.wait()  # as `mlxarch chat` does
    acts, seen, every = 0, [], min(60, seconds / 20)
    print(
        f"{'minutes':>8}{'acts':>8}{'asked':>8}{'app MB':>9}{'engine MB':>11}{'held MB':>9}"
        f"{'objects':>9}"
    )
    async with app.run_test(size=(100, 30)) as pilot:
        person = Person(app, pilot, random.Random(seed))
        await person.idle()
        began = time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            used = sum(sum(process.cpu_times()[:2]) for process in processes)
            await person.act()
            acts += 1
            used = sum(sum(process.cpu_times()[:2]) for process in processes) - used
            await asyncio.sleep(max(0.0, used / share - (time.monotonic() - began - gone)))
            if not seen or gone - seen[-1].seconds >= every:
                await asyncio.sleep(every / READING)
                sizes = (process.memory_info().rss / 1e6 for process in processes)
                held = app.session.memory.cache / 1e6
                objects = len(gc.get_objects()) + gc.get_freeze_count()
                seen.append(Sample(gone, acts, person.questions, *sizes, held, objects))
                print(seen[-1], flush=True)
    engine.close()
    history.close()
    return bounded(seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("minutes", nargs="?", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        for kind in ("DATA", "CONFIG"):  # where kernels are kept stays as it is
            os.environ[f"XDG_{kind}_HOME"] = made
        sys.exit(not asyncio.run(soak(60 * options.minutes, options.share, options.seed)))


if __name__ == "__main__":
    main()
