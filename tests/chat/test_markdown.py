"""Markdown: all that is no code is one widget."""

import asyncio
import threading

import pytest
from textual.app import App

from mlxarch.app.chat import colours, prose
from mlxarch.app.chat.answer import Answer
from mlxarch.app.chat.code import Block
from mlxarch.app.chat.colours import coloured, lexer_of
from mlxarch.app.chat.lines import Lines, Tail
from mlxarch.app.chat.prose import CODE_LINES, Listing, Prose
from mlxarch.app.chat.tables import fitted


class Page(App):
    def __init__(self, text):
        super().__init__()
        self.text = text

    CSS = "Answer, Prose, Listing { height: auto; padding: 0 2 0 0; }"

    def compose(self):
        yield Answer()

    async def on_mount(self):
        await self.query_one(Answer).show(self.text, running=False)

    def drawn(self):
        """What is seen of the first block of lines."""
        block = self.query(Lines).first()
        return [block.render_line(y).text.rstrip() for y in range(block.size.height)]


async def draw(text, size=(40, 24)):
    app = Page(text)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        return app.drawn()


async def test_a_list_hangs_below_its_bullets_and_numbers():
    text = "9. one\n10. a line that is too long for its page\n    - deep\n      > said\n    -\n"
    assert await draw(text, (33, 24)) == [
        "  9. one",
        " 10. a line that is too long",
        "     for its page",
        "     • deep",
        "       ▌ said",
        "     •",
    ]


async def test_code_and_a_table_in_a_list_are_lines_of_it():
    text = "- a\n\n  ```py\n  x = 1\n\n  y\n  ```\n- | a | b |\n  |---|---|\n  | 1 | 2 |\n"
    assert await draw(text) == ["• a", "  x = 1", "", "  y", "• a │ b", "  1 │ 2"]


async def test_a_table_is_as_narrow_as_it_can_be_and_keeps_to_its_sides():
    text = "| name | n |\n|:--|--:|\n| **a** | 1 |\n| b | 1,000 |\n"
    assert await draw(text) == [
        " name │     n",
        "──────┼───────",
        " a    │     1",
        " b    │ 1,000",
    ]


async def test_the_widest_column_of_a_table_is_broken_where_there_is_no_room():
    text = "| a | b |\n|---|---|\n| 1 | so many words that they do not fit |\n| 2 | few |\n"
    assert await draw(text, (28, 24)) == [
        " a │ b",
        "───┼────────────────────",
        " 1 │ so many words that",
        "   │ they do not fit",
        "───┼────────────────────",
        " 2 │ few",
    ]


@pytest.mark.parametrize(
    ("natural", "room", "widths"),
    [
        ([5, 9], 20, [5, 9]),
        ([5, 30], 20, [5, 15]),
        ([30, 5, 40], 25, [10, 5, 10]),
        ([9, 9, 9], 3, [3, 3, 3]),
        ([0, 2], 9, [1, 2]),
    ],
)
def test_columns_share_the_room_there_is(natural, room, widths):
    assert fitted(natural, room) == widths


async def test_however_long_a_list_is_it_is_one_widget():
    app = Page("".join(f"- item {i}\n  - and more\n" for i in range(300)))
    async with app.run_test():
        assert len(app.query(Lines)) == 1
        assert app.query_one(Prose).size.height == 600


async def test_long_code_is_coloured_a_little_later():
    app = Page("```py\n" + "x = 'text'\n" * (CODE_LINES + 1) + "```\n")
    async with app.run_test() as pilot:
        block = app.query_one(Listing)
        assert block.text.startswith("x = 'text'\nx =")
        await app.workers.wait_for_complete()
        await pilot.pause()
        colours = {segment.style.color for segment in block.render_line(0) if segment.text.strip()}
        assert len(colours) > 1
        assert block.text.count("\n") == CODE_LINES


async def test_a_language_is_learnt_in_another_thread(monkeypatch):
    threads = []

    def learn(language):
        threads.append(threading.current_thread())
        return lexer_of(language)

    monkeypatch.setattr(colours, "_known", {})
    monkeypatch.setattr(prose, "lexer_of", learn)
    app = Page("```ruby\nputs 'text'\n```\n")
    async with app.run_test() as pilot:
        block = app.query_one(Listing)
        await app.workers.wait_for_complete()
        await pilot.pause()
        seen = {segment.style.color for segment in block.render_line(0) if segment.text.strip()}
        assert len(seen) > 1
        assert threading.main_thread() not in threads
        block.take(Block("ruby", "puts 'text', 1"))  # at once, from now on
        assert len({span.style for span in block.lines[0].spans}) > 1
    assert len(threads) == 1


