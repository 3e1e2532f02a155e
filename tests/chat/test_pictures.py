"""Pictures in the chat: attached by `@`, shown by a line, kept with their conversation."""

import json
import os
import stat
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import pytest
import seeing
from seeing import picture

from mlxarch.app.chat.app import ChatApp
from mlxarch.app.engine.client import Engine
from mlxarch.app.engine.protocol import Generate, Load, Prefill
from mlxarch.app.history import History, set_aside
from mlxarch.app.history.export import FORMATS
from mlxarch.app.history.reading import transcript
from mlxarch.app.sampling import Sampling
from mlxarch.app.settings import Settings

from .driver import Chat, running, toasts
from .fake import GATE, MEMORY, READY, FakeEngine, answers, fails, reads

SCALE = {
    "patch": 16,
    "merged": 2,
    "frames": 2,
    "least": 65_536,
    "most": 16_777_216,
    "mean": [0.5] * 3,
    "deviation": [0.5] * 3,
}
SEES = (replace(READY, name="Qwen3.5-4B", images=True, scale=SCALE), MEMORY)
RAW = picture(640, 480)
HASH = sha256(RAW).hexdigest()
CHIP = "▣ cat.png · 640 x 480 pixels · 300 tokens"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(RAW)
    (tmp_path / "dog.jpg").write_bytes(picture(64, 64, format="JPEG"))
    (tmp_path / "notes.txt").write_text("one\n")
    return tmp_path


@pytest.fixture
def history(tmp_path):
    with History.open(tmp_path / "data" / "history.db") as history:
        yield history


def eyes(*scripts):
    return FakeEngine(*scripts, load=SEES)


def sent(chat):
    """The messages that were sent last."""
    return chat.engine.of(Generate)[-1].messages


def kept(history):
    folder = history.images.folder
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def age(history):
    """As if what is kept had been there for long."""
    for name in kept(history):
        os.utime(history.images.path(name), (0, 0))


def shown(history):
    """The part of a message that shows the cat."""
    return {"type": "image", "path": str(history.images.path(HASH)), "hash": HASH}


async def test_a_picture_is_shown_and_told_of(here, history):
    async with running(eyes(answers("A cat.")), history=history) as chat:
        await chat.asked("What is on @cat.png?")
        text = {"type": "text", "text": "What is on @cat.png?"}
        assert sent(chat) == [{"role": "user", "content": [shown(history), text]}]
        await chat.sees("What is on @cat.png?", CHIP, "A cat.")
        assert HASH not in chat.screen()
        assert history.images.path(HASH).read_bytes() == RAW
        assert stat.S_IMODE(history.images.path(HASH).stat().st_mode) == 0o600
        assert stat.S_IMODE(history.images.folder.stat().st_mode) == 0o700


async def test_several_pictures_and_a_text(here, history):
    async with running(eyes(answers("No.")), history=history) as chat:
        await chat.asked("Is @cat.png like @dog.jpg or @notes.txt?")
        *parts, text = sent(chat)[0]["content"]
        assert [part["type"] for part in parts] == ["text", "image", "text", "image"]
        assert [parts[0]["text"], parts[2]["text"]] == [
            "Picture 1, cat.png: ",
            "Picture 2, dog.jpg: ",
        ]
        assert text["text"].endswith("@notes.txt?\n\nFile notes.txt:\n```\none\n```")
        await chat.sees(CHIP, "▣ dog.jpg · 64 x 64 pixels · 64 tokens", "▤ notes.txt")


async def test_a_conversation_goes_on_when_the_file_is_gone(here, history):
    async with running(eyes(answers("A cat.")), history=history) as chat:
        await chat.asked("What is on @cat.png?")
        session = chat.session.keeper.session
    (here / "cat.png").unlink()
    engine = eyes(answers("Black."), answers("A tomcat."), answers("Two."), answers("Grey."))
    with History.open(history.path) as again:
        async with running(engine, history=again, resume=session) as chat:
            await chat.sees(CHIP)
            await chat.asked("Which colour?")
            assert sent(chat)[0]["content"][0] == shown(again)
            await chat.app.carry_out("regenerate")
            await chat.until(lambda: not chat.session.busy)
            assert sent(chat)[0]["content"][0] == shown(again)
            # An edit of the first question has it by its name.
            chat.app.transcript.select((next(chat.session.transcript.turns), "question"))
            await chat.app.carry_out("edit")
            chat.app.composer.text += " And how many?"
            await chat.press("enter")
            await chat.until(lambda: len(chat.engine.of(Generate)) == 3)
            assert sent(chat)[0]["content"][0] == shown(again)
            assert "there is no file" not in toasts(chat)
            await chat.until(lambda: not chat.session.busy)
            await chat.app.carry_out("fork")
            await chat.asked("And now?")
            assert sent(chat)[0]["content"][0] == shown(again)


