"""Settings in the chat: their screen, their commands, and what is kept of them."""

from dataclasses import replace

import pytest
from textual.widgets import Checkbox, Input, Select, TextArea

from mlxarch.app.chat.settings import SettingsScreen
from mlxarch.app.engine.protocol import Generate
from mlxarch.app.sampling import Sampling
from mlxarch.app.settings import PERSONAS, Settings

from .children import Children
from .driver import running, toasts
from .fake import MEMORY, READY, FakeEngine, answers

THINKER = replace(
    READY,
    defaults={"temperature": 0.6, "top_p": 0.95},
    switches=[{"name": "enable_thinking", "values": [True, False]}],
)


def engine(*scripts):
    return FakeEngine(*(scripts or [answers("Yes.")] * 3), load=(THINKER, MEMORY))


def opened(chat):
    return isinstance(chat.app.screen, SettingsScreen)


async def settings_of(chat):
    await chat.press("f3")
    await chat.until(lambda: opened(chat))
    return chat.app.screen


async def applied(chat):
    await chat.press("ctrl+s")
    await chat.until(lambda: not opened(chat))


async def sent(chat):
    await chat.asked("And now?")
    return chat.engine.of(Generate)[-1]


async def test_the_publisher_s_defaults_are_shown_where_nothing_is_said():
    async with running(engine(), size=(80, 40)) as chat:
        await settings_of(chat)
        await chat.sees("0.6, the publisher's", "0.95, the publisher's", "enable_thinking")
        await applied(chat)
        generate = await sent(chat)
        assert (generate.temperature, generate.top_p, generate.switches) == (None, None, {})


async def test_what_is_applied_is_sent_with_the_next_answer():
    async with running(engine()) as chat:
        screen = await settings_of(chat)
        for name, text in {
            "temperature": "0.25",
            "top_k": "20",
            "seed": "7",
            "stop": "END|\\n\\n",
            "max_tokens": "99",
            "thinking_tokens": "64",
        }.items():
            screen.query_one(f"#{name}", Input).value = text
        screen.query_one("#system", TextArea).text = "Be brief."
        screen.query_one("#switch-enable_thinking", Select).value = "False"
        await applied(chat)
        generate = await sent(chat)
        assert generate.messages[0] == {"role": "system", "content": "Be brief."}
        assert (generate.temperature, generate.top_k, generate.seed) == (0.25, 20, 7)
        assert (generate.max_tokens, generate.thinking_tokens) == (99, 64)
        assert (generate.stop, generate.switches) == (["END", "\n\n"], {"enable_thinking": False})
        # The screen shows it again.
        screen = await settings_of(chat)
        assert screen.query_one("#temperature", Input).value == "0.25"
        assert screen.query_one("#stop", Input).value == "END|\\n\\n"


async def test_what_cannot_be_is_said_and_nothing_is_applied():
    async with running(engine()) as chat:
        screen = await settings_of(chat)
        screen.query_one("#top_p", Input).value = "2"
        await chat.press("ctrl+s")
        await chat.until(
            lambda: "wanted is a number above 0" in str(screen.query_one("#wrong").visual)
        )
        await chat.press("escape")
        await chat.until(lambda: not opened(chat))
        assert (await sent(chat)).top_p is None


async def test_a_persona_brings_its_words_and_its_preset():
    async with running(engine()) as chat:
        screen = await settings_of(chat)
        screen.query_one("#persona", Select).value = "reviewer"
        await chat.until(lambda: screen.query_one("#temperature", Input).value == "0.3")
        await applied(chat)
        generate = await sent(chat)
        assert generate.messages[0]["content"] == PERSONAS["reviewer"].system
        assert generate.temperature == 0.3


async def test_escape_leaves_all_as_it_was():
    async with running(engine()) as chat:
        screen = await settings_of(chat)
        screen.query_one("#temperature", Input).value = "1"
        await chat.press("escape")
        await chat.until(lambda: not opened(chat))
        assert (await sent(chat)).temperature is None


