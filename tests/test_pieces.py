"""What ends an answer and what it calls, found in its text whatever the borders of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxarch.app.engine.pieces import Call, Piece, Pieces
from mlxarch.generate import Token


def said(*texts):
    """Pieces of an answer, numbered."""
    return [Piece("answer", text, Token(i, 0.1)) for i, text in enumerate(texts)]


def through(pieces, given):
    """What came of each piece, and at the end."""
    found = [list(pieces.take(piece)) for piece in given]
    return [*found, list(pieces.end())]


def text(found):
    return "".join(piece.text for piece in found if isinstance(piece, Piece))


def flat(found):
    return [each for some in found for each in some]


def ids(found):
    return [piece.token.id for piece in found if isinstance(piece, Piece) and piece.token]


@given(st.text("ab#\n", max_size=30), st.lists(st.text("ab#\n", min_size=1, max_size=4)), st.data())
def test_an_answer_ends_before_the_first_text_that_it_contains(whole, stop, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    pieces = Pieces(stop)
    found = through(pieces, said(*parts))
    ends = [at for each in stop if (at := whole.find(each)) >= 0]
    assert pieces.stopped == bool(ends)
    assert text(flat(found)) == whole[: min(ends, default=len(whole))]
    if not ends:
        assert flat(found) == said(*parts)


def test_what_may_be_the_beginning_is_held_back_until_that_is_decided():
    pieces = Pieces(["\nUser:"])
    found = through(pieces, said("Hi", ".\n", "Us", "e", " it", "\n", "User: you"))
    texts = [[piece.text for piece in some] for some in found]
    assert texts == [["Hi"], [], [], [], [".\n", "Us", "e", " it"], [], [], []]
    assert pieces.stopped
    # A token that says nothing but that text was not said.
    assert ids(flat(found)) == [0, 1, 2, 3, 4]


def test_a_token_that_ends_in_it_is_cut():
    pieces = Pieces(["###", "##"])
    assert flat(through(pieces, said("one", "two#", "##three"))) == [*said("one", "two")]
    assert list(pieces.take(Piece("answer", "more", None))) == []


def test_thinking_may_say_anything():
    thought = Piece("thinking", "not STOP yet", Token(7, 0.1))
    pieces = Pieces(["STOP"])
    found = flat(through(pieces, [*said("S"), thought, *said("T")]))
    assert found == [*said("S"), thought, *said("T")]


CALL = ("<call>", "</call>")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_calls_are_told_apart_and_in_order(size):
    whole = "Let me.\n<call>a(1)</call>\n\n<call>b</call>\nThere <b>it</b> is."
    parts = [whole[i : i + size] for i in range(0, len(whole), size)]
    found = flat(through(Pieces(["STOP"], CALL), said(*parts)))
    assert text(found) == "Let me.\nThere <b>it</b> is."
    assert [each.text for each in found if isinstance(each, Call)] == ["a(1)", "b"]
    # Every token was said.
    assert ids(found) == list(range(len(parts)))
    calls = [i for i, each in enumerate(found) if isinstance(each, Call)]
    assert text(found[: calls[0]]) == "Let me.\n"
    assert text(found[calls[1] :]) == "There <b>it</b> is."


def test_a_call_that_is_cut_off_is_one_all_the_same():
    found = flat(through(Pieces((), CALL), said("a<call>", "b(", "</cal")))
    assert text(found) == "a"
    assert found[-1] == Call("b(</cal")
    assert flat(through(Pieces((), ("[C]", "")), said("a[C]", "b(", "c")))[-1] == Call("b(c")


def test_a_call_may_contain_what_would_end_the_answer():
    pieces = Pieces(["STOP"], CALL)
    found = flat(through(pieces, said("<call>STOP</call>", "go STOP on")))
    assert [each for each in found if isinstance(each, Call)] == [Call("STOP")]
    assert (text(found), pieces.stopped) == ("go ", True)
