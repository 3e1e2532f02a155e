"""The blocks of code in a Markdown text."""

from typing import NamedTuple

from markdown_it import MarkdownIt


class Block(NamedTuple):
    """A fenced block: the word after its fence, and what is in it."""

    language: str
    text: str

    @property
    def line(self) -> str:
        """One line that tells it from others."""
        count = self.text.count("\n") + 1
        first = next(filter(None, map(str.strip, self.text.splitlines())), "")
        size = f"{count} lines" if count > 1 else "1 line"
        return " · ".join(part for part in (self.language, size, first[:50]) if part)


def fenced(text: str) -> bool:
    """There may be a block of code in it."""
    return "```" in text or "~~~" in text


def blocks(text: str) -> list[Block]:
    """The fenced blocks, also those in lists and quotations; the last one may be open still."""
    if not fenced(text):
        return []
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        Block(token.info.strip(), token.content.removesuffix("\n"))
        for token in tokens
        if token.type == "fence" and token.content.strip()
    ]
