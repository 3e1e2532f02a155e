"""Choosing a model: what is here, what fits, what is fetched meanwhile."""

import sys

import pytest
from textual.widgets import Input

from mlxarch.app.chat.offers import Download, Offer
from mlxarch.app.chat.picker import Picker
from mlxarch.app.children import Process
from mlxarch.app.engine.protocol import Load

from .children import BF16, HERE, LARGE, MODEL, Children
from .driver import running, toasts
from .fake import GATE, FakeEngine, answers, ends, reads, says

REPO = MODEL["repo"]
FETCH = ("models", "fetch", REPO)


@pytest.fixture
def children():
    return Children()


def picked(chat):
    return isinstance(chat.app.screen, Picker)


async def opened(chat):
    await chat.press("f2")
    await chat.until(lambda: picked(chat) and chat.app.screen.chosen is not None)


def loads(chat):
    return [command.path for command in chat.engine.of(Load)]


async def test_what_is_here_and_what_may_be_fetched_are_listed_with_their_verdicts(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.sees("Here", "◐ Nanbeige/Nanbeige4.1-3B", "To be fetched", f"● {REPO[:25]}")
        await chat.sees("○ moonshotai/Kimi-K2.5", "595 GB")
        # Of two forms the one that fits.
        assert "arcee-ai/Trinity-Mini" not in chat.screen()
        await chat.press("down")
        await chat.sees("16.4 GB weights + 1.3 GB cache of 32,768 tokens + 73.4 MB to read")
        await chat.sees("fits: 17.7 GB of 25.3 GB · at most 11 tokens/s (estimate)")


async def test_what_is_here_comes_last_and_is_chosen_first():
    async with running(FakeEngine(), start_child=Children(MODEL, LARGE, HERE)) as chat:
        await opened(chat)
        await chat.until(lambda: chat.app.screen.chosen.folder == HERE["folder"])


async def test_enter_loads_what_is_here_and_the_conversation_goes_on(children):
    engine = FakeEngine(answers("One."), answers("Two."))
    async with running(engine, start_child=children) as chat:
        await chat.asked("First?")
        await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: not picked(chat))
        assert loads(chat) == ["/models/nanbeige", "/cache/nanbeige"]
        await chat.sees("Nanbeige/Nanbeige4.1-3B", "One.")
        await chat.ready()
        await chat.asked("Second?")
        sent = engine.sent[-1].messages
        assert [message["content"] for message in sent] == ["First?", "One.", "Second?"]


