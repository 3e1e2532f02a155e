"""Colours of code are those of Textual, which reads all of it at once."""

import pytest
from textual.widgets.markdown import MarkdownFence

from mlxarch.app.chat.colours import coloured, lexer_of, styles_of

TEXTS = {
    "python": 'def f(x: int):\n    """One,\n\n    or two."""\n    return f"{x!r} is"  # so\n\n@a\n',
    "c": '#include <a.h>\nint main(){/* a\nb */ return "x\\n"[0] ? 0x1F : 1.5;}\n',
    "json": '{"a": [1, true, null],\n "b": "\\u00e4"}',
    "diff": "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+ż 漢字",
    "nonsense": "what\n\n  is this?\n",
    "text": "",
}


def looks(lines):
    """The text of each line, and the styles of each of its characters."""
    return [
        (
            line.plain,
            [
                [span.style for span in line.spans if span.start <= place < span.end]
                for place in range(len(line.plain))
            ],
        )
        for line in lines
    ]


@pytest.mark.parametrize("ansi", [False, True])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("language", TEXTS)
def test_lines_look_as_textual_has_them(language, dark, ansi):
    text = TEXTS[language].rstrip("\n")
    found = coloured(text, lexer_of(language), styles_of(dark=dark, ansi=ansi))
    whole = MarkdownFence.highlight(text, language, dark=dark, ansi=ansi)
    assert looks(found) == looks(whole.split("\n", allow_blank=True))


def test_tabs_stay_where_they_are():
    (line,) = coloured("\tif x:", lexer_of("python"), styles_of(dark=True, ansi=False))
    assert line.plain == "\tif x:"
    assert {line.plain[span.start : span.end] for span in line.spans} >= {"if", "x"}
