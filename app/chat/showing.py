"""Pictures of a conversation as a model is sent them."""

from collections.abc import Iterable
from typing import Any

from ..attachment import Image, pictures, without_pictures
from ..history.images import Images

Message = dict[str, Any]


def with_pictures(messages: Iterable[Message], images: Images) -> tuple[list[Message], set[Image]]:
    """Messages with the pictures of questions as parts; and those whose copies are gone.

    Of what is gone the line stays that tells of it.
    """
    found, gone = [], set[Image]()
    for message in messages:
        every = pictures(message["content"]) if message["role"] == "user" else []
        there = [image for image in every if images.path(image.sha256).exists()]
        gone |= {*every} - {*there}
        content = _parts(message["content"], there, images) if there else message["content"]
        found.append({**message, "content": content})
    return found, gone


def _parts(content: str, shown: list[Image], images: Images) -> list[Message]:
    parts = []
    for number, image in enumerate(shown, 1):
        if len(shown) > 1:
            parts.append({"type": "text", "text": f"Picture {number}, {image.name}: "})
        path = str(images.path(image.sha256))
        parts.append({"type": "image", "path": path, "hash": image.sha256})
    return [*parts, {"type": "text", "text": without_pictures(content, shown)}]
