"""`mlxarch serve`: a model for other programs, behind OpenAI's interface."""

import os
import signal
import sys

import click

from . import options


@click.command(short_help="Serve a model to other programs, as OpenAI does.")
@click.argument("model", required=False)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen; another than this machine needs a key.",
)
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 is any that is free.",
)
@click.option(
    "--key",
    envvar="MLXARCH_KEY",
    help="What requests have to show; better said by the variable MLXARCH_KEY, since who is on "
    "this machine sees its commands.",
)
@options.kv_bits
@options.revision
@options.offline
def command(
    model: str | None,
    host: str,
    port: int,
    key: str | None,
    kv_bits: int | None,
    revision: str | None,
    offline: bool,
) -> None:
    """Serve MODEL to programs that speak OpenAI's language; without MODEL, the built-in guide.

    The address is the one line on stdout, once the model is loaded; what is asked is logged on
    stderr. There are /v1/chat/completions and /v1/completions, streaming or not, with tools as the
    model knows them and JSON schemas as `run` follows them, and /v1/models. Requests are computed
    at once where the model's caches allow it, else one after the other, and prompts that begin
    alike are read once. No other model can be asked for, and no page in a browser can ask.

    Ctrl-C is how it ends: with exit code 0.

    \b
    Examples:
      mlxarch serve Nanbeige/Nanbeige4.1-3B
      MLXARCH_KEY=$(cat key) mlxarch serve ./Trinity-Mini-4bit --host 0.0.0.0
      mlxarch serve Nanbeige/Nanbeige4.1-3B --kv-bits 8
      curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages": [...]}'
    """
    from mlxarch.convert import hub

    from ..model import name, resolve
    from ..serve.access import Access, is_loopback

    if key is not None and not key.isascii():
        raise click.UsageError("--key has letters that no header can carry; use ASCII.")
    if not key and not is_loopback(host):
        raise click.UsageError(
            f"{host} can be reached by others, who need to be known by a key; set MLXARCH_KEY, "
            "or listen on 127.0.0.1."
        )
    folder = resolve(model, revision, offline)
    hub.stay_offline()

    # This imports mlx-lm, which takes seconds.
    from ..serve.generator import Generator
    from ..serve.listener import Listener

    served = name(folder).replace(" ", "-")
    click.echo(f"Loading {served}.", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Listener(host, port) as listener:
        generator = Generator(folder, kv_bits)
        try:
            generator.loaded.wait()
            if generator.failure is not None:
                raise generator.failure
            if generator.remark:
                click.echo(generator.remark, err=True)
            click.echo(listener.url)
            known = {"default_model", *([model] if model else [])}
            listener.serve(generator, served, known, Access(key or None))
        except KeyboardInterrupt:
            pass
    sys.stdout.flush()
    # The thread that computes is not waited for: there is nothing that it would have to save.
    os._exit(0)
