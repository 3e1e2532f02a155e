"""`mlxarch run`: one answer, for pipes and scripts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..sampling import Sampling
from . import kinds, options

if TYPE_CHECKING:
    from ..printed import Think


@click.command(short_help="Print one answer; reads a pipe, writes a pipe.")
@click.argument("model", required=False)
@click.option(
    "-p",
    "--prompt",
    metavar="TEXT",
    type=kinds.Text(),
    help="What to ask; needed unless input is piped.",
)
@click.option(
    "--system",
    metavar="TEXT",
    type=kinds.Text(),
    help="What the model is told before the prompt.",
)
@click.option(
    "-f",
    "--file",
    "files",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A text file to append to the prompt, with its name, or a picture to show a model that "
    "sees; may be given several times.",
)
@click.option(
    "--think",
    type=click.Choice(["hide", "show", "only"]),
    help="Whether the model's thoughts are printed: not at all, before the answer and between "
    "lines <think> and </think>, or alone.  [default: hide; with --json: show]",
)
@click.option(
    "--schema",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A JSON schema that the answer has to satisfy, and will: JSON on one line. Needs `pip "
    "install 'mlxarch[schema]'`.",
)
@options.sampling
@options.memory
@options.wired
@options.draft
@options.kv_bits
@options.revision
@options.offline
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; see above.")
@click.option(
    "--logprobs", is_flag=True, help="With --json: each token's natural log-probability as well."
)
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    prompt: str | None,
    system: str | None,
    files: tuple[Path, ...],
    think: "Think | None",
    schema: Path | None,
    sampling: Sampling,
    memory: int | None,
    wired: int | None,
    draft: str | None,
    kv_bits: int | None,
    as_json: bool,
    logprobs: bool,
    revision: str | None,
    offline: bool,
) -> None:
    """Print MODEL's answer to TEXT; without MODEL, the built-in guide's.

    Files and then what is piped in are appended to TEXT, each after a blank line. Only the answer
    goes to stdout, as it comes; thinking is left out. Ctrl-C stops it and keeps what is there (exit
    code 130). With the model on this machine, nothing needs or asks a network.

    \b
    With --json there is one line for each token, thinking included,
      {"token": 42, "text": "Hi", "channel": "answer", "seconds": 0.031}
    where seconds are those since the token before it, or since the prompt was
    read, and text is empty while a character is incomplete (and "logprob" with
    --logprobs); then one last line,
      {"type": "finish", "reason": "stop", "prompt_tokens": 12, "tokens": 80, ...}
    whose reason is stop, length, context, memory or cancelled.

    \b
    Examples:
      mlxarch run -p "How do I convert a model?"
      git diff | mlxarch run Nanbeige/Nanbeige4.1-3B -p "Write a commit message."
      mlxarch run Qwen/Qwen3.5-4B -p "What is wrong here?" -f main.c -f main.h
      mlxarch run Qwen/Qwen3.5-4B -p "What does this sign say?" -f sign.jpg
      mlxarch run Qwen/Qwen3.5-4B -f letter.txt --schema address.json | jq .city
      mlxarch run Qwen/Qwen3.5-4B --kv-bits 8 -p "Sum up this book." < book.txt
    """
    code = answer(
        model=model,
        prompt=prompt,
        system=system,
        files=files,
        think=think,
        schema=schema,
        sampling=sampling,
        memory=memory,
        wired=wired,
        draft=draft,
        kv_bits=kv_bits,
        as_json=as_json,
        logprobs=logprobs,
        revision=revision,
        offline=offline,
    )
    if code:
        ctx.exit(code)


def answer(
    *,
    model: str | None,
    system: str | None,
    sampling: Sampling,
    memory: int | None,
    wired: int | None,
    draft: str | None,
    kv_bits: int | None,
    revision: str | None,
    offline: bool,
    prompt: str | None = None,
    files: tuple[Path, ...] = (),
    think: "Think | None" = None,
    schema: Path | None = None,
    as_json: bool = False,
    logprobs: bool = False,
) -> int:
    """Print one answer, as the command of these options does; the exit code.

    Raises: click.UsageError if there is nothing to answer; MlxarchError.
    """
    import sys
    from dataclasses import asdict

    from ..attachment import attached, check_picture, is_picture, read
    from ..engine.client import Engine
    from ..engine.protocol import INTERVAL, Generate, Load
    from ..model import resolve, resolve_draft
    from ..printed import Lines, Text
    from ..run import ask, check_whole, read_schema

    if logprobs and not as_json:
        raise click.UsageError("--logprobs is for --json, which has a line for each token; add it.")
    if schema is not None and sampling.stop:
        raise click.UsageError("--stop could cut the JSON of --schema short; give one of them.")
    piped = sys.stdin is not None and not sys.stdin.isatty()
    if prompt is None and not files and not piped:
        raise click.UsageError("There is nothing to answer; give -p TEXT, or pipe something in.")
    texts = [attached(file) for file in files if not is_picture(file)]
    shown = [file for file in files if is_picture(file)]
    for file in shown:
        check_picture(file)
    pictures = [{"type": "image", "path": str(file)} for file in shown]
    wanted = None if schema is None else read_schema(schema)
    # The engine takes seconds to come up: let it, while the rest is found out.
    with Engine.start() as engine:
        piped_in = read(sys.stdin.buffer, "What is piped in") if piped else b""
        given = piped_in.decode(errors="replace").rstrip("\n")
        question = "\n\n".join(part for part in (prompt, *texts, given) if part and part.strip())
        if not question and not pictures:
            raise click.UsageError(
                "The prompt is empty; give `mlxarch run` -p TEXT, or pipe something in."
            )
        messages = [{"role": "system", "content": system}] if system else []
        content = [*pictures, {"type": "text", "text": question}] if pictures else question
        request = Generate(
            id=1,
            messages=[*messages, {"role": "user", "content": content}],
            schema=wanted,
            logprobs=logprobs,
            interval=0.0 if as_json else INTERVAL,
            **asdict(sampling),
        )
        folder = resolve(model, revision, offline)
        show = (
            Lines(sys.stdout, sys.stderr, think or "show")
            if as_json
            else Text(sys.stdout, sys.stderr, think or "hide")
        )
        reason = ask(
            engine,
            Load(
                path=str(folder),
                draft=resolve_draft(draft, offline),
                kv_bits=kv_bits,
                memory=memory,
                wired=wired,
            ),
            request,
            show,
        )
        sys.stdout.flush()
        if schema is not None:
            check_whole(reason)
    return 130 if reason == "cancelled" else 0
