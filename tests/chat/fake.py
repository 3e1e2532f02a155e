"""A scripted engine: it answers each `Generate` with the next list of steps.

A step is an event without its id, made by one of the functions below, or `GATE`, where the script
waits until the test calls `open()`. Nothing sleeps and nothing is timed: seconds are what the
script says.
"""

from collections import deque
from queue import SimpleQueue

from mlxarch.app.engine import protocol

GATE = "gate"

READY = protocol.Ready(
    name="Nanbeige4.1-3B",
    architecture="Nanbeige 4.1 3B",
    parameters=3_930_000_000,
    bytes=7_870_000_000,
    context=262_144,
    device="CPU",
    seconds=3.2,
)
MEMORY = protocol.Memory(
    weights=7_870_000_000,
    cache=120_000_000,
    active=7_990_000_000,
    peak=8_300_000_000,
    process=8_100_000_000,
    limit=13_300_000_000,
)


def reads(done, total, cached=0):
    """The prompt is being read."""
    return lambda id: protocol.Prefill(id=id, done=done, total=total, cached=cached)


def says(text, *milliseconds, channel="answer", **more):
    """One delta: its tokens take `milliseconds`; without them, 20 for each word."""
    times = milliseconds or (20,) * max(len(text.split()), 1)
    seconds = [ms / 1000 for ms in times]
    tokens = list(range(len(seconds)))
    return lambda id: protocol.Delta(
        id=id, channel=channel, text=text, tokens=tokens, seconds=seconds, **more
    )


def thinks(text, *milliseconds):
    """A delta of the thinking channel."""
    return says(text, *milliseconds, channel="thinking")


def costs(prompt=24, cached=0, prefill=0.31, first=0.33, tokens=40, decode=0.8, guessed=(0, 0)):
    """The figures of the answer."""
    return lambda id: protocol.Stats(
        id=id,
        prompt_tokens=prompt,
        cached_tokens=cached,
        prefill_seconds=prefill,
        first_token_seconds=first,
        tokens=tokens,
        decode_seconds=decode,
        guessed_tokens=sum(guessed),
        right_tokens=guessed[0],
    )


def fails(message, kind="DoesNotFit", fatal=False):
    """The command fails."""
    return lambda id: protocol.Error(id=id, kind=kind, message=message, fatal=fatal)


def ends(reason="stop"):
    """The answer is over."""
    return lambda id: protocol.Finish(id=id, reason=reason)


def answers(text):
    """A whole answer."""
    return [reads(0, 24), reads(24, 24), says(text), costs(), ends()]


class FakeEngine:
    """Speaks the engine's protocol from a script."""

    def __init__(self, *scripts, load=(READY, MEMORY)):
        self.scripts, self.load = deque(scripts), load
        self.sent, self.exit_code, self.closed = [], None, False
        self._log, self._events = "", SimpleQueue()
        self._id, self._steps, self._waits = None, deque(), False

    def send(self, command):
        self.sent.append(command)
        if isinstance(command, protocol.Load):
            self.tell(*self.load)
        elif isinstance(command, protocol.Generate):
            self._id, self._steps = command.id, deque(self.scripts.popleft())
            self.open()
        elif isinstance(command, protocol.Stop) and self._waits:
            self._steps = deque([costs(), ends("cancelled")])
            self.open()

    def open(self):
        """Go on to the next gate, or to the end."""
        self._waits = False
        while self._steps and not self._waits:
            step = self._steps.popleft()
            if step == GATE:
                self._waits = True
            else:
                self.tell(step(self._id))

    def tell(self, *events):
        """Say something unasked."""
        for event in events:
            self._events.put(event)

    def receive(self):
        event = self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    def die(self, exit_code, log=""):
        """The process is gone."""
        self.exit_code, self._log = exit_code, log
        self._events.put(None)

    def log_tail(self):
        return self._log

    def close(self):
        self.closed = True
        self._events.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def of(self, kind):
        """The commands of one kind that were sent."""
        return [command for command in self.sent if isinstance(command, kind)]
