"""`mlxarch chat`: the terminal chat."""

from __future__ import annotations

import codecs
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from time import sleep, time
from typing import TYPE_CHECKING, NoReturn

import click

from ..chat.actions import SUBJECTS
from ..sampling import Sampling
from ..terminal import is_dumb
from . import kinds, options, run

if TYPE_CHECKING:
    from ..chat.app import ChatApp
    from ..history import Conversation, History

_PATIENCE = 2.0  # seconds that a chat may take to end once its terminal is gone
_TURN = 0.0005  # seconds that a key waits for a thread that parses a long text, at each step
_PICTURES = 120  # a second at most: up to two of these periods go by from one to the next


class _Chat(click.Command):
    """Its help ends with what can be done in the chat."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for subject, actions in SUBJECTS.items():
            with formatter.section(f"In the chat: {subject}"):
                formatter.write_dl([(action.summons, action.help) for action in actions])


@click.command(cls=_Chat, short_help="Chat in the terminal, and see the speed of each token.")
@click.argument("model", required=False)
@click.option("--continue", "-c", "last", is_flag=True, help="Go on with the last conversation.")
@click.option(
    "--resume",
    metavar="ID",
    help="Go on with a conversation, with its model unless MODEL is given; `mlxarch history` and "
    "Ctrl+O in the chat list them.",
)
@click.option(
    "--system",
    metavar="TEXT",
    type=kinds.Text(),
    help="What the model is told before the conversation.",
)
@click.option(
    "--persona",
    metavar="NAME",
    help="Who the model is asked to be: terse, teacher, reviewer, translator, or one of those in "
    "your config.toml.",
)
@click.option(
    "--inline",
    is_flag=True,
    help="Draw below the prompt, not over the whole terminal; what was said stays there at the "
    "end, to be scrolled up to.",
)
@options.sampling
@options.memory
@options.wired
@options.draft
@options.kv_bits
@options.keep_prompts
@options.revision
@options.offline
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    last: bool,
    resume: str | None,
    system: str | None,
    persona: str | None,
    inline: bool,
    sampling: Sampling,
    memory: int | None,
    wired: int | None,
    draft: str | None,
    kv_bits: int | None,
    keep_prompts: int | None,
    revision: str | None,
    offline: bool,
) -> None:
    """Chat with MODEL in the terminal; without MODEL, with the built-in guide.

    The speed of every token is shown as it comes. Enter sends, Ctrl+J begins a new line, Esc stops
    the answer, F1 shows all keys, Ctrl+Q ends the chat.

    Where nothing can be drawn, in a pipe, with TERM=dumb or without UTF-8, it is `mlxarch run`:
    what is piped in, or the one question that is asked for, is answered on stdout.
    """
    from ..settings import Settings, merged

    settings = Settings()
    if persona is not None:
        if system is not None:
            raise click.UsageError("--persona has a system prompt of its own; leave --system out.")
        if persona not in settings.personas:
            known = ", ".join(settings.personas)
            raise click.UsageError(f"There is no persona {persona!r}; there are {known}.")
        chosen = settings.personas[persona]
        system = chosen.system
        if chosen.preset:
            sampling = merged(settings.presets[chosen.preset], sampling)
    if not _drawable():
        if last or resume:
            raise click.UsageError("--continue and --resume need a terminal to draw on.")
        prompt = None
        if sys.stdin.isatty():
            click.echo("Nothing can be drawn here: one question, one answer.", err=True)
            if sys.stdout.isatty() and not sys.stderr.isatty():  # it would be asked unseen
                click.echo("Question: ", nl=False)
            prompt = click.prompt("Question", err=True)
        ctx.exit(
            run.answer(
                prompt=prompt,
                model=model,
                system=system,
                sampling=sampling,
                memory=memory,
                wired=wired,
                draft=draft,
                kv_bits=kv_bits,
                revision=revision,
                offline=offline,
            )
        )

    os.environ.setdefault("TEXTUAL_FPS", str(_PICTURES))  # read when it is imported
    from platformdirs import user_cache_path

    from ..chat import garbage
    from ..chat.app import ChatApp
    from ..chat.keeping import open_history
    from ..chat.theme import usual
    from ..engine.client import Engine
    from ..engine.protocol import Load
    from ..history import HistoryError, reading
    from ..model import name, resolve, resolve_draft
    from ..terminal import listening, read_all_keys, when_gone

    if last and resume:
        raise click.UsageError("--continue is the last conversation, --resume another: say which.")
    trouble: list[Callable[[str], object]] = []
    history, note = open_history(
        lambda text: [tell(text) for tell in trouble], partial(click.confirm, err=True)
    )
    began = time()
    # The engine takes seconds to come up: let it, while the rest is found out.
    with closing(history), listening() as typed, Engine.start() as engine:
        if last and (resume := history.last()) is None:
            note = note or "There is no conversation to go on with; this is a new one."
        elif resume:
            resume = history.find(resume)
            before = history.load(resume)
            model = model or _model(before)
        folder = resolve(model, revision, offline)
        app = ChatApp(
            engine,
            load=Load(
                path=str(folder),
                draft=resolve_draft(draft, offline),
                kv_bits=kv_bits,
                memory=memory,
                wired=wired,
                keep=str(user_cache_path("mlxarch") / "prompts") if keep_prompts else None,
                keep_bytes=keep_prompts or 0,
            ),
            name=name(folder),
            guide=model is None,
            restart=Engine.start,
            system=system,
            sampling=sampling,
            settings=settings,
            history=history,
            resume=resume,
            note=note,
            typed=typed,
            usual=usual(),
        )
        trouble.append(lambda text: app.post_message(app.Trouble(text)))
        read_all_keys()
        there = os.isatty(0)
        when_gone(lambda: _abandon(app, history))
        garbage.wait()
        sys.setswitchinterval(_TURN)
        try:
            app.run(inline=inline)
        finally:
            if there and not os.isatty(0):
                _leave(app, history)
            app.session.engine.close()  # another one than above, if that one died
        if inline:
            with suppress(HistoryError):  # it was deleted, in another window
                conversation = history.load(app.session.keeper.session)
                for row in reading.transcript(conversation, since=began):
                    click.echo(row)
    ctx.exit(app.return_code or 0)


def _model(conversation: Conversation) -> str | None:
    """The folder of the model that a conversation was with, if it is still there."""
    path = conversation.settings.get("path", "")
    return path if path and (Path(path) / "config.json").is_file() else None


def _abandon(app: ChatApp, history: History) -> None:
    """Nobody sees the chat any more: end it, by force if it waits for its terminal."""

    def leave() -> None:
        with suppress(RuntimeError):  # it has ended
            app.call_from_thread(app.exit)

    Thread(target=leave, daemon=True).start()
    sleep(_PATIENCE)
    _leave(app, history)


def _leave(app: ChatApp, history: History) -> NoReturn:
    """End without Python's last words: its terminal is gone, and they would be an error."""
    history.close()
    app.session.engine.close()
    os._exit(128 + signal.SIGHUP)


def _drawable() -> bool:
    """Whether there is a terminal that can be drawn on, which is done on stderr."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    there = all(stream.isatty() for stream in streams)
    return there and not is_dumb() and codecs.lookup(sys.stderr.encoding).name == "utf-8"
