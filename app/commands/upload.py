"""`mlxarch upload`: a checkpoint to the hub."""

import time
from pathlib import Path

import click

from mlxarch.words import size

from ..progress import emit


@click.command(short_help="Upload a checkpoint to the hub.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="Only you see it; refused if it is there, public.")
@click.option("--revision", metavar="BRANCH", help="Branch to upload to, made if absent.")
@click.option("--message", metavar="TEXT", help="What the commit says.")
@click.option("--dry-run", is_flag=True, help="Check and list the files; ask nothing of the hub.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(
    folder: Path,
    repo: str,
    private: bool,
    revision: str | None,
    message: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upload the checkpoint in FOLDER to REPO on the Hugging Face hub.

    REPO is OWNER/NAME, made if absent. Log in once with `hf auth login`. Its address is printed on
    stdout. After Ctrl-C or a lost network the same command goes on: what has arrived is not sent
    again. At the end the hub's sizes and hashes are held against those in mlxarch.json.

    Only a whole checkpoint is uploaded: config.json, every shard, every file as mlxarch.json has
    it; and only what belongs to it: no hidden files, no leftovers, no links out of FOLDER.

    \b
    Examples:
      mlxarch upload ./nanbeige-4bit me/Nanbeige4.1-3B-4bit
      mlxarch upload ./nanbeige-4bit me/Nanbeige4.1-3B-4bit --private
      mlxarch upload ./nanbeige-4bit me/Nanbeige4.1-3B-4bit --dry-run
    """
    from mlxarch.convert import upload

    if not upload.is_name(repo):
        raise click.UsageError(
            f"{repo!r} is no repository's name; wanted is OWNER/NAME, of letters, digits, '-', '_' "
            "and '.', such as me/Nanbeige4.1-3B-4bit."
        )
    files = upload.look(folder)
    total = sum(files.values())
    if as_json:
        emit(
            "plan",
            folder=str(folder),
            repo=repo,
            private=private,
            revision=revision,
            bytes=total,
            files=files,
        )
    elif dry_run:
        for name, count in files.items():
            click.echo(f"{size(count):>8}  {name}")
        click.echo(f"{size(total):>8}  in {len(files)} files to {repo}")
    if dry_run:
        return
    if not as_json:
        click.echo(f"{folder}: {len(files)} files, {size(total)}, to {repo}.", err=True)
    started = time.monotonic()
    try:
        found = upload.upload(folder, repo, private=private, revision=revision, message=message)
    except KeyboardInterrupt:
        click.echo("What has arrived is kept; run the same command again to go on.", err=True)
        raise
    if as_json:
        emit("done", url=found.url, commit=found.commit, seconds=time.monotonic() - started)
    else:
        click.echo(found.url)
