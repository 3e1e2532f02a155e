"""Code in the colours of its language, line by line.

`textual.highlight` has the styles and would do the rest, but all lines at once: a tenth of a second
of a long block, in which no key is heard, or late where a thread does it.
"""

from collections.abc import Iterator

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from textual.content import Content, Span
from textual.highlight import (
    ANSIDarkHighlightTheme,
    ANSILightHighlightTheme,
    HighlightTheme,
    TokenType,
)

_known: dict[str, Lexer] = {}


def known(language: str) -> Lexer | None:
    """What reads a language, if it was asked for before."""
    return _known.get(language)


def lexer_of(language: str) -> Lexer:
    """What reads a language, also one of which nobody has heard.

    The first time it is imported and its patterns are compiled, which is long for a key to wait.
    """
    options = {"stripnl": False, "ensurenl": True}
    if language not in _known:
        try:
            _known[language] = get_lexer_by_name(language, **options)
        except ClassNotFound:
            _known[language] = TextLexer(**options)
    return _known[language]


def styles_of(*, dark: bool, ansi: bool) -> dict[TokenType, str]:
    """How each kind of token looks, by Textual."""
    if not ansi:
        return HighlightTheme.STYLES
    return (ANSIDarkHighlightTheme if dark else ANSILightHighlightTheme).STYLES


def coloured(text: str, lexer: Lexer, styles: dict[TokenType, str]) -> Iterator[Content]:
    """The lines of a text, each read when it is asked for."""
    line, spans = "", list[Span]()
    for kind, token in lexer.get_tokens(text):
        style = next((styles[each] for each in reversed(kind.split()) if styles.get(each)), "")
        for number, part in enumerate(token.split("\n")):
            if number:
                yield Content(line, [Span(0, len(line), "$text"), *spans])
                line, spans = "", []
            if part and style:
                spans.append(Span(len(line), len(line) + len(part), style))
            line += part
