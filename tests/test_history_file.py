"""The file of the history: its rights, its versions, and what is said when it fails."""

import contextlib
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlxarch.app.history import Damaged, History, HistoryError, schema, set_aside, writer
from mlxarch.app.history.file import place

PATIENCE = 60  # seconds that another thread may take


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kept" / "history.db"


@pytest.fixture
def old(tmp_path):
    """A file as version 1 wrote it."""
    file = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript((Path(__file__).parent / "history_v1.sql").read_text())
    return file


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read_it_whatever_the_umask(path, umask):
    before = os.umask(umask)
    try:
        with History.open(path) as history:
            history.add(history.begin(model="guide"), None, "user", "secret")
            history.flush()
            files = sorted(path.parent.iterdir())
            assert [file.name for file in files] == [
                "history.db",
                "history.db-shm",
                "history.db-wal",
            ]
            assert {rights(file) for file in files} == {0o600}
    finally:
        os.umask(before)
    assert rights(path.parent) == 0o700


def test_rights_that_were_too_wide_are_narrowed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    History.open().close()
    place().parent.chmod(0o755)
    place().chmod(0o644)
    History.open().close()
    assert (rights(place().parent), rights(place())) == (0o700, 0o600)


def test_a_file_of_version_1_still_opens_with_all_that_is_in_it(old):
    with History.open(old) as history:
        found = history.load("k7m2qxab")
        assert [m.content for m in found.thread()] == ["What is MLX?", "An array library."]
        assert [m.content for m in found.children(found.thread()[0].id)] == [
            "An array",
            "An array library.",
        ]
        assert found.thread()[1].seconds == pytest.approx([0.2, 0.01, 0.0125], rel=1e-3)
        assert found.thread()[1].facts == {"stats": {"prompt_tokens": 12}}
        assert (found.title, found.draft, found.system) == ("Arrays", "and then", "Be brief.")
        assert found.settings == {"temperature": 0.5}
        assert [one.id for one in history.sessions("array librar")] == ["k7m2qxab"]
        # Whoever wrote the answer that still grew is gone.
        left = history.load("p3wd9n5t")
        assert [(m.content, m.ended) for m in left.thread()] == [
            ("Count", None),
            ("One, tw", "interrupted"),
        ]
        history.add("k7m2qxab", found.head, "user", "More")
        assert len(history.load("k7m2qxab").messages) == 4


def test_a_file_is_brought_to_the_next_version_whole_or_not_at_all(old, monkeypatch):
    good = ("ALTER TABLE sessions ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'",)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, (*good, "CREATE nonsense")))
    monkeypatch.setattr(schema, "VERSION", 2)
    with pytest.raises(HistoryError, match="cannot be used: near"):
        History.open(old)
    assert version(old) == 1
    assert "colour" not in dump(old)
    monkeypatch.setattr(schema, "MIGRATIONS", (schema.MIGRATIONS[0], good))
    with History.open(old) as history:
        assert history.load("k7m2qxab").title == "Arrays"
    assert version(old) == 2
    assert "colour" in dump(old)


def test_a_file_of_a_newer_version_is_refused_in_words_and_left_alone(path):
    History.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="is of version 99; this mlxarch knows up to version"):
        History.open(path)
    assert path.read_bytes() == before


