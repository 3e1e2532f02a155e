"""What of a growing Markdown text is rendered when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxarch.app.chat.blocks import CODE_LINES, ROW_LINES, Blocks, Kind


def ripe(text):
    """What is rendered when `text` arrives at once; the rest waits."""
    return text[: Blocks().ripe(text)[1]]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("A paragraph that has no e", "A paragraph that has no e"),
        ("- one\n- tw", "- one\n"),
        ("1. one\n\n   more of it\n2. tw", "1. one\n\n   more of it\n"),
        ("Text\n- one\n- tw", "Text\n- one\n"),
        ("| a | b |\n|---|---|\n| 1 |", "| a | b |\n|---|---|\n"),
        ("- one\n\nText af", "- one\n\nText af"),
        ("- one\n- two\n```py\nx = ", "- one\n- two\n```py\nx = "),
        ("```py\nx = 1\n\n- y", "```py\nx = 1\n\n- y"),
        ("````\n```\n- still code", "````\n```\n- still code"),
        ("```\nx\n```\n- a", "```\nx\n```\n"),
        ("> quo", ""),
    ],
)
def test_lists_and_tables_are_rendered_by_whole_lines_all_else_at_once(text, rendered):
    assert ripe(text) == rendered


@pytest.mark.parametrize(
    ("before", "line", "lines"),
    [
        ("", "- item\n", ROW_LINES),
        ("", "- item\n\n", ROW_LINES),
        ("```\n", "code\n", CODE_LINES),
    ],
)
def test_a_long_block_waits_until_it_is_complete(before, line, lines):
    text = f"Before.\n\n{before}" + line * (lines + 1)
    blocks = Blocks()
    assert text[: blocks.ripe(text)[1]] == "Before.\n\n"
    text += "```\n" if before else "\nAfter."
    assert blocks.ripe(text)[1] == len(text)


MARKDOWN = st.lists(
    st.sampled_from(["- a", "1. b", "  c", "", "", "```", "~~~", "| d |", "> e", "f", "## g", "`"]),
    max_size=30,
).map("\n".join)


@given(MARKDOWN, st.data())
def test_any_split_of_the_text_comes_to_the_same(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    blocks = Blocks()
    for cut in cuts:
        closed, shown = blocks.ripe(text[:cut])
        assert closed <= shown <= cut
    assert blocks.ripe(text) == Blocks().ripe(text)


def test_a_fence_is_closed_only_by_its_own_kind():
    blocks = Blocks()
    blocks.ripe("~~~\n```\n")
    assert blocks.kind is Kind.CODE
    blocks.ripe("~~~\n```\n~~~\n")
    assert blocks.kind is Kind.PROSE
