"""Text of any length in one widget, of which only the lines that are seen are drawn."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from rich.segment import Segment
from rich.style import Style as Pen
from textual.content import Content
from textual.geometry import Region, Size, Spacing
from textual.reactive import Reactive
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual
from textual.widget import Widget

NARROW = 8  # cells that a body gets at least, however deep it is indented


class Row(NamedTuple):
    """What is seen of a text in one row."""

    text: Content
    before: str = "\n"  # what the text has between the row above and this one
    hang: int = 0  # characters of it, first, that are not of the text


class Line(NamedTuple):
    """A line of text, and what it has before it: first its lead, then what hangs below that."""

    body: Content
    lead: Content = Content()
    hang: Content = Content()
    solid: bool = False  # broken at the edge, as code is, and not between words

    def rows(self, width: int) -> list[Row]:
        """The line as it is broken into rows of `width` cells."""
        body = self.body.expand_tabs() if "\t" in self.body.plain else self.body
        room = max(width - self.hang.cell_length, NARROW)
        if body.cell_length <= room:
            return [Row(self.lead + body if self.lead else body)]
        text, parts = body.plain, body.fold(room) if self.solid else body.wrap(room)
        rows, end = [Row(self.lead + parts[0])], len(parts[0])
        for part in parts[1:]:
            start = max(text.find(part.plain, end), end)  # blanks at the edge are left out
            rows.append(Row(self.hang + part, text[end:start], len(self.hang)))
            end = start + len(part)
        return rows


BLANK = Line(Content())


class Laid(Protocol):
    """Something that is laid in rows."""

    def rows(self, width: int) -> Sequence[Row]:
        """The rows for a width in cells."""
        ...


class Growing(Widget):
    """A widget that is as large as what is in it: when it grows, nothing is to be laid out anew.

    Textual would do so, for scrollbars that it might need now, and draw all of it a second time.
    """

    virtual_size = Reactive(Size(0, 0), repaint=False)


class Holding(Growing):
    """A container, of which nothing is seen but its ground, and at times a border."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """Its ground, which is one line for all, unless there is a border."""
        if self.styles.gutter != self.styles.padding:
            return super().render_lines(crop)
        (strip,) = filtered(self, [Strip.blank(crop.width, _ground(self))])
        return [strip] * crop.height


def _ground(widget: Widget) -> Pen:
    behind, own = widget.background_colors
    return Pen.from_color(bgcolor=(behind + own).rich_color)


def filtered(widget: Widget, strips: list[Strip]) -> list[Strip]:
    """Strips as the terminal shall have them: without colour, say."""
    if filters := widget.get_line_filters():
        own = widget.background_colors[1]
        for each in filters:
            strips = [strip.apply_filter(each, own) for strip in strips]
    return strips


class Lines(Growing):
    """Draws rows that `laid` returns; they may be selected and copied as text.

    Around them it has a padding, and nothing else. A row is drawn once: Textual would draw all of
    them again whenever there is one more.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._rows: Sequence[Row] = ()
        self._width = 0  # that they are laid for
        self._drawn: dict[int, tuple[Row, Strip]] = {}
        self._look: tuple[Any, ...] = ()  # that they are drawn with

    def laid(self, width: int) -> Sequence[Row]:
        """The rows for a width in cells: none, unless a kind of lines has some."""
        return ()

    def relay(self) -> None:
        """Something has changed: lay the rows anew, and draw those that are others now."""
        before, width = self._rows, self._width
        self._width = 0
        if not width or len(self.rows(width)) != len(before):
            self.refresh(layout=True)
            return
        pairs = enumerate(zip(before, self._rows, strict=True))
        if changed := [y for y, (old, new) in pairs if not old.text.is_same(new.text)]:
            self.refresh(Region(0, changed[0], width, changed[-1] + 1 - changed[0]))

    def rows(self, width: int) -> Sequence[Row]:
        """The same as `laid`, but kept."""
        if width != self._width:
            self._rows, self._width = self.laid(width), width
        return self._rows

    @property
    def text(self) -> str:
        """What is shown, as text."""
        return "\n".join(row.text.plain for row in self.rows(self._width or self.size.width or 80))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many as there are rows."""
        return len(self.rows(width)) if width else 0

    def render_line(self, y: int) -> Strip:
        """One row."""
        width = self.size.width
        rows = self.rows(width)
        row = rows[y].text if y < len(rows) else Content()
        if (selection := self.text_selection) and (span := selection.get_span(y)):
            start, end = span
            style = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            row = row.stylize(style, start, len(row) if end == -1 else end)
        if row.spans:
            strips = Visual.to_strips(
                self, row, width, 1, self.visual_style, apply_selection=False, pad=True
            )
            strip = strips[0] if strips else Strip.blank(width, self.rich_style)
        else:  # most rows; the way round a Visual is for styles alone
            pen = self.visual_style.rich_style
            strip = Strip([Segment(row.plain, pen)]).adjust_cell_length(width, pen)
        return strip.apply_offsets(0, y)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Some rows, in their padding."""
        inside, padding, blank = self.size.width, self.styles.padding, _ground(self)
        width, rows, found = inside + padding.width, self.rows(inside), []
        look = inside, padding, blank, self.visual_style, self.app.theme, self.text_selection
        if look != self._look:
            self._look, self._drawn = look, {}
        for line in crop.line_range:
            y = line - padding.top
            if 0 <= y < len(rows):
                found.append(self._row(y, rows[y], padding, blank))
            else:
                found.append(Strip.blank(width, blank))
        left, right = crop.column_span
        found = filtered(self, self._hovered(found))
        return found if right - left == width else [strip.crop(left, right) for strip in found]

    def _hovered(self, strips: list[Strip]) -> list[Strip]:
        """The link below the mouse looks as Textual has it."""
        hover = self.hover_style
        if not (self.auto_links and hover.link_id and "@click" in hover.meta):
            return strips
        return [strip.style_links(hover.link_id, self.link_style_hover) for strip in strips]

    def _row(self, y: int, row: Row, padding: Spacing, blank: Pen) -> Strip:
        """A row in its padding, drawn before or now."""
        if (drawn := self._drawn.get(y)) and drawn[0].text.is_same(row.text):
            return drawn[1]
        segments = [*self.render_line(y)]
        if padding.left:
            segments.insert(0, Segment(" " * padding.left, blank))
        if padding.right:
            segments.append(Segment(" " * padding.right, blank))
        strip = Strip(segments, self.size.width + padding.width)
        self._drawn[y] = row, strip
        return strip

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """What of the text is selected; where rows are but broken, it goes on."""
        rows, (start, end) = self.rows(self._width), selection
        first = start.y if start else 0
        found = []
        for y, row in enumerate(rows[first : end.y + 1 if end else None], first):
            begin = start.x if start and y == start.y else row.hang
            text = row.text.plain[begin : end.x if end and y == end.y else None]
            found.append(row.before + text if found else text)
        return "".join(found), "\n"


class Tail(Lines):
    """Plain text that grows at its end; what is complete of it is laid once."""

    def __init__(self):
        super().__init__(classes="tail")
        self._text, self._start, self._code = "", 0, False
        self._complete: list[Row] = []
        self._read = 0  # characters of which the rows are complete
        self._wide = 0  # their width

    def follow(self, text: str, start: int, *, code: bool) -> None:
        """Show `text`, which begins at `start` of an answer and goes on where it was."""
        if start != self._start or code != self._code or len(text) < self._read:
            self._wide = 0
        self._text, self._start, self._code = text, start, code
        self.set_class(code, "code")
        self.relay()

    def laid(self, width: int) -> Sequence[Row]:
        """Rows of complete lines, kept, and of the last one."""
        if width != self._wide:
            self._complete, self._read, self._wide = [], 0, width
        if (end := self._text.rfind("\n") + 1) > self._read:
            for line in self._text[self._read : end - 1].split("\n"):
                self._complete += self._line(line).rows(width)
            self._read = end
        return [*self._complete, *self._line(self._text[end:]).rows(width)]

    def _line(self, text: str) -> Line:
        return Line(Content(text), solid=self._code)