async def test_long_code_is_coloured_in_turns_with_all_else(monkeypatch):
    turns, counts = [], []

    def noted(*given):
        for line in coloured(*given):
            asyncio.get_running_loop().call_soon(turns.append, line)
            yield line
            counts.append(len(turns))

    monkeypatch.setattr(prose, "TURN", 0.0)
    monkeypatch.setattr(prose, "coloured", noted)
    app = Page("```py\n" + "x = 'text'\n" * (CODE_LINES + 1) + "```\n")
    async with app.run_test():
        await app.workers.wait_for_complete()
    assert counts == list(range(1, CODE_LINES + 2))


async def test_of_code_that_changes_while_it_is_coloured_the_new_one_is_shown(monkeypatch):
    monkeypatch.setattr(prose, "TURN", 0.0)
    app = Page("```py\n" + "x = 'text'\n" * (CODE_LINES + 1) + "```\n")
    async with app.run_test() as pilot:
        block = app.query_one(Listing)
        await pilot.pause(5 * prose.PAUSE)
        block.take(Block("py", "y = 1"))
        await app.workers.wait_for_complete()
        assert block.text == "y = 1"


async def test_a_link_in_a_list_can_be_clicked():
    clicked = []

    class Linked(Page):
        def on_prose_linked(self, event):
            clicked.append(event.address)

    app = Linked("- see [this](https://example.org)\n")
    async with app.run_test() as pilot:
        await pilot.click(Prose, offset=(7, 0))
        await pilot.pause()
    assert clicked == ["https://example.org"]


async def test_what_is_selected_in_a_list_is_copied_as_text():
    app = Page("- one\n- two\n- three\n")
    async with app.run_test() as pilot:
        await pilot.mouse_down(Prose, offset=(2, 0))
        await pilot.hover(Prose, offset=(4, 1))
        await pilot.mouse_up(Prose, offset=(4, 1))
        assert app.screen.get_selected_text() == "one\n• two"


async def test_what_is_broken_at_the_edge_is_copied_in_one_piece():
    app = Page(
        "see the **first** text,\nand\n\n- the second text of it\n\n```\n" + "x" * 30 + "\n```\n"
    )
    async with app.run_test(size=(17, 24)) as pilot:
        await pilot.mouse_down(Prose, offset=(4, 0))
        await pilot.hover(Listing, offset=(5, 1))
        await pilot.mouse_up(Listing, offset=(5, 1))
        assert "\n".join(app.drawn()) == "see the first\ntext,\nand\n\n• the second\n  text of it"
        copied = "the first text,\nand\n\n• the second text of it\n"
        assert app.screen.get_selected_text() == copied + "x" * 18


async def test_a_double_click_selects_a_paragraph_and_a_third_one_all():
    app = Page("one\n\n# two\n\nthree **is** here,\nand goes on\n\nfour\n")
    async with app.run_test(size=(40, 24)) as pilot:
        await pilot.click(Prose, offset=(1, 5), times=2)
        assert app.screen.get_selected_text() == "three is here,\nand goes on"
        await pilot.click(Prose, offset=(1, 5), times=3)
        assert app.screen.get_selected_text().startswith("one\n\ntwo\n\nthree")


class Growing(App):
    def compose(self):
        yield Tail()


async def test_a_tail_that_grew_looks_like_one_that_was_there_at_once():
    text = "def f():\n\treturn 1\n" + "x" * 50 + "\n\nlast"
    app = Growing()
    async with app.run_test(size=(20, 24)):
        tail = app.query_one(Tail)
        for end in range(1, len(text) + 1):
            tail.follow(text[:end], 0, code=True)
            grown = [row.text.plain for row in tail.rows(20)]
        tail.follow(text, 1, code=True)  # from the beginning, since it begins elsewhere
        assert grown == [row.text.plain for row in tail.rows(20)]
        assert grown == ["def f():", "        return 1", "x" * 20, "x" * 20, "x" * 10, "", "last"]


async def test_a_row_is_drawn_once_however_the_text_grows(monkeypatch):
    drawn, draw_row = [], Tail.render_line
    monkeypatch.setattr(Tail, "render_line", lambda self, y: drawn.append(y) or draw_row(self, y))
    text = "".join(f"line {n}\n" for n in range(6))

    class Growing(App):
        CSS = "Tail { height: auto; padding: 0 2 0 0; }"

        def compose(self):
            yield Tail()

    app = Growing()
    async with app.run_test() as pilot:
        for length in (20, 30, len(text)):
            app.query_one(Tail).follow(text[:length], 0, code=True)
            await pilot.pause()
        assert app.query_one(Tail).text == text
        assert drawn == [0, *(0, 1, 2), *(3, 4), *(4, 5, 6)]
