"""What helps to write a question: files, long pastes, questions from before."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxarch.app import attachment
from mlxarch.app.attachment import File, Image, folded, pictures, told, without_pictures
from mlxarch.app.chat.pastes import CHARACTERS, LINES, Pastes
from mlxarch.app.chat.recall import Recall
from mlxarch.app.chat.references import expanded, missing, offers, typed, written
from mlxarch.errors import FormatError

HASH = "0123456789abcdef" * 4


def look(file):
    """What a chat knows of a picture."""
    return Image(str(file), 640, 480, 300, HASH)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    (tmp_path / "two words.md").write_text("# Hi\n\n```\ncode\n```\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print()")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "photo.PNG").write_bytes(b"\x89PNG")
    (tmp_path / "data.bin").write_bytes(b"\0\1\2")
    return tmp_path


def test_a_file_that_is_named_comes_along_and_is_shown_by_its_name(here):
    content = expanded("What does @notes.txt say?", look)
    assert content == "What does @notes.txt say?\n\nFile notes.txt:\n```\none\ntwo\n```"
    assert folded(content) == ("What does @notes.txt say?", [File("notes.txt", 7)])


def test_several_files_quoted_names_and_fences_inside(here):
    asked = 'Compare @notes.txt, @"two words.md" and @notes.txt!'
    shown, files = folded(expanded(asked, look))
    assert shown == asked
    assert [file.name for file in files] == ["notes.txt", "two words.md"]
    assert files[1].characters == len("# Hi\n\n```\ncode\n```")


@pytest.mark.parametrize(
    "text", ["Mail me@notes.txt", "@nobody.txt is missing", "@", "a @ b", "@src", "@" + "x" * 5000]
)
def test_what_names_no_file_stays_as_it_is(here, text):
    assert expanded(text, look) == text
    assert folded(text) == (text, [])


def test_what_is_no_text_is_refused_with_its_name(here):
    with pytest.raises(FormatError, match="is no text: byte"):
        expanded("@data.bin", look)


def test_a_picture_is_a_line_that_tells_of_it(here):
    asked = "Is @photo.PNG what @notes.txt says? Look at @photo.PNG."
    content = expanded(asked, look)
    line = f"Picture photo.PNG (640 x 480 pixels, 300 tokens, SHA-256 {HASH})"
    assert content == f"{asked}\n\n{line}\n\nFile notes.txt:\n```\none\ntwo\n```"
    image = Image("photo.PNG", 640, 480, 300, HASH)
    assert folded(content) == (asked, [image, File("notes.txt", 7)])
    assert pictures(content) == [image]
    text = f"{asked}\n\nFile notes.txt:\n```\none\ntwo\n```"
    assert without_pictures(content, [image]) == text
    assert without_pictures(content, []) == content
    assert told(content) == content.replace(f", 300 tokens, SHA-256 {HASH}", "")
    # What is written like one within a question is a text.
    assert pictures(f"It says\n\n{line}\n\nand what is that?") == []


def test_a_picture_whose_file_is_gone_is_known_by_its_name(here):
    image = Image("gone.png", 640, 480, 300, HASH)
    content = expanded("And @gone.png?", look, {"gone.png": image})
    assert pictures(content) == [image]
    assert missing("And @gone.png? Or @none.png?", {"gone.png": image}) == ["none.png"]


def test_what_no_context_holds_is_not_read_to_its_end(here, monkeypatch):
    monkeypatch.setattr(attachment, "MOST", 6)
    with pytest.raises(FormatError, match=r"notes\.txt is longer than 6 B;"):
        expanded("@notes.txt", look)


def test_a_path_that_leads_nowhere_is_known_from_a_name(here):
    text = "@nobody, @notes.txt, @mail.txt, @src/none.py! @dataclass @src @src/ a@b.c @mail.txt"
    assert missing(text) == ["mail.txt", "src/none.py", "src/"]


TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)


@given(st.text(), st.lists(TEXTS, max_size=3))
def test_any_file_comes_back_folded(tmp_path_factory, asked, texts):
    folder = tmp_path_factory.mktemp("files")
    asked = asked.replace("@", "").replace("\r", "")
    names = []
    for i, text in enumerate(texts):
        names.append(folder / f"{i}.txt")
        names[-1].write_bytes(text.encode())
    question = " ".join([asked, *(f"@{name}" for name in names)])
    shown, files = folded(expanded(question, look))
    assert shown == question
    assert [file.name for file in files] == [str(name) for name in names]


@pytest.mark.parametrize(
    ("before", "path"),
    [
        ("see @no", "no"),
        ("@", ""),
        ("@src/", "src/"),
        ('@"two w', "two w"),
        ("me@no", None),
        ("@notes.txt ", None),
        ("nothing", None),
    ],
)
def test_a_path_is_being_typed(before, path):
    assert typed(before) == path


def test_files_are_offered_folders_first_and_hidden_ones_only_if_asked_for(here):
    assert offers("") == ["src/", "data.bin", "notes.txt", "photo.PNG", "two words.md"]
    assert offers("N") == ["notes.txt"]
    assert offers("src/") == ["src/main.py"]
    assert offers(".h") == [".hidden"]
    assert offers("absent/") == []
    assert offers(f"{here}/no") == [f"{here}/notes.txt"]
    # What a question cannot hold: escape sequences, bytes that are no UTF-8, names of two lines.
    for name in (b"esc\x1b[31m", "turned\u202e".encode(), b"\xff", b"two\nlines"):
        Path(os.fsdecode(os.path.join(os.fsencode(here), name))).touch()
    assert offers("") == ["src/", "data.bin", "notes.txt", "photo.PNG", "two words.md"]
    assert [written(path) for path in ("a/b", "two words.md")] == ["@a/b", '@"two words.md"']


def test_short_pastes_stay_and_long_ones_are_a_mark_until_they_are_sent():
    pastes = Pastes()
    assert pastes.taken("short") == "short"
    lines, long = "\n".join("abc" for _ in range(LINES)), "x" * CHARACTERS
    first, second = pastes.taken(lines), pastes.taken(long)
    assert first == "[paste 1: 8 lines]"
    assert second == "[paste 2: 1,000 characters]"
    assert pastes.whole(f"Look: {first} and {second} [paste 3: 9 lines]") == (
        f"Look: {lines} and {long} [paste 3: 9 lines]"
    )
    assert pastes.mark_before(f"Look: {first}") == first
    assert pastes.mark_before(f"{first} ") == ""
    assert pastes.mark_before("[paste 3: 9 lines]") == ""
    assert pastes.whole("[paste 1: 9 lines]") == "[paste 1: 9 lines]"


def test_a_paste_that_holds_a_mark_is_not_looked_into():
    pastes = Pastes()
    mark = pastes.taken("y" * CHARACTERS)
    outer = pastes.taken(mark + "z" * CHARACTERS)
    assert pastes.whole(outer) == mark + "z" * CHARACTERS


def test_what_was_sent_is_gone_through_and_what_is_written_waits():
    recall = Recall(["one", "two"])
    assert recall.later("half a th") is None
    assert recall.earlier("half a th") == "two"
    assert recall.earlier("two") == "one"
    assert recall.earlier("one") is None
    assert recall.later("one") == "two"
    assert recall.later("two") == "half a th"
    assert recall.later("half a th") is None
    assert recall.add("three") == ""
    assert recall.add("three") == ""
    assert [recall.earlier("") for _ in range(3)] == ["three", "two", "one"]


def test_what_is_changed_on_the_way_through_what_was_sent_is_not_lost():
    recall = Recall(["one", "two"])
    assert recall.earlier("half a th") == "two"
    assert recall.earlier("two, otherwise") == "one"
    assert recall.later("one") == "two, otherwise"
    assert recall.add("two, otherwise") == "half a th"  # is written on
    assert recall.later("half a th") is None
    assert [recall.earlier("half a th"), recall.earlier("")] == ["two, otherwise", "two"]
