"""What a message is made of, where it is more than a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def parted(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[tuple[Path, str]]]:
    """Messages as a chat template reads them, and the pictures in them: files and their hashes."""
    found, files = [], []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            pictures = [part for part in content if part["type"] == "image"]
            files += [(Path(part["path"]), part.get("hash", "")) for part in pictures]
            content = [{"type": "image"} if part in pictures else part for part in content]
        found.append({**message, "content": content})
    return found, files
