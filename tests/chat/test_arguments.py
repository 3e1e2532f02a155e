"""What follows a command: the list that names the command completes it, narrows it and runs it."""

from dataclasses import replace

import pytest

from mlxarch.app.chat.actions import ACTIONS
from mlxarch.app.chat.popup import AT_ONCE, CommandList
from mlxarch.app.engine.protocol import Load
from mlxarch.app.settings import PERSONAS, Persona, Settings

from .children import HERE, MODEL, Children
from .driver import running, toasts
from .fake import GATE, MEMORY, READY, FakeEngine, says

SWITCHES = [{"name": "enable_thinking", "values": [True, False]}]


def engine(*scripts):
    return FakeEngine(*scripts, load=(replace(READY, switches=SWITCHES), MEMORY))


def listed(chat):
    """What each line that is offered makes of the input."""
    popup = chat.app.query_one(CommandList)
    return [line.text for line in popup.found] if popup.display else []


async def offers(chat, typed, *wanted):
    """Type something; then these lines are offered, and no others."""
    await chat.press(*typed)
    await chat.until(lambda: listed(chat) == list(wanted))


@pytest.mark.parametrize("action", [one for one in ACTIONS if one.among], ids=lambda one: one.slash)
async def test_whatever_a_command_is_one_of_is_known(action):
    start = f"/{action.slash} "
    async with running(engine(), start_child=Children(HERE, {**HERE, "model": "b"})) as chat:
        await chat.press(*start)
        await chat.until(lambda: len([one for one in listed(chat) if one > start]) > 1)
        assert all(line.startswith(start) for line in listed(chat))


async def test_tab_completes_the_command_then_the_word_and_enter_runs_it():
    async with running(engine()) as chat:
        await chat.press(*"/th", "tab")
        await chat.until(lambda: "/theme nord" in listed(chat))
        await offers(chat, "nor", "/theme nord")
        await chat.sees("nord", "dark")
        await chat.press("tab")
        await chat.until(lambda: chat.app.composer.text == "/theme nord")
        assert chat.app.theme != "nord"
        await chat.press("enter")
        await chat.until(lambda: chat.app.theme == "nord")
        assert chat.app.composer.text == ""


async def test_enter_runs_the_line_that_arrows_have_chosen():
    async with running(engine()) as chat:
        await offers(chat, "/preset c", "/preset creative", "/preset precise", "/preset balanced")
        await chat.press("down", "enter")
        await chat.until(lambda: chat.session.sampling.temperature == 0.3)
        assert chat.app.composer.text == ""


async def test_a_click_runs_it():
    async with running(engine()) as chat:
        await offers(chat, "/persona TE", "/persona terse", "/persona teacher")
        await chat.pilot.click(CommandList, offset=(3, 1))
        await chat.until(lambda: chat.session.system == PERSONAS["teacher"].system)


async def test_escape_closes_the_list_and_enter_then_takes_what_is_typed():
    async with running(engine()) as chat:
        await offers(chat, "/persona ters", "/persona terse")
        await chat.press("escape")
        await chat.until(lambda: not listed(chat))
        assert chat.app.composer.text == "/persona ters"
        await chat.press("e")
        assert not listed(chat)
        await chat.press("enter")
        await chat.until(lambda: chat.session.system == PERSONAS["terse"].system)


async def test_a_command_that_needs_no_word_is_still_the_first_line():
    async with running(engine()) as chat:
        before = chat.app.theme
        await chat.press(*"/theme ")
        await chat.sees("/theme [NAME]")
        assert listed(chat)[0] == "/theme "
        await chat.press("enter")
        await chat.until(lambda: len(chat.app.screen_stack) > 1)  # to choose one by its looks
        assert chat.app.theme == before


async def test_tab_leaves_alone_what_is_one_s_own():
    async with running(engine([says("One."), GATE])) as chat:
        await chat.ask("a")
        await chat.press(*"/rename My title", "tab")
        await chat.sees("/rename TITLE")
        assert chat.app.composer.text == "/rename My title"
        await chat.press("enter")
        await chat.until(lambda: "is called “My title” now" in toasts(chat))


async def test_a_setting_is_completed_and_then_its_value():
    async with running(engine()) as chat:
        chat.app.action_set("temperature 0.4")
        await offers(chat, "/set te", "/set temperature ")
        await chat.sees("temperature           a number from 0 on, now 0.4")
        await chat.press("enter")  # something has to follow
        await chat.until(lambda: chat.app.composer.text == "/set temperature ")
        await chat.press(*"0.9")
        await chat.sees("temperature 0.9       a number from 0 on")
        await chat.press("enter")
        await chat.until(lambda: chat.session.sampling.temperature == 0.9)
        await offers(chat, "/set think", "/set thinking_tokens ", "/set enable_thinking ")
        await chat.press("down", "tab")
        wanted = [f"/set enable_thinking {value}" for value in (True, False)]
        await chat.until(lambda: listed(chat) == wanted)
        await offers(chat, "f", "/set enable_thinking False")
        await chat.press("enter")
        await chat.until(lambda: chat.session.sampling.switches == {"enable_thinking": False})


async def test_a_model_that_is_here_is_completed_and_loaded():
    children = Children(HERE, MODEL, {**HERE, "model": "arcee-ai/Trinity", "folder": "/trinity"})
    async with running(engine(), start_child=children) as chat:
        await offers(
            chat, "/model ", "/model ", "/model Nanbeige/Nanbeige4.1-3B", "/model arcee-ai/Trinity"
        )
        await chat.sees("Nanbeige 4.1 · 3.93B parameters")
        await offers(chat, "tri", "/model arcee-ai/Trinity")
        assert len(children.started) == 1
        await chat.press("enter")
        await chat.until(lambda: [one.path for one in chat.engine.of(Load)][1:] == ["/trinity"])
        assert len(chat.app.screen_stack) == 1


async def test_models_are_looked_for_anew_and_no_longer_than_a_name_is_typed():
    children = Children()
    async with running(engine(), start_child=children) as chat:
        await chat.press(*"/model x", *["backspace"] * 2)
        await chat.until(lambda: children.started[0].stopped)
        children.models = ({**HERE, "model": "just/fetched"},)
        await chat.press(*" just")
        await chat.until(lambda: listed(chat) == ["/model just/fetched"])
        assert len(children.started) == 2


async def test_names_of_one_s_own_are_offered_as_they_are_and_so_many_at_most(tmp_path):
    settings = Settings(tmp_path / "config.toml")
    settings.personas |= {f"one {i}": Persona("[b]Bold[/b]\x1b[31m") for i in range(3 * AT_ONCE)}
    async with running(engine(), settings=settings) as chat:
        await chat.press(*"/persona one")
        await chat.until(lambda: len(listed(chat)) == AT_ONCE)
        await chat.sees("one 0                 [b]Bold[/b]")
        await offers(chat, " 149", "/persona one 149")
        await chat.press("enter")
        await chat.until(lambda: chat.session.system == settings.personas["one 149"].system)
