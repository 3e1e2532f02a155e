"""MODEL on the command line: where it lies, and what it is called."""

from pathlib import Path

from .progress import bar

WITHOUT_MODEL = ("heads", "lookup", "off")  # who guesses that is no model of its own


def resolve(model: str | None, revision: str | None = None, offline: bool = False) -> Path:
    """The local folder of a model; a repository is fetched unless it is there already.

    What is there is used as it is, and nobody is asked whether there is news of it.

    Args:
        model: A folder, a repository such as "Nanbeige/Nanbeige4.1-3B", or None for the guide.

    Raises: HubError if it is neither, or the repository cannot be had.
    """
    if model is None:
        from .guide import PATH

        return PATH
    from mlxarch.convert import download, hub

    found = None if hub.is_folder(model) else hub.kept(model, revision)
    if found:
        return found
    with bar(f"Fetching {model}") as advance:
        watch = lambda done, total, file: advance(done, total)  # noqa: E731
        return download.resolve(model, revision=revision, offline=offline, watch=watch)


def resolve_draft(draft: str | None, offline: bool = False) -> str | None:
    """Who guesses tokens ahead, as `Load` wants it: a model is found as `resolve` finds it."""
    asked = draft is not None and draft not in WITHOUT_MODEL
    return str(resolve(draft, offline=offline)) if asked else draft


def name(folder: Path) -> str:
    """What people call the model in a folder: its repository, or the folder's last word."""
    from .guide import PATH

    folder = folder.resolve()
    if folder == PATH.resolve():
        return "mlxarch guide"
    # The hub's cache: models--ORG--NAME/snapshots/COMMIT.
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name