async def test_typing_filters_and_the_hub_is_searched_only_when_asked(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press(*"kimi")
        await chat.until(lambda: "Trinity" not in chat.screen())
        await chat.sees("moonshotai/Kimi-K2.5", "Search the hub for kimi")
        assert [child.arguments[0] for child in children.started] == ["fit"]
        await chat.press("down", "enter")
        search = children.of("models", "search", "kimi")
        search.tell({"repo": "some/Kimi-tiny", "family": "Kimi K2.5", "bytes": 1_000_000})
        search.tell({"repo": "other/K2", "family": "Kimi K2.5", "bytes": 2_000_000})
        search.end()
        await chat.sees("On the hub", "some/Kimi-tiny", "other/K2")
        await chat.until(lambda: getattr(chat.app.screen.chosen, "repo", "") == "some/Kimi-tiny")
        # Other words are not about what was found by these.
        await chat.press("space", *"tiny")
        await chat.until(lambda: "other/K2" not in chat.screen())
        await chat.sees("some/Kimi-tiny")


async def test_a_search_that_finds_nothing_says_so(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press(*"xyz", "enter")
        await chat.sees("Searching the hub for xyz ...")
        children.of("models", "search").end()
        await chat.sees("Nothing to run on the hub for xyz.")


async def test_what_is_found_can_be_fetched_also_once_it_is_known_to_fit(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press(*"tiny", "enter")
        search = children.of("models", "search")
        for repo in ("some/tiny-0", "some/tiny-1"):
            search.tell({"repo": repo, "family": "Trinity", "bytes": 1_000_000})
        search.end()
        await chat.until(lambda: getattr(chat.app.screen.chosen, "repo", "") == "some/tiny-0")
        await chat.press("down", "enter")
        one = children.of("fit", "some/tiny-1", "--json")
        told = {**BF16, "model": "some/tiny-1", "verdict": "fits"}
        one.tell({**told, "repo": "some/tiny-1"}, {**told, "form": "4 bits", "repo": ""})
        one.end()
        await chat.sees("fits: 106 GB", "Enter again fetches")
        shown = [offer.repo for offer in chat.app.screen.offers.found]
        assert shown == ["some/tiny-0", "some/tiny-1"]
        await chat.press("enter")
        assert children.of("models", "fetch", "some/tiny-1")


async def test_what_has_to_be_made_says_by_which_command():
    made = {**MODEL, "repo": ""}
    async with running(FakeEngine(), start_child=Children(BF16, made)) as chat:
        await opened(chat)
        await chat.sees("mlxarch convert arcee-ai/Trinity-Mini FOLDER --bits 4")
        await chat.press("enter")
        await chat.until(lambda: "mlxarch convert arcee-ai/Trinity-Mini" in toasts(chat))


async def test_a_search_that_fails_says_why(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press(*"xyz", "enter")
        children.of("models", "search").end(6, "HubError: The hub cannot be reached.")
        await chat.sees("HubError: The hub cannot be reached.")


async def test_a_download_is_confirmed_shown_paused_and_gone_on_with(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press("down", "enter")
        await chat.sees("Enter again fetches 14.7 GB.")
        assert not any(child.arguments[0] == "models" for child in children.started)
        await chat.press("enter")
        await chat.until(lambda: any(c.arguments == [*FETCH, "--json"] for c in children.started))
        first = children.of(*FETCH)
        first.tell({"event": "fetch", "done": 3_000_000_000, "total": 14_700_000_000})
        await chat.sees("20% running", "Fetching, 3.0 GB of 14.7 GB", "Enter pauses")
        await chat.press("enter")
        await chat.sees("20% paused", "Enter goes on")
        assert first.stopped
        first.end(-15)
        await chat.press("enter")
        again = children.of(*FETCH)
        assert again is not first
        again.tell({"event": "done", "folder": "/cache/trinity"})
        again.end()
        await chat.until(lambda: "is here" in toasts(chat))
        await chat.sees("Enter loads it.")
        await chat.press("enter")
        await chat.until(lambda: loads(chat)[-1] == "/cache/trinity")


async def test_a_download_goes_on_while_one_chats_and_its_end_is_said(children):
    engine = FakeEngine([reads(0, 9), says("Yes."), GATE, says(" Done."), ends()])
    async with running(engine, start_child=children) as chat:
        await opened(chat)
        await chat.press("down", "enter", "enter")
        await chat.press("escape")
        await chat.until(lambda: not picked(chat))
        await chat.ask("Still there?")
        fetch = children.of(*FETCH)
        fetch.tell({"event": "fetch", "done": 1, "total": 2})
        await chat.sees("fetching 50 %")
        fetch.end(6, "HubError: The network is gone.")
        await chat.until(lambda: "The network is gone." in toasts(chat))
        # No other model while this one answers.
        assert not chat.app.check_action("models", ())
        assert "fetching" not in chat.screen()
        engine.open()
    assert not fetch.stopped


async def test_leaving_the_chat_pauses_what_is_being_fetched(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press("down", "enter", "enter")
        await chat.until(lambda: bool(chat.app.downloads))
        fetch = children.of(*FETCH)
    assert fetch.stopped


async def test_what_is_too_large_may_be_fetched_all_the_same(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press(*"kimi", "enter")
        await chat.sees("Enter again fetches 595 GB all the same.")


async def test_a_folder_may_be_typed(children, tmp_path):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        chat.app.screen.query_one(Input).value = str(tmp_path)
        await chat.sees(f"Load {tmp_path}"[:40])
        await chat.press("enter")
        await chat.until(lambda: "has no config.json" in chat.app.screen.status)
        assert loads(chat) == ["/models/nanbeige"]  # which goes on
        (tmp_path / "config.json").write_text("{}")
        await chat.press("enter")
        await chat.until(lambda: loads(chat)[-1] == str(tmp_path))
        await chat.app.action_models(str(tmp_path))
        assert not picked(chat)


async def test_the_sums_are_made_for_another_context(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.press("f4")
        assert children.started[0].stopped
        assert children.started[-1].arguments == ["fit", "--json", "--context", "131072"]


async def test_a_mouse_can_choose(children):
    async with running(FakeEngine(), start_child=children) as chat:
        await opened(chat)
        await chat.pilot.click("#picker-list", offset=(4, 1))
        await chat.until(lambda: not picked(chat))
        assert loads(chat)[-1] == "/cache/nanbeige"


async def test_a_model_is_loaded_into_a_new_engine_if_the_old_one_is_gone(children):
    engines = [FakeEngine()]
    async with running(FakeEngine(), start_child=children, restart=lambda: engines[0]) as chat:
        chat.engine.die(-9)
        await chat.sees("The engine stopped")
        await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: [c.path for c in engines[0].of(Load)] == ["/cache/nanbeige"])
        engines[0].close()


@pytest.mark.parametrize("first", [BF16, MODEL])
async def test_of_two_forms_the_suggested_one_is_shown(first):
    forms = [first, BF16 if first is MODEL else MODEL]
    async with running(FakeEngine(), start_child=Children(*forms)) as chat:
        await chat.press("f2")
        await chat.until(
            lambda: chat.app.screen.chosen and len(chat.app.screen.offers.afar[0]) == 2
        )
        assert chat.app.screen.chosen.form == "4 bits"


def test_parameters_that_are_all_read_are_told_once():
    assert "3.06B active" in Offer.of(MODEL).about
    assert "active" not in Offer.of(HERE).about


def test_a_download_knows_its_pace():
    now = [0.0]
    download = Download("a/b", lambda: None, lambda: now[0])
    children = Children()
    download.go(children)
    for seconds, done in ((0, 1_000_000_000), (10, 2_000_000_000)):
        now[0] = float(seconds)
        children.started[0].tell({"event": "fetch", "done": done, "total": 4_000_000_000})
    assert download.progress == ("Fetching, 2.0 GB of 4.0 GB, 100 MB/s, about 20 s left.")


def test_a_process_tells_its_lines_and_how_it_ended(tmp_path):
    import threading

    over, told, ends = threading.Event(), [], []

    def ended(code, words):
        ends.append((code, words))
        over.set()

    Process(["models", "--nonsense"], told.append, ended)
    assert over.wait(60)
    assert ends[0][0] == 2
    assert "nonsense" in ends[0][1]
    assert told == []
    assert sys.executable


@pytest.mark.parametrize("words", ["~nobodyatall/x", "x" * 300])
async def test_a_name_that_no_folder_can_have_is_looked_for(children, words):
    async with running(FakeEngine(), start_child=children) as chat:
        await chat.command(f"/model {words}")
        await chat.until(lambda: picked(chat))
        assert loads(chat) == ["/models/nanbeige"]
