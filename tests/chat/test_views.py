"""A growing answer, rendered piece by piece."""

import pytest
from textual.app import App

from mlxarch.app.chat.thread import TranscriptView
from mlxarch.app.chat.transcript import Turn

from .driver import shown

TEXT = """\
# Title

Some *text* and `code`,
second line.

1. one

   ```py
   x = 1

   y = 2
   ```
2. two
   - nested

```py
def f():

    return 1
```
| a | b |
|---|---|
| 1 | 2 |
| 3 | 4 |

> quoted
> more

---
Last:
""" + "".join(f"- item {i}\n" for i in range(30))
TEXT += "\nThe end.\n\n~~~\n" + "code\n" * 90


class Page(App):
    def compose(self):
        yield TranscriptView()

    async def show(self, text, pieces):
        """The blocks of an answer that came in so many pieces, and what they say."""
        turn = Turn(id=1, question="?", asked=0.0)
        transcript = self.query_one(TranscriptView)
        await transcript.add(turn)
        view = transcript.view(turn)
        step = -(-len(text) // pieces)
        for end in range(step, len(text) + step, step):
            turn.text = text[:end]
            await view.show()
        turn.ended = "stop"
        await view.show()
        assert not view.answer.tail.display
        return [type(part).__name__ for part in view.answer.parts], shown(view.answer)


@pytest.mark.parametrize("pieces", [7, 61])
async def test_a_text_that_came_in_pieces_looks_like_one_that_came_at_once(pieces):
    app = Page()
    async with app.run_test():
        assert await app.show(TEXT, pieces) == await app.show(TEXT, 1)


async def test_a_line_of_a_list_waits_as_plain_text_until_it_is_complete():
    """A list is built anew with every change, which costs too much for every token."""
    app = Page()
    async with app.run_test():
        transcript, turn = app.query_one(TranscriptView), Turn(id=1, question="?", asked=0.0)
        turn.text = "- one\n- **tw"
        await transcript.add(turn)
        view = transcript.view(turn)
        assert shown(view.answer) == "• one\n- **tw"


async def test_an_answer_that_is_no_longer_on_the_screen_may_still_grow():
    app = Page()
    async with app.run_test():
        transcript, turn = app.query_one(TranscriptView), Turn(id=1, question="?", asked=0.0)
        await transcript.add(turn)
        view = transcript.view(turn)
        await view.remove()
        turn.text = "Late."
        await view.show()


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "[", "| a", "|\n|-", "```", "* * *\n-", "[a]: b\n", "<", "\x00\x1b[31m", "\t- a"],
)
async def test_no_text_breaks_the_screen(text):
    app = Page()
    async with app.run_test():
        await app.show(text + "x", 1 + len(text))


async def test_no_line_of_long_code_is_broken_where_it_goes_on_as_plain_text():
    app = Page()
    async with app.run_test(size=(80, 60)):
        turn = Turn(id=1, question="?", asked=0.0)
        transcript = app.query_one(TranscriptView)
        await transcript.add(turn)
        view = transcript.view(turn)
        code = "```py\n" + "".join(f"line = {i}\n" for i in range(20))
        for end in (code.index("7"), len(code) - 3):
            turn.text = code[:end]
            await view.show()
        assert view.answer.tail.display
        assert "line = 7" in shown(view.answer)
        assert view.answer.tail.text.startswith("line = 8")
