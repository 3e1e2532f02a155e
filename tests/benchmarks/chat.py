"""What the chat's drawing costs: the person who types, and the engine.

    python tests/benchmarks/chat.py typing [--kinds prose,code,list,table] [--tokens 1000]
    python tests/benchmarks/chat.py decode [FOLDER] [--rounds 5] [--tokens 300]

`typing`: a script streams answers of each kind at 100 tokens a second into a chat of 120x40, while
somebody types. Printed are, in milliseconds, how late the event loop ran what was due (median,
95 %, worst), and how long a key took until it was on the screen (the same); both also in seconds of
this process's CPU, which is what a machine needs that does nothing else. Nothing is drawn on a
terminal; all else is what a person has.

`decode`: the real engine answers alternately in the chat and to a reader that does nothing; the
text of its tokens is replaced by prose, code and lists. Printed are the medians of tokens a second,
and the median of their ratios. Without a folder, the model has random weights and the guide's
tokens: it never stops by itself.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from queue import SimpleQueue

from texts import KINDS, pieces
from textual import events

from mlxarch.app.chat.app import ChatApp
from mlxarch.app.engine import protocol
from mlxarch.app.engine.client import Engine
from mlxarch.app.history import History
from mlxarch.app.model import resolve
from mlxarch.quantize import synthetic
from mlxarch.quantize.recipes import Recipe

SIZE = (120, 40)
SHAPE = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
}
READY = protocol.Ready(
    name="script",
    architecture="Script",
    parameters=1,
    bytes=1,
    context=262_144,
    device="CPU",
    seconds=0.1,
)
MEMORY = protocol.Memory(weights=1, cache=1, active=2, peak=3, process=4, limit=10)


class Script:
    """An engine that says one text at a steady pace."""

    exit_code = None

    def __init__(self, text, rate):
        self.text, self.rate, self.events = text, rate, SimpleQueue()

    def send(self, command):
        if isinstance(command, protocol.Load):
            self.events.put(READY)
            self.events.put(MEMORY)
        elif isinstance(command, protocol.Generate):
            threading.Thread(target=self._say, args=(command.id,), daemon=True).start()

    def _say(self, answer):
        tokens = pieces(self.text)
        step = max(round(self.rate * protocol.INTERVAL), 1)
        began = time.perf_counter()
        for start in range(0, len(tokens), step):
            said = tokens[start : start + step]
            due = began + (start + len(said)) / self.rate
            time.sleep(max(due - time.perf_counter(), 0))
            self.events.put(
                protocol.Delta(
                    id=answer,
                    channel="answer",
                    text="".join(said),
                    tokens=[1] * len(said),
                    seconds=[1 / self.rate] * len(said),
                    lengths=[len(piece) for piece in said],
                )
            )
            if start % self.rate < step:
                self.events.put(MEMORY)
        stats = protocol.Stats(
            id=answer,
            prompt_tokens=9,
            cached_tokens=0,
            prefill_seconds=0.1,
            first_token_seconds=0.1,
            tokens=len(tokens),
            decode_seconds=len(tokens) / self.rate,
        )
        self.events.put(stats)
        self.events.put(protocol.Finish(id=answer, reason="stop"))

    def receive(self):
        return self.events.get()

    def log_tail(self):
        return ""

    def close(self):
        self.events.put(None)


class Dubbed:
    """A real engine whose tokens are given another text."""

    def __init__(self):
        self.engine, self.text, self.place, self.stats = Engine.start(), "", 0, None
        self.send, self.log_tail = self.engine.send, self.engine.log_tail

    exit_code = None

    def receive(self):
        event = self.engine.receive()
        if isinstance(event, protocol.Stats):
            self.stats = event
        if isinstance(event, protocol.Delta) and self.text:
            end = self.place + 4 * len(event.tokens)
            text, self.place = self.text[self.place : end], end
            return protocol.Delta(
                id=event.id,
                channel="answer",
                text=text,
                tokens=event.tokens,
                seconds=event.seconds,
            )
        return event

    def close(self):
        self.engine.close()


def synthesize(folder):
    """A Llama that knows nothing and speaks the guide's tokens."""
    guide = resolve(None, None, True)
    folder.mkdir()
    vocab = json.loads((guide / "config.json").read_text())["vocab_size"]
    synthetic.write({**SHAPE, "vocab_size": vocab}, folder, Recipe())
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(guide / name, folder)
    return folder


async def idle(app):
    """Wait until nothing is asked of the engine."""
    while not (app.session.ready and app.check_action("send", ())):
        await asyncio.sleep(0.02)


async def lags(found, done):
    """How late this is woken up, again and again."""
    while not done.is_set():
        began, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(0.005)
        late = max(time.perf_counter() - began - 0.005, 0.0)
        found.append((late, time.process_time() - used))


