"""What the chat costs the engine, and how soon a key is on the screen.

    python tests/benchmarks/chat.py [FOLDER] [--kinds prose,code,list] [--rounds 5] [--tokens 2400]

`mlxarch chat` runs in a pseudo-terminal of 120x40, with a real engine and a model that computes
every token; only the text of its answers is ours (see dubbed.py). Without a folder, the model has
random weights and never stops by itself: `--slow` takes one with ten times as many.

Decoding: in the same engine, the loop of `mlxarch bench` and an answer, of which every other turn
of 1.5 seconds is shown and of the rest nobody is told. So a machine that is slow for some seconds
is so for both. Printed are medians of tokens a second, the median ratio of what nobody is told of
to the same tokens of `mlxarch bench` in the same round, that of what is shown to the turns before
and after it, how far each may be from that of endless rounds (one standard error), their product,
and the CPU that the app took.

Typing: a letter about eight times a second while an answer of code streams, and while nothing
happens. Printed is the time, in milliseconds, from the letter's way into the pseudo-terminal until
it comes back out of it, and of how many letters that is more than 50.
"""

import argparse
import contextlib
import fcntl
import json
import math
import os
import pty
import random
import select
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from itertools import pairwise
from pathlib import Path

import psutil
from dubbed import RESULTS, TURN

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
SLOW = {"hidden_size": 1536, "intermediate_size": 4608, "num_hidden_layers": 16}
LETTERS = "αβγδεζηθικλμνξοπρστυ"  # nothing else on the screen has them
PAUSE = 0.12  # seconds between two keys, about
SLOWEST = 0.05  # seconds that a key may take
NEW, ERASE, QUIT = "\x0e", "\x15", "\x11"


class Terminal:
    """The chat in a pseudo-terminal, of which nothing is drawn."""

    def __init__(self, folder, results):
        self.results = open(results, "rb", buffering=0)  # noqa: SIM115
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            script = str(Path(__file__).with_name("dubbed.py"))
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, script, "chat", str(folder)])
        columns, lines = SIZE
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.app = psutil.Process(self.pid)

    def type(self, text):
        os.write(self.fd, text.encode())

    def drawn(self, seconds):
        """What comes within some seconds, if anything does."""
        return os.read(self.fd, 1 << 16) if select.select([self.fd], [], [], seconds)[0] else b""

    def rest(self, seconds):
        """Let some time go by."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.drawn(left)

    def measured(self):
        """What the engine has measured since the last time, or None."""
        line = self.results.readline()
        return json.loads(line) if line else None

    def result(self):
        """Wait for it."""
        while not (found := self.measured()):
            self.drawn(0.05)
        return found

    def ask(self, question):
        """A question in a new conversation."""
        self.type(NEW)
        self.rest(0.3)
        self.type(question)
        self.rest(0.3)
        self.type("\r")

    def run(self, question):
        """Ask; what was measured, and the share of a core that the app took."""
        self.ask(question)
        began, used = time.monotonic(), self._used()
        found = self.result()
        share = (self._used() - used) / (time.monotonic() - began)
        self.rest(1.0)
        return found, share

    def _used(self):
        times = self.app.cpu_times()
        return times.user + times.system

    def keys(self, enough):
        """Type until `enough()`; seconds until each letter was back."""
        found, done = [], False
        while not done:
            for letter in LETTERS:
                began, seen = time.perf_counter(), b""
                self.type(letter)
                while letter.encode() not in seen:
                    seen += self.drawn(5.0)
                found.append(time.perf_counter() - began)
                self.rest(PAUSE * random.uniform(0.5, 1.5))
                if done := bool(enough()):
                    break
            self.type(ERASE)
            self.rest(0.2)
        return found

    def close(self):
        self.type(QUIT)
        with contextlib.suppress(OSError):  # it is gone
            self.rest(1.0)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def synthesize(folder, slow):
    """A Llama that knows nothing and speaks the guide's tokens."""
    guide = resolve(None, None, True)
    folder.mkdir()
    vocab = json.loads((guide / "config.json").read_text())["vocab_size"]
    shape = {**SHAPE, **(SLOW if slow else {}), "vocab_size": vocab}
    synthetic.write(shape, folder, Recipe())
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(guide / name, folder)
    return folder


