"""What the chat looks like. After a change: `make snap`, then look at the pictures."""

from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path

import pytest

from mlxarch.app.chat import sessions
from mlxarch.app.engine.protocol import ToolCall
from mlxarch.app.settings import Settings

from .driver import Chat, chat_app
from .fake import GATE, MEMORY, READY, FakeEngine, answers, costs, ends, fails, reads, says, thinks

SIZES = [(80, 24), (120, 40)]
QUESTION = "How do I convert a model,\nand what does it cost?"
START = """\
Converting takes **one command**, and a model larger than memory is fine:

```python
import mlxarch

model = mlxarch.load("out/nanbeige")  # lazily
```

What it costs, *roughly*:

1. **Disk**: the result, plus one shard of `1 GB`.
2. **Time**: what reading the source takes.
"""
REST = """\
   - longer from the hub
   - shorter the second time

| dtype | bytes a weight | KL |
|---|---:|---:|
| bfloat16 | 2 | 0 |
| 4 bits | 0.56 | 0.021 |

> See [the readme](https://example.org).
"""
TIMES = [23, 21, 24, 22, 26, 23, 25, 24, 58, 23, 22, 27, 24, 23, 140, 25, 22, 24, 23, 31]
FIGURES = costs(prompt=1812, cached=1290, prefill=0.61, first=0.84, tokens=100)
DONE = [reads(1812, 1812, 1290), says(START, *TIMES * 3), says(REST, *TIMES * 2), FIGURES, ends()]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def looks(request, snap_compare):
    """Compares the screen, after a conversation with an engine, with the accepted picture."""
    engines = []

    def compare(engine, talk, **options):
        engines.append(engine)
        theme = options.pop("theme", "mlxarch-dark")
        app = chat_app(engine, **options)

        async def run(pilot):
            chat = Chat(app, pilot)
            await chat.ready()
            app.theme = theme
            await talk(chat)
            await pilot.pause()

        return snap_compare(app, terminal_size=request.param, run_before=run)

    yield compare
    for engine in engines:
        engine.close()


