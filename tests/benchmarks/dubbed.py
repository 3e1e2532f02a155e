"""The chat with a model whose text is ours, for chat.py.

    python dubbed.py chat FOLDER    `mlxarch chat`, whose engine is the one below
    python dubbed.py engine         the engine

A question says what is wanted, and of how many tokens. "code 300": an answer whose tokens read as
code; "turns code 300": the same, but of every other turn of TURN seconds nobody is told; "bench
300": the loop that `mlxarch bench` times. All else is as a person has it: the real command, the
real engine, and a model that computes each token. What was measured goes to the file that
MLXARCH_MEASURED names, one JSON object a line.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from texts import KINDS, pieces

from mlxarch.app.engine import protocol

RESULTS = "MLXARCH_MEASURED"
TURN = 1.5  # seconds in which all of an answer is shown, or nothing


def note(**measured):
    """Tell who measures."""
    with open(os.environ[RESULTS], "ab", buffering=0) as file:
        file.write(json.dumps(measured).encode() + b"\n")


class Reader:
    """A reader whose tokens bring the next pieces of a text."""

    def __init__(self, reader, text):
        self.reader, self.text = reader, iter(pieces(text))

    channel = "answer"

    def read(self, token):
        self.reader.read(token)
        return self.channel, next(self.text, "")

    def rest(self):
        return ""


class Tokenizer:
    """A tokenizer with such a reader."""

    def __init__(self, tokenizer, text):
        self._tokenizer, self._text = tokenizer, text

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def reader(self, **state):
        return Reader(self._tokenizer.reader(**state), self._text)


def word(answer):
    """Something to show: a question without any answer would be put back into the input."""
    return protocol.Delta(id=answer, channel="answer", text="Done.", tokens=[0], seconds=[0.0])


def engine():
    """Serve; what a `Generate` asks decides what is done."""
    from mlxarch.app.bench.runners import Ours
    from mlxarch.app.engine import answers, server, worker

    def respond(loaded, command, emit, stopped):
        *how, tokens = command.messages[-1]["content"].split()
        command = replace(command, max_tokens=int(tokens))
        if how == ["bench"]:
            prompt = loaded.tokenizer.prompt(command.messages).tokens
            run = Ours("", loaded.model, loaded.tokenizer.stop_ids)
            run = run.run(prompt, command.max_tokens, math.inf)
            emit(word(command.id))
            emit(protocol.Finish(id=command.id, reason="length"))
            note(what="bench", tokens=len(run.seconds), rate=run.decode, seconds=run.seconds)
            return
        text, begun, marks = KINDS[how[-1]](command.max_tokens), time.perf_counter(), []
        loaded = replace(loaded, tokenizer=Tokenizer(loaded.tokenizer, text))

        def tell(event):
            if isinstance(event, protocol.Delta) and how[0] == "turns":
                marks.append((time.perf_counter() - begun, len(event.tokens)))
                if marks[-1][0] // TURN % 2:
                    nowhere.write(protocol.encode(event))
                    return
            emit(event)
            if isinstance(event, protocol.Stats):
                rate = (event.tokens - 1) / event.decode_seconds
                note(what=how[0], tokens=event.tokens, rate=rate, marks=marks)

        answers.respond(loaded, command, tell, stopped)

    class Worker(worker.Worker):
        def handle(self, command):
            super().handle(command)
            if isinstance(command, protocol.Load):
                note(what="ready", tokens=0, rate=0.0)

    nowhere = open(os.devnull, "wb", buffering=0)  # noqa: SIM115
    worker.respond, worker.Worker = respond, Worker
    server.main()


def chat(folder):
    """The command."""
    from mlxarch.app import cli
    from mlxarch.app.engine.client import Engine

    def start(kind):
        log = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        command = [sys.executable, __file__, "engine"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return kind(subprocess.Popen(command, stderr=log, **pipes), log)

    Engine.start = classmethod(start)
    cli.cli(["chat", folder, "--offline"])


if __name__ == "__main__":
    chat(sys.argv[2]) if sys.argv[1] == "chat" else engine()
