"""An answer on stdout, as text or as lines of JSON; what else there is to say, on stderr."""

import json
from dataclasses import asdict
from typing import Literal, TextIO

import click

from .chat.transcript import plain
from .engine.protocol import Delta, Event, Finish, Loading, Prefill, Ready, Reason, Stats, ToolCall
from .terminal import is_dumb

Think = Literal["hide", "show", "only"]
# Endings that leave an answer incomplete, in words.
CUT = {
    "length": "cut at --max-tokens",
    "context": "the context is full",
    "memory": "stopped short of the memory limit",
}
_CHANNELS = {"hide": ("answer",), "show": ("thinking", "answer"), "only": ("thinking",)}


class Text:
    """The answer as plain text, ended by one newline; figures for a person who watches.

    Thinking, where it is shown beside the answer, stands between lines <think> and </think>.
    """

    def __init__(self, out: TextIO, talk: TextIO, think: Think = "hide"):
        self._out, self._think = out, think
        # A terminal that cannot replace a line is told the figures alone.
        self._remarks, self._talk = talk, talk if talk.isatty() else None
        self._replaces = not is_dumb()
        self._newlines = ""  # held back: the last ones are not the answer's
        self._inside = False  # the lines of thinking
        self._thought = 0  # tokens
        self._begun = False
        self._stats: Stats | None = None
        self._reason: Reason | None = None
        self._remark = ""
        self._status("Starting")

    def take(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Loading):
            self._status(event.remark or f"Loading, {event.done / max(event.total, 1):.0%}")
        elif isinstance(event, Ready):
            self._ready(event)
        elif isinstance(event, Prefill):
            self._status(
                f"Reading the prompt, {event.done:,} of {event.total:,} tokens"
                if event.looked is None
                else f"Looking at a picture, {event.looked:.0%}"
            )
        elif isinstance(event, Delta):
            self._delta(event)
        elif isinstance(event, ToolCall) and self._think != "only":
            call = {"name": event.name, "arguments": event.arguments}
            self._section("<tool_call>", json.dumps(call, ensure_ascii=False), "</tool_call>")
        elif isinstance(event, Stats):
            self._stats = event
        elif isinstance(event, Finish):
            self._reason, self._remark = event.reason, event.remark

    def end(self) -> None:
        """Complete the line, and sum up what ended well."""
        self._status("")
        if self._inside:
            self._close()
        if self._begun or self._reason:
            self._out.write("\n")
            self._out.flush()
        if self._remark:
            self._remarks.write(f"{self._remark}\n")
        if self._talk is not None and self._stats is not None:
            self._talk.write(f"{_summary(self._stats, self._reason)}\n")

    def _ready(self, ready: Ready) -> None:
        _check_thinks(ready, self._think)
        if ready.remark:
            self._status("")
            self._remarks.write(f"{ready.remark}\n")

    def _delta(self, delta: Delta) -> None:
        thinking = delta.channel == "thinking"
        if delta.channel not in _CHANNELS[self._think]:
            self._thought += len(delta.tokens) if thinking else 0
            self._status(f"Thinking, {self._thought:,} tokens" if thinking else "Answering")
            return
        # Blank lines before the first word are the marker's.
        text = delta.text if self._begun else delta.text.lstrip("\n")
        if self._think == "show" and text and thinking != self._inside:
            change = self._open if thinking else self._close
            change()
        self._write(text)

    def _open(self) -> None:
        self._write("\n<think>\n" if self._begun else "<think>\n")
        self._inside = True

    def _close(self) -> None:
        """End the lines of thinking, and leave one blank."""
        self._newlines, self._inside = "\n", False
        self._write("</think>\n\n")

    def _section(self, head: str, text: str, tail: str) -> None:
        """Lines that stand by themselves."""
        if self._begun:
            self._newlines = "\n"
        self._write(f"{head}\n{text}\n{tail}\n")

    def _write(self, text: str) -> None:
        if shown := (self._newlines + text).rstrip("\n"):
            self._status("")
            self._begun = True
            # A terminal would obey what a pipe only hands on.
            self._out.write(plain(shown) if self._out.isatty() else shown)
            self._out.flush()
        self._newlines = (self._newlines + text)[len(shown) :]

    def _status(self, text: str) -> None:
        """A line that the next one replaces, until the answer begins."""
        if self._talk is not None and self._replaces and not self._begun:
            self._talk.write(f"\r\x1b[K{text}")
            self._talk.flush()


def _check_thinks(ready: Ready, think: Think) -> None:
    if think == "only" and not ready.thinks:
        raise click.UsageError(
            f"{ready.name} does not think before it answers, so --think only would show nothing; "
            "leave it out."
        )


def _summary(stats: Stats, reason: Reason | None) -> str:
    parts = [f"{stats.tokens:,} tokens"]
    if stats.decode_seconds > 0:
        parts.append(f"{(stats.tokens - 1) / stats.decode_seconds:.1f} tokens/s")
    if stats.guessed_tokens:
        parts.append(f"{stats.right_tokens:,} of {stats.guessed_tokens:,} guesses right")
    if stats.tokens:
        parts.append(f"first token after {stats.first_token_seconds:.2f} s")
    if reason in CUT:
        parts.append(CUT[reason])
    return ", ".join(parts)


class Lines:
    """Each token as a line of JSON, then the figures."""

    def __init__(self, out: TextIO, talk: TextIO, think: Think = "show"):
        self._out, self._remarks, self._think = out, talk, think
        self._stats: Stats | None = None

    def take(self, event: Event) -> None:
        """Show an event; a delta holds one token at an interval of 0."""
        if isinstance(event, Ready):
            _check_thinks(event, self._think)
            if event.remark:
                self._remarks.write(f"{event.remark}\n")
        elif isinstance(event, ToolCall) and self._think != "only":
            self._write(type="tool_call", name=event.name, arguments=event.arguments)
        elif isinstance(event, Delta) and event.channel in _CHANNELS[self._think]:
            # Text without a token was held back for one that never came.
            token = event.tokens[0] if event.tokens else None
            seconds = sum(event.seconds)
            known = {"logprob": sum(event.logprobs)} if event.logprobs else {}
            self._write(
                token=token, text=event.text, channel=event.channel, seconds=seconds, **known
            )
        elif isinstance(event, Stats):
            self._stats = event
        elif isinstance(event, Finish):
            figures = asdict(self._stats) if self._stats else {}
            figures.pop("id", None)
            self._write(type="finish", reason=event.reason, **figures)
            if event.remark:
                self._remarks.write(f"{event.remark}\n")

    def end(self) -> None:
        """Every line is complete."""

    def _write(self, **line: object) -> None:
        self._out.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._out.flush()
