"""What `--help` looks like where a terminal is as narrow as most."""

import click
import pytest
from click.testing import CliRunner

from mlxarch.app.cli import cli


def commands(group=cli, words=()):
    """All commands there are, by the words that call them."""
    yield words, group
    if isinstance(group, click.Group):
        with click.Context(group) as context:
            for name in group.list_commands(context):
                yield from commands(group.get_command(context, name), (*words, name))


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_help_is_not_broken_at_80_columns(words):
    shown = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80).stdout
    assert [line for line in shown.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("words", [words for words, _ in commands() if words], ids=" ".join)
def test_how_it_is_printed_is_said_last(words):
    (command,) = [command for each, command in commands() if each == words]
    names = [option.opts[-1] for option in command.params if isinstance(option, click.Option)]
    printed = [name for name in names if name in ("--json", "--logprobs")]
    assert names[len(names) - len(printed) :] == printed