def version(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def dump(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("SELECT sql FROM sqlite_master").fetchall())


@pytest.mark.parametrize("damage", ["no database at all " * 999, ""])
def test_a_damaged_file_is_told_in_words_and_moved_aside_only_when_asked(path, damage):
    with History.open(path) as history:
        session = history.begin(model="guide")
        for number in range(200):
            history.add(session, None, "user", f"question {number} " * 20)
    if damage:
        path.write_text(damage)
    else:
        data = bytearray(path.read_bytes())
        data[4096:] = b"\x5a" * (len(data) - 4096)
        path.write_bytes(data)
    with pytest.raises(Damaged, match="is damaged"):
        History.open(path)
    kept = path.read_bytes()
    aside = set_aside(path)
    assert aside.read_bytes() == kept
    assert aside.name.startswith("history-damaged-")
    with History.open(path) as history:
        assert history.sessions() == []


def test_a_folder_that_cannot_be_made_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be used: File exists"):
        History.open(tmp_path / "file" / "history.db")


def unwritable(path):
    """SQLite finds no place for its -wal, as on a full disk or one that is read only."""
    path.with_name(f"{path.name}-wal").mkdir()
    with pytest.raises(HistoryError, match="cannot be used"):
        History.open(path)


def test_what_cannot_be_written_can_be_read(path):
    with History.open(path) as history:
        session = history.begin(model="guide")
        history.add(session, None, "user", "About cats")
    before = path.read_bytes()
    unwritable(path)
    with History.nowhere("The disk is full.", path) as history:
        assert history.trouble == "The disk is full."
        assert [found.id for found in history.sessions("cats")] == [session]
        history.rename(session, "Dogs")
        assert history.load(session).title == "Dogs"
    assert path.read_bytes() == before


def test_an_older_file_that_cannot_be_written_can_be_read(old):
    before = old.read_bytes()
    with History.open(old) as history:
        wanted = [history.load(found.id) for found in history.sessions()]
    old.write_bytes(before)
    unwritable(old)
    with History.nowhere(past=old) as history:
        assert wanted == [history.load(found.id) for found in history.sessions()]


def test_pictures_of_what_cannot_be_written_stay(path):
    with History.open(path) as history:
        history.images.keep(b"a picture", "0" * 64)
    picture = history.images.path("0" * 64)
    os.utime(picture, (0, 0))
    unwritable(path)
    with History.nowhere(past=path) as history:
        assert history.images.path("0" * 64) == picture
        history.images.keep(b"another", "1" * 64)
        assert history.images.path("1" * 64).read_bytes() == b"another"
    assert [*picture.parent.iterdir()] == [picture]


def test_what_cannot_even_be_read_is_told(path):
    path.mkdir(parents=True)
    with pytest.raises(HistoryError, match="cannot be used"):
        History.nowhere(past=path)


class Told:
    """Hears of trouble, and of its end."""

    def __init__(self):
        self.said = []
        self.trouble, self.well = threading.Event(), threading.Event()

    def __call__(self, trouble):
        self.said.append(trouble)
        (self.trouble if trouble else self.well).set()


def test_what_a_full_disk_keeps_out_is_saved_once_there_is_room(path, monkeypatch):
    monkeypatch.setattr(writer, "AGAIN", 0.01)
    told = Told()
    with History.open(path, told) as history:
        session = history.begin(model="guide")
        history.add(session, None, "user", "before")
        history.flush()
        history._writing.execute("PRAGMA max_page_count = 1")  # as many as there are
        said = history.add(session, None, "user", "much " * 99_999)
        more = history.add(session, said.id, "user", "more")
        assert told.trouble.wait(PATIENCE)
        assert "disk is full" in history.trouble
        assert "kept in memory" in history.trouble
        history._writing.execute("PRAGMA max_page_count = 1000000")
        assert told.well.wait(PATIENCE)
        assert history.trouble == ""
        assert history.load(session).thread() == [said, more]


def test_a_program_that_holds_the_file_is_waited_for(path, monkeypatch):
    monkeypatch.setattr(writer, "AGAIN", 0.01)
    monkeypatch.setattr("mlxarch.app.history.file.PATIENCE", 0.01)
    told = Told()
    with History.open(path, told) as history:
        session = history.begin(model="guide")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            said = history.add(session, None, "user", "hello")
            assert told.trouble.wait(PATIENCE)
            assert "locked" in told.said[0]
        assert told.well.wait(PATIENCE)
        assert history.load(session).thread() == [said]


def test_a_conversation_deleted_by_another_program_is_told_and_stops_nothing_else(path):
    told = Told()
    with History.open(path, told) as history, History.open(path) as other:
        gone, stays = history.begin(model="guide"), history.begin(model="guide")
        said = history.add(gone, None, "user", "hello")
        history.flush()
        other.delete(gone)
        other.flush()
        draft = history.start(gone, said.id)
        draft.grow("Hi")
        draft.finish("stop")
        kept = history.add(stays, None, "user", "hello")
        assert history.load(stays).thread() == [kept]
        history.add(gone, said.id, "user", "hello?")
        assert history.load(stays).thread() == [kept]
        assert {trouble for trouble in told.said if trouble} == {
            "Not saved: this conversation was deleted meanwhile; a new one (Ctrl+N) is saved."
        }
        assert [one.id for one in history.sessions()] == [stays]


def test_an_answer_that_grows_in_what_was_deleted_is_not_said_to_be_saved(path):
    told = Told()
    with History.open(path, told) as history, History.open(path) as other:
        gone = history.begin(model="guide")
        draft = history.start(gone, history.add(gone, None, "user", "hello").id)
        history.flush()
        other.delete(gone)
        other.flush()
        for text in ("Hi", "Hi you"):
            draft.grow(text)
            assert history.flush()
        assert len(told.said) == 1
        assert "was deleted meanwhile" in told.said[0]


def test_a_copy_needs_its_original_no_longer_and_is_gone_if_nothing_was_done(path):
    with History.open(path) as history, History.open(path) as other:
        first = history.begin(model="guide")
        said = history.add(first, None, "user", "hello")
        history.flush()
        copy, looked = other.copy(first), other.copy(first)
        other.flush()
        history.delete(first)
        history.flush()
        assert other.load(looked).thread() == [said]
        more = other.add(copy, said.id, "user", "and more")
        assert other.load(copy).thread() == [said, more]
        fork = other.fork(looked, said.id)
        assert other.load(fork).thread() == [said]
    with History.open(path) as history:
        assert {one.id for one in history.sessions()} == {copy, fork}


def test_without_fts5_words_are_found_letter_by_letter_and_indexed_later(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "index", lambda connection: False)
        with History.open(path) as history:
            session = history.begin(model="guide")
            history.add(session, None, "user", "100% of Cats_and dogs")
            assert [one.snippet for one in history.sessions("cats_")] == [
                "100% of \x02Cats_and\x03 dogs"
            ]
            assert history.sessions("100_") == []
            assert history.sessions("%d") == []
    with History.open(path) as history:
        assert [one.snippet for one in history.sessions("dog")] == ["100% of Cats_and \x02dogs\x03"]


@given(query=st.text(max_size=30))
@example(query='"')
@example(query='"a" OR "b')
@example(query="prompt:x NEAR(a b) -c ^d e* {f}: AND NOT")
@example(query="\0 a\0b")
@example(query="\ud800")
@example(query="'; DROP TABLE messages; --")
def test_no_query_is_an_error(query):
    with History.nowhere() as history:
        session = history.begin(model="guide")
        history.add(session, None, "user", "something else")
        history.sessions(query)
        assert len(history.load(session).messages) == 1


@given(text=st.text(st.characters(exclude_characters='"\0'), min_size=1).filter(str.strip))
@example(text="AND")
@example(text="日本語")
@example(text="C++ -- %_\\")
@example(text="İstanbul ß ﬁ")
def test_what_was_said_is_found_by_its_own_words(text):
    with History.nowhere() as history:
        session = history.begin(model="guide")
        history.add(session, None, "user", text)
        assert [one.id for one in history.sessions(text)] == [session]
        history.delete(session)
        assert history.sessions(text) == []