def drafted(text, *milliseconds):
    """A delta of a model that has its tokens guessed: three of four, at next to no cost."""
    times = [ms for own in milliseconds for ms in (own, own / 8, own / 9, own / 8)]
    guessed = [index % 4 > 0 for index in range(len(times))]
    return says(text, *times, guessed=guessed, rejected=len(milliseconds) // 2)


async def nothing(chat):
    """Just look."""


def test_the_guide_introduces_itself(looks):
    assert looks(FakeEngine(), nothing, name="guide", guide=True)


def test_a_model_is_described(looks):
    assert looks(FakeEngine(), nothing)


def test_the_prompt_is_read(looks):
    async def talk(chat):
        await chat.ask("Summarise this file.")
        chat.session.clock.now = 3.0
        chat.engine.open()
        await chat.sees("2,560")

    script = [reads(1024, 4096, 1024), GATE, reads(2560, 4096, 1024), GATE]
    assert looks(FakeEngine(script), talk)


def test_an_answer_grows(looks):
    async def talk(chat):
        chat.session.clock.now = 10.0
        await chat.ask(QUESTION)
        chat.session.clock.now = 12.7
        chat.engine.open()
        await chat.until(lambda: chat.view().answer.rendered == len(START) and not chat.app.due)

    assert looks(FakeEngine([GATE, says(START, *TIMES * 3), GATE]), talk)


def test_an_answer_whose_tokens_are_guessed(looks):
    async def talk(chat):
        await chat.ask(QUESTION)
        await chat.sees("right, 20 wrong")
        await chat.until(lambda: not chat.app.due)

    assert looks(FakeEngine([drafted(START, *TIMES), drafted(REST, *TIMES), GATE]), talk)


def test_an_answer_is_complete(looks):
    async def talk(chat):
        await chat.asked(QUESTION)

    assert looks(FakeEngine(DONE), talk)


def test_all_figures_of_an_answer(looks):
    async def talk(chat):
        await chat.asked(QUESTION)
        await chat.command("/figures")
        await chat.sees("by the model")

    whole = costs(prompt=1812, cached=1290, prefill=0.61, first=0.84, tokens=160, guessed=(120, 20))
    script = [drafted(START, *TIMES), drafted(REST, *TIMES), whole, ends()]
    assert looks(FakeEngine(script), talk)


def test_an_answer_token_by_token(looks):
    def spelled(text, *times):
        size = -(-len(text) // len(times))
        lengths = [len(text[at : at + size]) for at in range(0, len(text), size)]
        guessed = [index % 3 == 2 for index in range(len(lengths))]
        return says(text, *times[: len(lengths)], lengths=lengths, guessed=guessed)

    async def talk(chat):
        await chat.asked(QUESTION)
        await chat.command("/tokens")
        await chat.sees("guessed")

    assert looks(FakeEngine([spelled(START, *TIMES * 4), costs(), ends()]), talk)


def test_memory_and_context_are_nearly_full(looks):
    async def talk(chat):
        await chat.asked("Hello")

    full = replace(MEMORY, active=12_900_000_000, cache=5_030_000_000)
    engine = FakeEngine(answers("Hello!"), load=(replace(READY, context=72), full))
    assert looks(engine, talk)


def test_the_light_theme(looks, tmp_path):
    async def talk(chat):
        await chat.asked(QUESTION)

    settings = Settings(tmp_path / "config.toml")  # where it is kept
    assert looks(FakeEngine(DONE), talk, theme="mlxarch-light", settings=settings)


def test_thoughts_are_folded(looks):
    async def talk(chat):
        await chat.asked("How many r in strawberry?")
        await chat.ask("And in raspberry?")
        await chat.sees("p, b")

    first = [thinks("Let me count."), says("There are **three**."), costs(), ends()]
    second = [thinks("Let me count again.\nr, a, s, p, b", *TIMES), GATE]
    assert looks(FakeEngine(first, second), talk)


def test_an_error_and_the_end_of_the_engine(looks):
    async def talk(chat):
        await chat.asked("Hello")
        await chat.asked("Read these 900 pages.")
        chat.engine.die(-9, "Insufficient Memory (00000008)")
        await chat.sees("exit code")

    error = fails("The prompt has 270,112 tokens; the model keeps 262,144. Shorten it.")
    assert looks(FakeEngine(answers("Hello! How can I help?"), [error]), talk)


def test_the_help(looks):
    async def talk(chat):
        await chat.asked("Hello")
        await chat.press("f1")
        await chat.sees("Esc closes")

    assert looks(FakeEngine(answers("Hello! How can I help?")), talk)


def test_commands_are_offered(looks):
    async def talk(chat):
        await chat.asked("Hello")
        await chat.press("slash")
        await chat.sees("/select")

    assert looks(FakeEngine(answers("Hello! How can I help?")), talk)


def test_what_follows_a_command_is_offered(looks):
    async def talk(chat):
        await chat.press(*"/persona e", "down")

    assert looks(FakeEngine(), talk)


def test_a_message_is_selected(looks):
    async def talk(chat):
        await chat.asked(QUESTION)
        await chat.press("ctrl+g")
        await chat.until(lambda: not chat.session.busy and chat.settled())
        await chat.press("ctrl+up")
        await chat.sees("Continue")

    stopped = [says("Half an answer, **with** text."), costs(), ends("cancelled")]
    assert looks(FakeEngine(answers("One."), stopped), talk)


def test_deleting_is_asked_about(looks):
    async def talk(chat):
        await chat.asked("Hello")
        await chat.press("ctrl+up", "d")
        await chat.sees("Delete for good")

    assert looks(FakeEngine(answers("Hello! How can I help?")), talk)


def test_conversations_are_listed(looks, monkeypatch):
    monkeypatch.setattr(sessions, "when", lambda seconds, now: "14:05")

    async def talk(chat):
        await chat.asked("How do I convert a model?")
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.app.query("#welcome"))
        await chat.asked("What is a window?")
        await chat.press("ctrl+o")
        await chat.sees("How do I convert", "open now")

    assert looks(FakeEngine(answers("With mlxarch convert."), answers("A limit.")), talk)


def test_a_full_context_is_a_choice(looks):
    async def talk(chat):
        for question in ("a", "b"):
            await chat.asked(question)
        await chat.ask("And now read these 900 pages.")
        await chat.sees("Neither")

    error = fails("The prompt has 270,112 tokens; the model keeps 262,144.", kind="ContextFull")
    assert looks(FakeEngine(answers("One."), answers("Two."), [error]), talk)


def test_calls_of_tools_are_shown(looks):
    async def talk(chat):
        await chat.asked("What is the weather in Cologne?")

    call = partial(ToolCall, name="look_up", arguments='{"city": "Cologne", "days": 2}')
    script = [says("I look it up."), lambda id: call(id=id), costs(), ends()]
    assert looks(FakeEngine(script), talk)


def test_questions_wait(looks):
    async def talk(chat):
        await chat.ask(QUESTION)
        for question in ("And in 4 bits?", "How long does that take on a machine with two cores?"):
            chat.app.composer.text = question
            await chat.press("enter")
        await chat.sees("Sent when", " 2. How")

    assert looks(FakeEngine([says(START, *TIMES * 3), GATE]), talk)


def test_every_picture_has_its_test():
    """Processes that run tests at once cannot tell, as each runs but some of them."""
    pictures = Path(__file__).parent / "__snapshots__" / Path(__file__).stem
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    taken = [name for name, test in tests.items() if "looks" in signature(test).parameters]
    wanted = {f"{name}[{width}x{height}].svg" for name in taken for width, height in SIZES}
    assert {path.name for path in pictures.iterdir()} == wanted
