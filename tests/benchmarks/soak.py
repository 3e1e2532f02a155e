"""Does the chat grow? Questions to the guide for a long time, and the memory of both processes.

    python tests/benchmarks/soak.py [MINUTES]

Without a number, an hour. The guide is asked again and again; in between answers are made anew and
stopped, and new conversations begun. Printed each minute are questions so far and the resident
megabytes of the app and of the engine; at the end, how much either grew an hour since a third of
the time had gone by.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mlxarch.app.chat.app import ChatApp
from mlxarch.app.engine.client import Engine
from mlxarch.app.engine.protocol import Load
from mlxarch.app.history import History
from mlxarch.app.model import resolve

QUESTIONS = (
    "How do I convert a model?",
    "Which models are supported?",
    "How do I quantize to 4 bits?",
    "What does tok/s mean?",
    "How do I serve a model?",
)


async def idle(app):
    """Wait until the next question can be sent."""
    while not (app.session.ready and not app.session.busy and app.check_action("send", ())):
        await asyncio.sleep(0.02)


async def talk(app, pilot, turn):
    """One question, and what people do with its answer."""
    await app.carry_out("new") if turn % 12 == 0 else None
    await idle(app)
    app.composer.text = QUESTIONS[turn % len(QUESTIONS)]
    await pilot.press("enter")
    if turn % 7 == 3:
        await asyncio.sleep(0.3)
        await pilot.press("escape")
    await idle(app)
    if turn % 5 == 4 and app.check_action("regenerate", ()):
        await app.carry_out("regenerate")
        await idle(app)


async def soak(seconds):
    """Until the time is over."""
    engine = Engine.start()
    processes = psutil.Process(), psutil.Process(engine.pid)
    history = History.open(Path(os.environ["XDG_DATA_HOME"]) / "history.db")
    load = Load(path=str(resolve(None, None, True)))
    app = ChatApp(engine, load=load, name="guide", restart=Engine.start, history=history)
    turn, seen = 0, []
    print(f"{'minutes':>8}{'turns':>8}{'app MB':>9}{'engine MB':>11}")
    async with app.run_test(size=(100, 30)) as pilot:
        await idle(app)
        began = time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            await talk(app, pilot, turn)
            turn += 1
            sizes = [process.memory_info().rss / 1e6 for process in processes]
            if not seen or gone - seen[-1][0] >= min(60, seconds / 10):
                seen.append((gone, *sizes))
                print(f"{gone / 60:8.1f}{turn:8}{sizes[0]:9.1f}{sizes[1]:11.1f}", flush=True)
    engine.close()
    history.close()
    start = seen[len(seen) // 3]
    hours = max(seen[-1][0] - start[0], 1) / 3600
    for name, first, last in zip(("app", "engine"), start[1:], seen[-1][1:], strict=True):
        print(f"{name}: {last - first:+.1f} MB, {(last - first) / hours:+.1f} MB an hour")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for kind in ("DATA", "CONFIG"):  # where kernels are kept stays as it is
            os.environ[f"XDG_{kind}_HOME"] = made
        asyncio.run(soak(60 * float(sys.argv[1] if len(sys.argv) > 1 else 60)))