async def test_what_is_kept_for_a_model_is_there_the_next_time_and_for_no_other(tmp_path):
    file = tmp_path / "config.toml"
    async with running(engine(), settings=Settings(file)) as chat:
        screen = await settings_of(chat)
        screen.query_one("#temperature", Input).value = "0.5"
        screen.query_one("#keep", Checkbox).value = True
        await applied(chat)
    for options, wanted in (
        ({}, 0.5),
        ({"name": "another"}, None),
        ({"sampling": Sampling(temperature=0.0)}, 0.0),
    ):
        async with running(engine(), settings=Settings(file), **options) as chat:
            assert (await sent(chat)).temperature == wanted


async def test_whether_it_is_kept_is_seen_without_colours():
    async with running(engine()) as chat:
        screen = await settings_of(chat)
        box = screen.query_one("#keep", Checkbox)
        assert box.render().plain == "[ ] Keep this for the model "
        box.focus()
        await chat.press("space")
        await chat.until(lambda: box.render().plain == "[✓] Keep this for the model ")


async def test_another_model_has_its_own(tmp_path):
    settings = Settings(tmp_path / "config.toml")
    settings.keep("Nanbeige/Nanbeige4.1-3B", Sampling(temperature=0.9))
    told = Sampling(top_k=5)
    async with running(engine(), settings=settings, start_child=Children(), sampling=told) as chat:
        assert chat.session.sampling == told
        await chat.press("f2")
        await chat.sees("Here")
        await chat.press("enter")
        await chat.until(lambda: chat.session.sampling == Sampling(temperature=0.9, top_k=5))


async def test_a_theme_is_kept(tmp_path):
    file = tmp_path / "config.toml"
    async with running(engine(), settings=Settings(file)) as chat:
        assert not file.exists()
        await chat.app.carry_out("theme", "mlxarch-light")
        await chat.until(lambda: Settings(file).theme == "mlxarch-light")
    async with running(engine(), settings=Settings(file)) as chat:
        assert chat.app.theme == "mlxarch-light"


async def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "config.toml").mkdir()
    settings = Settings(tmp_path / "absent.toml")
    settings.path = tmp_path / "config.toml"
    async with running(engine(), settings=settings) as chat:
        await chat.app.carry_out("theme", "nord")
        await chat.until(lambda: "Nothing was kept" in toasts(chat))
        assert chat.app.theme == "nord"


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("/set temperature 0.5", {"temperature": 0.5}),
        ("/set top_k=40", {"top_k": 40}),
        ("/set stop A|B", {"stop": ["A", "B"]}),
        ("/set enable_thinking false", {"switches": {"enable_thinking": False}}),
        ("/preset creative", {"temperature": 1.0, "top_p": 0.98, "min_p": 0.02}),
    ],
)
async def test_commands_set_one_thing(command, change):
    async with running(engine()) as chat:
        before = chat.session.sampling
        chat.app.composer.text = command
        await chat.press("enter")
        await chat.until(lambda: chat.session.sampling == replace(before, **change))
        await chat.until(lambda: "From the next answer on" in toasts(chat))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/set heat 3", "There is no setting heat; there are max_tokens"),
        ("/set top_p 3", "wanted is a number above 0"),
        ("/set enable_thinking maybe", "wanted is True or False"),
        ("/preset none", "There is no preset none"),
        ("/persona none", "There is no persona none"),
    ],
)
async def test_commands_say_what_cannot_be_set(command, words):
    async with running(engine()) as chat:
        before = chat.session.sampling
        chat.app.composer.text = command
        await chat.press("enter")
        await chat.until(lambda: words in toasts(chat))
        assert chat.session.sampling == before


async def test_a_system_prompt_and_a_persona_by_command():
    async with running(engine()) as chat:
        chat.app.composer.text = "/system Be kind."
        await chat.press("enter")
        await chat.until(lambda: chat.session.system == "Be kind.")
        chat.app.composer.text = "/persona plain"
        await chat.press("enter")
        await chat.until(lambda: chat.session.system is None)