async def test_how_far_a_picture_is_looked_at(here, history):
    def looks(id):
        return Prefill(id=id, done=12, total=320, cached=0, looked=0.25)

    async with running(
        eyes([reads(12, 320), looks, GATE, *answers("A.")]), history=history
    ) as chat:
        await chat.ask("What is on @cat.png?")
        await chat.sees("Looking at a picture", "25%", "12 of 320 tokens")
        chat.engine.open()
        await chat.sees("A.")


async def test_a_copy_that_is_gone_is_said_once(here, history):
    async with running(eyes(*[answers("A cat.")] * 3), history=history) as chat:
        await chat.asked("What is on @cat.png?")
        history.images.path(HASH).unlink()
        await chat.asked("Which colour?")
        line = f"Picture cat.png (640 x 480 pixels, 300 tokens, SHA-256 {HASH})"
        assert sent(chat)[0]["content"] == f"What is on @cat.png?\n\n{line}"
        await chat.sees("A picture is gone.")
        await chat.asked("Why?")
        assert len(chat.session.transcript.entries) == 4


async def test_a_model_that_does_not_see_says_why_and_the_question_is_kept(here, history):
    blind = replace(READY, blind="Step 3.7 cannot see here: its vision tower is not ported yet.")
    async with running(FakeEngine(load=(blind, MEMORY)), history=history) as chat:
        chat.app.composer.text = "See @cat.png"
        await chat.press("enter")
        await chat.until(lambda: "cat.png is a picture. Step 3.7 cannot see here" in toasts(chat))
        assert chat.app.composer.text == "See @cat.png"
        assert not chat.engine.of(Generate)
        assert kept(history) == []


async def test_another_model_reads_that_there_was_a_picture(here, history):
    async with running(eyes(answers("A cat.")), history=history) as chat:
        await chat.asked("What is on @cat.png?")
        session = chat.session.keeper.session
    with History.open(history.path) as again:
        engine = FakeEngine(answers("Who knows."))
        async with running(engine, history=again, resume=session) as chat:
            await chat.asked("Which colour?")
            assert "Picture cat.png (640 x 480 pixels" in sent(chat)[0]["content"]


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("no.png", b"a text", "no.png cannot be shown: it is no PNG"),
        ("cut.png", RAW[:20], "cut.png cannot be shown: it is no PNG"),
        ("thin.png", picture(1, 400), "thin.png cannot be shown: with 1 x 400 pixels"),
        ("photo.heic", b"\0\0\0\x18ftypheic", "photo.heic cannot be shown: it is no PNG"),
    ],
)
async def test_what_is_no_picture(here, history, name, raw, words):
    (here / name).write_bytes(raw)
    async with running(eyes(), history=history) as chat:
        chat.app.composer.text = f"See @{name}"
        await chat.press("enter")
        await chat.until(lambda: words in toasts(chat))
        assert chat.app.composer.text == f"See @{name}"


async def test_a_picture_that_cannot_be_kept(here, history, monkeypatch):
    def full(raw, sha256):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history.images, "keep", full)
    async with running(eyes(), history=history) as chat:
        chat.app.composer.text = "See @cat.png"
        await chat.press("enter")
        await chat.until(lambda: "cat.png cannot be kept: No space left" in toasts(chat))
        assert chat.app.composer.text == "See @cat.png"


async def test_an_answer_that_fails_gives_the_question_back(here, history):
    engine = eyes([fails("cat.png cannot be shown: it is damaged.", "FormatError")], answers("A."))
    async with running(engine, history=history) as chat:
        await chat.ask("See @cat.png")
        await chat.sees("it is damaged")
        assert chat.app.composer.text == "See @cat.png"


