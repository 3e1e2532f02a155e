"""The command line: `mlxarch`, and a file in commands/ for each command."""

import errno
import os
import sys
from importlib import import_module
from io import TextIOWrapper

import click

from mlxarch import MlxarchError, __version__

from .terminal import is_dumb

_FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a person's share of it
_COMMANDS = (
    "chat",
    "run",
    "serve",
    "history",
    "bench",
    "convert",
    "quantize",
    "verify",
    "fit",
    "show",
    "compare",
    "models",
    "upload",
)


class _Commands(click.Group):
    """Imports a command when it is asked for, and turns known errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return import_module(f"mlxarch.app.commands.{cmd_name}").command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MlxarchError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # Who reads has read enough.
            _drop_output()
            ctx.exit(0)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="MODEL is a local folder or a repository such as Nanbeige/Nanbeige4.1-3B. Without one, "
    "chat, run, serve and bench use the small guide that comes with mlxarch and knows how to use "
    "it, and fit tells of all models.",
)
@click.version_option(__version__, "-V", "--version", prog_name="mlxarch")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run the open-weight language models of early 2026 on this machine.

    With no command: a chat with the built-in guide.
    """
    if is_dumb():
        ctx.color = False
    if ctx.invoked_subcommand is None:
        command = ctx.command
        assert isinstance(command, click.Group)
        chat = command.get_command(ctx, "chat")
        assert chat is not None
        ctx.invoke(chat)


def main() -> None:
    """The entry point; Ctrl-C ends with exit code 130."""
    _open_streams()
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        click.echo(f"Not all could be written: {error.strerror}.", err=True)
        sys.exit(4)


def _open_streams() -> None:
    """Closed ones lead nowhere, what an encoding has no letter for is a question mark in it.

    Else the next file that is opened took the place of what was closed.
    """
    for number, mode in enumerate(("r", "w", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            stream = open(opened, mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Nobody will want what is left in stdout when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