async def keys(app, found, done):
    """Type, and wait for each letter to be on the screen."""
    painted = asyncio.Event()
    display = app._display

    def shown(screen, renderable):
        display(screen, renderable)
        painted.set()

    app._display = shown
    while not done.is_set():
        before = app.composer.text
        began, used = time.perf_counter(), time.process_time()
        app.post_message(events.Key("x", "x"))
        while app.composer.text == before and not done.is_set():
            painted.clear()
            await painted.wait()
        found.append((time.perf_counter() - began, time.process_time() - used))
        if len(app.composer.text) > 60:
            app.composer.clear()
        await asyncio.sleep(0.12)


def row(name, values):
    """Median, 95 % and the worst, in milliseconds, of the clock and of the CPU."""
    marks = []
    for column in zip(*values, strict=True):
        ordered = sorted(column)
        marks += [ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100], ordered[-1]]
    return f"{name:20}" + "".join(f"{1000 * mark:9.1f}" for mark in marks)


def chat(engine, load):
    """The app, as the command makes it."""
    history = History.open(Path(os.environ["XDG_DATA_HOME"]) / "history.db")
    return ChatApp(engine, load=load, name="bench", restart=Engine.start, history=history)


async def typing(kinds, tokens):
    """One answer of each kind while somebody types."""
    heads = ("median", "95 %", "worst", "CPU: med.", "95 %", "worst")
    print(f"{'milliseconds':20}" + "".join(f"{head:>9}" for head in heads))
    for kind in kinds:
        app = chat(Script(KINDS[kind](tokens), 100), protocol.Load(path="/script"))
        late, typed, done = [], [], asyncio.Event()
        began, used = time.perf_counter(), time.process_time()
        async with app.run_test(size=SIZE) as pilot:
            await idle(app)
            app.composer.text = "Say it."
            await pilot.press("enter")
            tasks = [asyncio.create_task(lags(late, done))]
            tasks.append(asyncio.create_task(keys(app, typed, done)))
            await idle(app)
            await asyncio.sleep(1.0)  # what is drawn at the end counts too
            done.set()
            for task in tasks:
                task.cancel()
        share = (time.process_time() - used) / (time.perf_counter() - began)
        print(f"{kind}: {share:.0%} of one core")
        print(row(f"{kind} {tokens}, loop", late))
        print(row(f"{kind} {tokens}, keys", typed), flush=True)


def silent(engine, question, tokens):
    """Tokens a second with nobody who draws."""
    engine.send(protocol.Generate(id=999, messages=question, max_tokens=tokens))
    while not isinstance(engine.receive(), protocol.Finish):
        pass
    return (engine.stats.tokens - 1) / engine.stats.decode_seconds


async def decode(folder, kinds, tokens, rounds):
    """The engine's pace with and without the chat."""
    load = protocol.Load(path=str(folder))
    alone, seen = Dubbed(), Dubbed()
    question = [{"role": "user", "content": "Say it."}]
    alone.send(load)
    while not isinstance(alone.receive(), protocol.Memory):
        pass
    app = chat(seen, load)
    app.session.sampling = type(app.session.sampling)(max_tokens=tokens)
    async with app.run_test(size=SIZE) as pilot:
        await idle(app)
        silent(alone, question, tokens)
        print(f"{'tokens a second':16}{'alone':>9}{'chat':>9}{'ratio':>9}")
        for kind in kinds:
            pairs = []
            for _ in range(rounds):
                quiet = await asyncio.to_thread(silent, alone, question, tokens)
                seen.text, seen.place = KINDS[kind](tokens), 0
                await app.action_new()
                app.composer.text = "Say it."
                await pilot.press("enter")
                await idle(app)
                drawn = (seen.stats.tokens - 1) / seen.stats.decode_seconds
                pairs.append((quiet, drawn))
                await asyncio.sleep(0.5)
            ratio = statistics.median(drawn / quiet for quiet, drawn in pairs)
            quiet, drawn = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{kind:16}{quiet:9.1f}{drawn:9.1f}{ratio:9.3f}", flush=True)
    alone.close()
    seen.close()


def main():
    """Read the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["typing", "decode"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--kinds", default="prose,code,list,table")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    with tempfile.TemporaryDirectory() as made:
        for name in ("DATA", "CONFIG"):  # where kernels are kept stays as it is
            os.environ[f"XDG_{name}_HOME"] = made
        if given.what == "typing":
            asyncio.run(typing(kinds, given.tokens or 1000))
        else:
            folder = given.folder or synthesize(Path(made, "model"))
            asyncio.run(decode(folder, kinds, given.tokens or 300, given.rounds))


if __name__ == "__main__":
    main()