async def test_a_picture_counts_in_the_context(here, history):
    (here / "large.png").write_bytes(picture(2000, 1600))
    small = (replace(SEES[0], context=2000), MEMORY)
    engine = FakeEngine(answers("A."), answers("B."), load=small)
    async with running(engine, history=history) as chat:
        await chat.asked("one")
        await chat.asked("two")
        chat.app.composer.text = "See @large.png"
        await chat.press("enter")
        await chat.sees("The context is full")
        await chat.press("escape")
        assert chat.app.composer.text == "See @large.png"


async def test_a_deleted_conversation_frees_its_pictures(here, history):
    async with running(eyes(*[answers("A.")] * 3), history=history) as chat:
        await chat.asked("See @cat.png and @dog.jpg")
        first = chat.session.keeper.session
        await chat.app.carry_out("new")
        await chat.asked("And @cat.png again")
        second = chat.session.keeper.session
    age(history)
    assert len(kept(history)) == 2
    with History.open(history.path) as again:
        again.delete(first)
    assert kept(history) == [HASH]
    with History.open(history.path) as again:
        again.delete(second)
    assert kept(history) == []


async def test_what_was_just_kept_is_not_swept_away(here, history):
    history.images.keep(RAW, HASH)
    history.delete("another")
    history.flush()
    assert kept(history) == [HASH]
    age(history)
    History.open(history.path).close()
    assert kept(history) == []


async def test_pictures_move_aside_with_a_damaged_history(here, history):
    history.images.keep(RAW, HASH)
    age(history)
    history.close()
    aside = set_aside(history.path)
    History.open(history.path).close()
    assert (aside.with_name(f"{aside.stem}-pictures") / HASH).read_bytes() == RAW


async def test_without_a_history_a_picture_is_gone_with_the_program(here):
    history = History.nowhere()
    async with running(eyes(answers("A cat.")), history=history) as chat:
        await chat.asked("See @cat.png")
        assert sent(chat)[0]["content"][0] == shown(history)
        folder = history.images.folder
    assert not folder.exists()


async def test_exports(here, history):
    async with running(eyes(answers("A cat.")), history=history) as chat:
        await chat.asked("See @cat.png")
        session = chat.session.keeper.session
    with History.open(history.path) as again:
        said = again.load(session)
    markdown, html = (FORMATS[form](said, history.images) for form in ("md", "html"))
    for text in (markdown, html, "\n".join(transcript(said))):
        assert "Picture cat.png (640 x 480 pixels)" in text
        assert HASH not in text
    assert f'<img alt="cat.png" src="data:image/png;base64,{b64encode(RAW).decode()}">' in html
    message = json.loads(FORMATS["json"](said, history.images))["messages"][0]
    assert message["pictures"] == [
        {"name": "cat.png", "width": 640, "height": 480, "tokens": 300, "sha256": HASH}
    ]
    history.images.path(HASH).unlink()
    assert "<img" not in FORMATS["html"](said, history.images)


@pytest.mark.slow
async def test_two_turns_with_the_real_engine(here, history, tmp_path):
    folder = seeing.save(tmp_path / "tiny-eye", heads=True)
    app = ChatApp(
        Engine.start(),
        load=Load(path=str(folder)),
        name="tiny-eye",
        restart=Engine.start,
        history=history,
        settings=Settings(tmp_path / "config.toml"),
        sampling=Sampling(max_tokens=12, temperature=0.0),
    )
    async with app.run_test(size=(80, 40)) as pilot:
        chat = Chat(app, pilot)
        while not chat.session.memory:
            await pilot.pause(0.1)
        await chat.ready()
        weights = chat.session.memory.weights
        stats = []
        for question in ("What is on @cat.png?", "And its colour?"):
            app.composer.text, before = question, chat.session.turn
            await chat.press("enter")
            while chat.session.turn is before or chat.session.turn.running:
                await pilot.pause(0.1)
            stats.append(chat.session.turn.stats)
        assert stats[0].prompt_tokens > 54 > stats[1].prompt_tokens - stats[1].cached_tokens
        assert chat.session.memory.weights > weights
        await chat.sees("▣ cat.png · 640 x 480 pixels · 54 tokens")
    app.session.engine.close()