def decode(terminal, kinds, tokens, rounds):
    """The engine's pace with and without the chat."""
    heads = ("bench", "untold", "shown", "untold", "+-", "shown", "+-", "both", "app CPU")
    print(f"{'tokens a second':16}" + "".join(f"{head:>9}" for head in heads))
    terminal.run("bench 300")
    for kind in kinds:
        rates, engines, apps, shares = {"bench": [], False: [], True: []}, [], [], []
        for number in range(rounds):
            asked = [f"bench {tokens}", f"turns {kind} {tokens}"]
            found = {each: terminal.run(each) for each in asked[:: 1 if number % 2 else -1]}
            (bench, _), (turns, share) = (found[each] for each in asked)
            paces = paces_of(turns["marks"], bench["seconds"])
            rates["bench"].append(bench["rate"])
            for turn, (rate, usual) in paces.items():
                rates[turn % 2 == 0].append(rate)
                if turn % 2:
                    engines.append(rate / usual)
                elif turn - 1 in paces and turn + 1 in paces:
                    apps.append(2 * rate / (paces[turn - 1][0] + paces[turn + 1][0]))
            shares.append(share)
        engine, app = typical(engines), typical(apps)
        cells = [f"{statistics.median(each):9.1f}" for each in rates.values()]
        cells += [f"{part:9.3f}" for part in (*engine, *app, engine[0] * app[0])]
        print(f"{kind:16}" + "".join(cells) + f"{statistics.median(shares):9.1%}", flush=True)


def paces_of(marks, seconds):
    """Of each turn, the tokens a second, and those of the same tokens in `mlxarch bench`.

    Args:
        marks: When tokens came, and how many at once.
        seconds: What each token took there.

    A turn's beginning, when what was before is drawn, does not count.
    """
    sums, first = {}, marks[0][1]
    for (before, _), (now, count) in pairwise(marks):
        turn = int(now // TURN)
        if before - turn * TURN > TURN / 4:
            tokens, ours, theirs = sums.get(turn, (0, 0.0, 0.0))
            usual = sum(seconds[first : first + count])
            sums[turn] = tokens + count, ours + now - before, theirs + usual
        first += count
    # The last tokens that are told of may be few.
    whole = {turn: each for turn, each in sums.items() if each[1] > TURN / 2}
    return {turn: (n / ours, n / theirs) for turn, (n, ours, theirs) in whole.items()}


def typical(values):
    """A median and its standard error, from the quartiles: a few rounds may be far off."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, 0.93 * (high - low) / math.sqrt(len(values))


def typing(terminal, tokens, rounds):
    """Letters, while a block of code streams and while it does not."""
    end = time.monotonic() + 10
    quiet = terminal.keys(lambda: time.monotonic() > end)
    busy = []
    for _ in range(rounds):
        terminal.ask(f"code {tokens}")
        busy += terminal.keys(terminal.measured)
        terminal.rest(2.0)
    print(
        f"{'milliseconds':24}"
        + "".join(f"{head:>9}" for head in ("keys", "median", "95 %", "99 %", "worst", "over 50"))
    )
    for name, values in (("at rest", quiet), (f"code of {tokens:,} tokens", busy)):
        ordered = sorted(values)
        marks = [ordered[len(ordered) * share // 100] for share in (50, 95, 99)] + ordered[-1:]
        cells = "".join(f"{1000 * mark:9.1f}" for mark in marks)
        slow = sum(value > SLOWEST for value in values)
        print(f"{name:24}{len(ordered):9}{cells}{slow:9}")


def main():
    """Read the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--kinds", default="prose,code,list")
    parser.add_argument("--tokens", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--typed", type=int, default=4000)
    parser.add_argument("--only", choices=["decode", "typing"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        for name in ("DATA", "CONFIG"):  # where kernels are kept stays as it is
            os.environ[f"XDG_{name}_HOME"] = made
        results = Path(made, "results")
        results.touch()
        os.environ[RESULTS] = str(results)
        folder = given.folder or synthesize(Path(made, "model"), given.slow)
        terminal = Terminal(folder, results)
        terminal.result()  # the model is loaded
        terminal.rest(2.0)
        try:
            if given.only != "typing":
                decode(terminal, given.kinds.split(","), given.tokens, given.rounds)
            if given.only != "decode":
                typing(terminal, given.typed, max(1, given.rounds // 3))
        finally:
            terminal.close()


if __name__ == "__main__":
    main()
