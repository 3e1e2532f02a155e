"""`mlxarch history`: lists, finds, shows, exports and deletes what was said."""

import html.parser
import json
import re
import stat
import subprocess

import commandline
import pytest

from mlxarch.app.history import History
from mlxarch.app.history.file import place
from mlxarch.app.history.held import Held

ANSWER = """Use `mlxarch convert`:

```sh
mlxarch convert SRC OUT
```

| bits | size |
|---|---|
| 4 | 2 GB |

<script>alert(1)</script> [go](javascript:alert(1)) ![dot](https://example.com/dot.png) \x1b[31m
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def said(home):
    """The ids of two conversations; the first has two answers to its question."""
    with History.open() as history:
        first = history.begin(model="guide", system="Be <brief>.")
        asked = history.add(first, None, "user", "How do I convert a <b>model</b>?")
        for answer, ended in (("In a way.", "cancelled"), (ANSWER, "stop")):
            draft = history.start(first, asked.id, model="guide")
            draft.grow(answer, "They want <it>.", [0.2, 0.01, 0.01])
            draft.finish(ended, stats={"first_token_seconds": 0.2})
        history.set_draft(first, "and then")
        second = history.begin(model="other")
        history.add(second, None, "user", "Tell me of cats")
    return first, second


@pytest.fixture
def mlxarch(monkeypatch, capsys):
    def run(*arguments):
        code = commandline.run(monkeypatch, "history", *arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_without_a_history_one_line_says_so_and_nothing_is_made(mlxarch, home):
    code, out, err = mlxarch()
    assert (code, out, err.count("\n")) == (0, "", 1)
    assert "Nothing was said so far" in err
    assert str(place()) in err
    assert not place().parent.exists()
    code, out, err = mlxarch("show", "abc")
    assert (code, out) == (1, "")
    assert "no conversation" in err


@pytest.mark.parametrize("arguments", [[], ["cats"], ["show", "abc"]])
def test_a_history_that_cannot_be_looked_at(mlxarch, monkeypatch, home, arguments):
    monkeypatch.setenv("XDG_DATA_HOME", str(home / ("x" * 300)))
    code, out, err = mlxarch(*arguments)
    assert (code, out) == (1, "")
    assert "history.db cannot be used: File name too long" in err


def test_a_history_that_cannot_be_written_is_read(mlxarch, said, home):
    first, second = said
    place().with_name("history.db-wal").mkdir()  # no place for SQLite's own
    why = "can be read, but not changed"
    code, out, err = mlxarch("cats")
    assert (code, second in out, why in err) == (0, True, True)
    code, out, err = mlxarch("export", first, "--format", "md", "-o", str(home / "it.md"))
    assert (code, "In a way" in (home / "it.md").read_text(), why in err) == (0, False, True)
    for change in (("rename", first, "Cats"), ("delete", first, "--yes")):
        code, out, err = mlxarch(*change)
        assert (code, out) == (1, "")
        assert "HistoryError" in err


def test_the_list_has_the_last_conversation_first(mlxarch, said):
    first, second = said
    code, out, err = mlxarch()
    heads, *rows = out.splitlines()
    assert heads.split() == ["id", "title", "model", "messages", "when"]
    assert [row.split()[0] for row in rows] == [second, first]
    assert re.search(r"How do I convert a <b>model</b>\? +guide +3 +just now", rows[1])
    assert (code, err) == (0, "")


def test_the_list_is_a_line_of_json_for_each(mlxarch, said):
    _, out, _ = mlxarch("--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["id"] for one in found] == list(reversed(said))
    assert found[0] | {"created": 0, "updated": 0} == {
        "id": said[1],
        "title": "Tell me of cats",
        "model": "other",
        "messages": 1,
        "created": 0,
        "updated": 0,
        "snippet": "",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found[0]["created"])


def test_what_is_left_out_of_the_list_is_told(mlxarch, said):
    _, out, err = mlxarch("--limit", "1")
    assert len(out.splitlines()) == 2
    assert "There are more" in err


def test_other_words_are_looked_for(mlxarch, said):
    _, out, _ = mlxarch("cat")
    assert [line.split()[0] for line in out.splitlines()] == ["id", said[1], "Tell"]
    assert out.splitlines()[2] == "    Tell me of cats"
    _, out, _ = mlxarch("--json", "convert", "mod")
    assert json.loads(out)["snippet"] == "How do I convert a <b>model</b>?"
    code, out, err = mlxarch("cats", "models")
    assert (code, out) == (0, "")
    assert err == "No conversation holds all of: cats models\n"


def test_a_conversation_is_shown_with_nothing_that_a_terminal_obeys(mlxarch, said):
    _, out, _ = mlxarch("show", said[0][:5])
    assert "\x1b" not in out
    assert "You\n  How do I convert a <b>model</b>?\n" in out
    assert "guide thought\n  They want <it>.\n" in out
    assert "  mlxarch convert SRC OUT\n" in out
    assert "3 tokens · 100 tokens/s · 10 ms each · first after 0.20 s · 2 of 2" in out
    assert out.endswith("Not sent yet\n  and then\n")
    assert "In a way." not in out


def test_markdown_keeps_what_was_written(mlxarch, said, home):
    code, out, _ = mlxarch("export", said[0])
    assert code == 0
    assert out.startswith("# How do I convert a <b>model</b>?\n\nguide · 2 messages · ")
    assert "> System prompt: Be <brief>." in out
    assert "```sh\nmlxarch convert SRC OUT\n```\n\n| bits | size |" in out
    assert "\x1b" not in out
    mlxarch("export", said[0], "-o", home / "chat.md")
    assert (home / "chat.md").read_text() == out
    assert mlxarch("export", said[0], "-o", "-") == (0, out, "")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("So:\n\n```py\nprint(1)", "\nprint(1)\n```\n\n## You\n"),
        ("~~~~\n```\nx\n```", "\nx\n```\n~~~~\n\n## You\n"),
        ("```", "\n```\n```\n\n## You\n"),
        ("```\nx\n```", "\nx\n```\n\n## You\n"),
    ],
)
def test_code_that_was_cut_off_swallows_nothing(mlxarch, said, text, end):
    with History.open() as history:
        session = history.begin(model="guide")
        answer = history.add(session, None, "assistant", text)
        history.add(session, answer.id, "user", "Go on")
    assert end in mlxarch("export", session)[1]


class Page(html.parser.HTMLParser):
    """What a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_is_safe_and_needs_nothing_else(mlxarch, said, home):
    mlxarch("export", said[0], "-o", home / "chat.html")
    text = (home / "chat.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert not {"img", "b", "it", "brief"} & set(page.tags)
    assert not [link for link in page.links if not link.startswith("https://example.com")]
    assert "&lt;script&gt;" in text
    assert "a &lt;b&gt;model&lt;/b&gt;?" in text
    assert "Be &lt;brief&gt;." in text
    assert "They want &lt;it&gt;." in text
    assert {"table", "pre", "code"} <= set(page.tags)
    assert "prefers-color-scheme: dark" in text
    assert "\x1b" not in text


def test_json_has_all_branches_and_the_draft(mlxarch, said):
    _, out, _ = mlxarch("export", said[0], "--format", "json")
    found = json.loads(out)
    asked, one, two = found["messages"]
    assert (asked["parent"], one["parent"], two["parent"]) == (None, asked["id"], asked["id"])
    assert (one["content"], one["ended"]) == ("In a way.", "cancelled")
    assert two["content"] == ANSWER
    assert two["seconds"] == [0.2, 0.01, 0.01]
    assert two["facts"] == {"stats": {"first_token_seconds": 0.2}}
    assert (found["head"], found["draft"]) == (two["id"], "and then")
    assert found["system"] == "Be <brief>."
    _, out, _ = mlxarch("show", "--json", said[0])
    assert json.loads(out) == found


def test_all_go_into_a_folder_each_in_its_own_file(mlxarch, said, home):
    code, out, err = mlxarch("export", "--all", "-o", home / "out" / "all", "--format", "html")
    assert (code, out) == (0, "")
    assert err == f"2 conversations in {home / 'out' / 'all'}.\n"
    names = sorted(file.name for file in (home / "out" / "all").iterdir())
    assert [re.sub(r"^\d{4}-\d\d-\d\d-", "", name) for name in names] == [
        f"how-do-i-convert-a-b-model-b-{said[0]}.html",
        f"tell-me-of-cats-{said[1]}.html",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["export"], 2, "Say which: an ID, or --all."),
        (["export", "--all"], 2, "say into which folder"),
        (["export", "--all", "-o", "-"], 2, "say into which folder"),
        (["export", "{0}", "-o", "{home}/no/chat.md"], 1, "No such file"),
        (["export", "{0}", "--format", "pdf"], 2, "pdf"),
        (["show", "zzzz"], 1, "No conversation has the id 'zzzz'"),
        (["rename", "zzzz", "x"], 1, "No conversation has the id"),
        (["delete", "zzzz", "--yes"], 1, "No conversation has the id"),
        (["delete", "{0}"], 2, "would be deleted; say --yes"),
        (["--limit", "0"], 2, "--limit"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(mlxarch, said, home, arguments, code, words):
    filled = [word.format(*said, home=home) for word in arguments]
    found, out, err = mlxarch(*filled)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_an_id_that_two_begin_with_is_refused_and_both_are_named(mlxarch, said, monkeypatch):
    with History.open() as history:
        letters = iter("same000asame000b")
        monkeypatch.setattr("secrets.choice", lambda _: next(letters))
        for _ in range(2):
            history.add(history.begin(model="x"), None, "user", "hi")
    code, _, err = mlxarch("show", "same")
    assert code == 1
    assert "same000a, same000b" in err
    assert mlxarch("show", "same000a")[0] == 0


def test_a_conversation_is_renamed(mlxarch, said):
    _, out, _ = mlxarch("rename", said[1], "All", "about \x1bcats")
    assert out == f"{said[1]} is now called: All about ␛cats\n"
    _, out, _ = mlxarch("rename", said[1], "", "--json")
    assert json.loads(out) == {"event": "done", "id": said[1], "title": "Tell me of cats"}


def test_what_is_open_in_a_chat_is_not_deleted(mlxarch, said):
    window = Held(place())
    assert window.take(said[1])
    code, _, err = mlxarch("delete", said[1], "--yes")
    assert code == 1
    assert err == f"HistoryError: {said[1]} is open in a chat; there, /delete deletes it.\n"
    window.release()
    assert mlxarch("delete", said[1], "--yes")[0] == 0


def test_deleted_words_are_gone_from_the_file(mlxarch, said):
    with History.open() as history:
        session = history.begin(model="guide")
        asked = history.add(session, None, "user", "my xylophonesecret " * 9)
        draft = history.start(session, asked.id)
        draft.grow("your xylophonesecret " * 999, "our xylophonesecret")
        history.flush()
        draft.finish("stop")
        history.set_draft(session, "no xylophonesecret")
    with History.open():  # a chat that goes on meanwhile
        code, out, _ = mlxarch("delete", session, "--yes")
        assert (code, out[:17]) == (0, f"Deleted {session} ")
        assert not mlxarch("--json", "xylophonesecret")[1]
        # Read by another process, because here that would take the chat's locks.
        files = ["history.db", "history.db-wal", "history.db-shm"]
        counted = subprocess.run(
            ["grep", "-c", "-a", "xylophonesecret", *files],
            cwd=place().parent,
            capture_output=True,
            text=True,
        ).stdout
        assert counted.split() == [f"{name}:0" for name in files]
    assert len(mlxarch()[1].splitlines()) == 3


def test_what_is_kept_is_private(mlxarch, said):
    assert stat.S_IMODE(place().parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(place().stat().st_mode) == 0o600


def test_a_damaged_file_is_told_in_words_and_stays(mlxarch, said):
    place().write_bytes(b"no database " * 999)
    code, out, err = mlxarch()
    assert (code, out) == (1, "")
    assert err.startswith(f"Damaged: {place()} is damaged (file is not a database).")
    assert place().read_bytes().startswith(b"no database")
