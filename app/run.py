"""One answer of an engine, for `mlxarch run`: asked for, held against what was asked, stopped."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click

from mlxarch.errors import FormatError, MlxarchError

from .engine.client import Engine
from .engine.parts import parted
from .engine.protocol import (
    Error,
    Event,
    Finish,
    Generate,
    Load,
    Ready,
    Reason,
    Stop,
)
from .printed import CUT


class Show(Protocol):
    """Where the events of an answer go."""

    def take(self, event: Event) -> None:
        """Show an event, as far as it is worth showing."""

    def end(self) -> None:
        """Leave things tidy, also after a failure."""


def ask(engine: Engine, load: Load, request: Generate, show: Show) -> Reason:
    """Load a model, have a request answered and shown; why the answer ended.

    While the answer comes, Ctrl-C asks the engine to stop; a second one interrupts.

    Raises: MlxarchError for what the engine could not do, or if it died; click.UsageError for what
        the model does not know.
    """
    engine.send(load)
    before = signal.getsignal(signal.SIGINT)
    try:
        while (event := engine.receive()) is not None:
            if isinstance(event, Error):
                raise _exception(event)
            show.take(event)
            if isinstance(event, Ready):
                check_switches(event, request.switches)
                check_pictures(event, request)
                engine.send(request)
                _stop_on_sigint(engine, request.id)
            elif isinstance(event, Finish):
                return event.reason
    finally:
        signal.signal(signal.SIGINT, before)
        show.end()
    words = engine.log_tail().splitlines() or ["it logged nothing"]
    raise MlxarchError(
        f"The engine died with exit code {engine.exit_code}: {words[-1].rstrip('.')}."
    )


def read_schema(file: Path) -> dict[str, Any]:
    """The JSON schema in a file.

    Raises: FormatError if it is none, or cannot be followed; MlxarchError without llguidance.
    """
    from mlxarch.constrain import grammar

    try:
        schema = json.loads(file.read_bytes())
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise FormatError(f"{file} is not JSON: {error}.") from error
    except RecursionError as error:
        raise FormatError(f"{file} is nested too deeply; a schema can be flatter.") from error
    if not isinstance(schema, dict):
        raise FormatError(f"{file} holds {json.dumps(schema)[:40]}; a schema is a JSON object.")
    grammar(schema)
    return schema


def check_whole(reason: Reason) -> None:
    """Refuse an answer that had to satisfy a schema and ended before it did.

    Raises: FormatError.
    """
    if reason in CUT:
        raise FormatError(f"The JSON is not complete: {CUT[reason]}; do not use it.")


def check_switches(ready: Ready, switches: Mapping[str, Any]) -> None:
    """Hold what a chat template is to be told against what a model's template reads.

    Raises: click.UsageError for a name or a value that it does not know; those are listed.
    """
    known = {switch["name"]: switch["values"] for switch in ready.switches}
    for name, value in switches.items():
        if name not in known:
            there = "; ".join(f"{each}: {_choices(known[each])}" for each in known)
            raise click.UsageError(
                f"{ready.name} has no switch {name!r}; "
                + (f"there is {there}." if there else "its chat template has none at all.")
            )
        if value not in known[name]:
            raise click.UsageError(
                f"--switch {name} of {ready.name} is {_choices(known[name])}; found is "
                f"{json.dumps(value, ensure_ascii=False)}."
            )


def check_pictures(ready: Ready, request: Generate) -> None:
    """Refuse pictures for a model that does not see.

    Raises: FormatError.
    """
    _, files = parted(request.messages)
    if files and not ready.images:
        raise FormatError(f"{files[0][0]} is a picture. {ready.blind}".strip())


def _choices(values: list[Any]) -> str:
    return " or ".join(v if isinstance(v, str) else json.dumps(v) for v in values)


def _stop_on_sigint(engine: Engine, answer: int) -> None:
    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        engine.send(Stop(id=answer))

    signal.signal(signal.SIGINT, stop)


def _exception(error: Error) -> MlxarchError:
    """The engine's error as an exception of this process."""
    kinds = {kind.__name__: kind for kind in MlxarchError.__subclasses__()}
    if error.kind in kinds:
        return kinds[error.kind](error.message)
    return MlxarchError(f"{error.kind}: {error.message}")
