"""Everything a person can do, once.

The keys, the footer, the palette, the commands after a slash, the help and `chat --help` read
this. It imports no Textual, so that `--help` need not.
"""

from dataclasses import dataclass

KEYS = {
    "escape": "Esc",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "delete": "Del",
    "slash": "/",
}


@dataclass(frozen=True)
class Action:
    """One thing to do; `ChatApp` has a method `action_<name>` for it, which takes the argument.

    `footer` names the moments in which it is there: "writing" a question, "editing" one that was
    asked, "answering", "selecting" a message, "broken" without a model.
    """

    name: str
    keys: str  # as Textual writes them, the first one is shown
    label: str
    help: str
    footer: str = ""
    palette: bool = True
    title: str = ""  # in the palette, where the label says too little
    slash: str = ""  # the word after the slash, if it is a command
    argument: str = ""  # what follows that word: "TITLE", or "[TITLE]" if it may be left out
    among: str = ""  # what that is one of, where the app knows them: "themes"
    letter: str = ""  # the key while a message is selected

    @property
    def key(self) -> str:
        """The first of its keys, as people write it."""
        return written(self.keys or self.letter)

    @property
    def needs(self) -> bool:
        """Its command cannot do without what follows."""
        return bool(self.argument) and not self.argument.startswith("[")

    @property
    def usage(self) -> str:
        """The command as one types it, with what follows it."""
        return f"/{self.slash} {self.argument}".rstrip() if self.slash else ""

    @property
    def summons(self) -> str:
        """Its key and its command."""
        return ", ".join(part for part in (self.key, self.usage) if part)


def written(keys: str) -> str:
    """The first of `ctrl+j,shift+enter`, as people write it: `Ctrl+J`."""
    first = keys.split(",")[0]
    if len(first) == 1:
        return first
    return KEYS.get(first, "+".join(KEYS.get(part, part.capitalize()) for part in first.split("+")))


SUBJECTS: dict[str, tuple[Action, ...]] = {
    "writing": (
        Action(
            "send", "enter", "Send", "Send what is in the input", "writing editing", palette=False
        ),
        Action(
            "queue",
            "enter",
            "Queue",
            "While an answer runs or the model is loaded: have it sent afterwards",
            "answering writing",
            palette=False,
        ),
        Action(
            "unqueue",
            "alt+up",
            "Unqueue",
            "Take a question that waits back into the input: the last, or number N",
            slash="unqueue",
            argument="[N]",
        ),
        Action(
            "newline",
            "ctrl+j,shift+enter,alt+enter",
            "New line",
            "Begin a new line (in some terminals Shift+Enter, too)",
            "writing editing",
            palette=False,
        ),
        Action(
            "unfold",
            "",
            "Unfold pastes",
            "Show long pastes in full in the input",
            slash="unfold",
        ),
        Action(
            "commands",
            "slash",
            "Commands",
            "Begin a command, which Tab completes; // or a space before it sends it as text",
            "writing",
            palette=False,
        ),
    ),
    "messages": (
        Action(
            "select",
            "ctrl+up,shift+tab",
            "Messages",
            "Select a message, as Shift+Tab does: then letters act on it; after a click, clicks do",
            slash="select",
        ),
        Action(
            "leave",
            "escape",
            "Back",
            "Leave the selection, or a question as it was",
            "selecting editing",
            palette=False,
        ),
        Action(
            "edit",
            "ctrl+e",
            "Edit",
            "Ask a question otherwise (Ctrl+E in an empty input), beside the one so far",
            slash="edit",
            letter="e",
        ),
        Action("copy", "ctrl+y", "Copy", "Copy a message as Markdown", slash="copy", letter="c"),
        Action("code", "", "Code", "Copy a block of code", slash="code", letter="b"),
        Action(
            "fork",
            "",
            "Fork",
            "Go on in another conversation that has the same past",
            slash="fork",
            letter="f",
        ),
        Action(
            "remove",
            "",
            "Delete",
            "Delete an exchange for good, and what follows it",
            title="Delete exchange",
            slash="remove",
            letter="d",
        ),
        Action(
            "undo",
            "",
            "Undo",
            "Take the last exchange back; it stays as a version",
            slash="undo",
        ),
        Action(
            "version",
            "",
            "Version",
            "Show the next version of a message, or number N",
            slash="version",
            argument="[N]",
        ),
        Action(
            "earlier",
            "",
            "Earlier",
            "Show the version before this one, where a message has several",
            "selecting",
            palette=False,
            letter="left",
        ),
        Action(
            "later",
            "",
            "Later",
            "Show the version after it",
            "selecting",
            palette=False,
            letter="right",
        ),
    ),
    "answers": (
        Action(
            "stop",
            "escape",
            "Stop",
            "Stop the answer, also while the prompt is being read",
            "answering",
            slash="stop",
        ),
        Action(
            "regenerate",
            "ctrl+g",
            "Regenerate",
            "Have the question answered again, beside the answer so far",
            slash="regenerate",
            letter="r",
        ),
        Action(
            "continue",
            "",
            "Continue",
            "Have an answer go on that was stopped or cut off",
            slash="continue",
            letter="o",
        ),
        Action(
            "thinking", "ctrl+t", "Thinking", "Show or hide what the model thought", slash="think"
        ),
        Action(
            "figures",
            "",
            "Figures",
            "Show or hide all figures of the answer: every token's time, percentiles, guesses",
            slash="figures",
        ),
        Action(
            "tokens",
            "",
            "Tokens",
            "Colour each token of the answers by its time; guessed ones are underlined",
            slash="tokens",
        ),
        Action("page_up", "pageup", "Up", "Scroll the conversation up", palette=False),
        Action("page_down", "pagedown", "Down", "Scroll down", palette=False),
    ),
    "conversations": (
        Action("new", "ctrl+n", "New", "Begin a new conversation", "writing", slash="new"),
        Action(
            "sessions",
            "ctrl+o",
            "Open",
            "Open another conversation: search, rename, export and delete them",
            "writing",
            slash="sessions",
            argument="[WORDS]",
        ),
        Action(
            "compact",
            "",
            "Compact",
            "Have the model sum up all but the last exchange, to make room in its context",
            slash="compact",
        ),
        Action(
            "drop",
            "",
            "Drop",
            "Leave out the oldest exchanges: N of them, or until half of the context is free",
            slash="drop",
            argument="[N]",
        ),
        Action(
            "rename",
            "",
            "Rename",
            "Give this conversation a title",
            palette=False,
            slash="rename",
            argument="TITLE",
        ),
        Action(
            "export",
            "",
            "Export",
            "Write this conversation to a file: .md, .html or .json",
            slash="export",
            argument="[FILE]",
        ),
        Action(
            "delete",
            "",
            "Delete",
            "Delete this conversation",
            title="Delete conversation",
            slash="delete",
        ),
    ),
    "the rest": (
        Action(
            "models",
            "f2",
            "Models",
            "Choose another model: what is here, what fits, what may be fetched",
            "writing broken",
            slash="model",
            argument="[NAME]",
            among="models",
        ),
        Action(
            "restart",
            "ctrl+r",
            "Restart",
            "Start the engine again and load the model",
            "broken",
            slash="restart",
        ),
        Action(
            "settings",
            "f3",
            "Settings",
            "System prompt, persona, sampling, thinking, stop texts; for this model too",
            slash="settings",
        ),
        Action(
            "preset",
            "",
            "Preset",
            "How tokens are chosen: precise, balanced, creative or one of yours",
            palette=False,
            slash="preset",
            argument="NAME",
            among="presets",
        ),
        Action(
            "persona",
            "",
            "Persona",
            "Who the model is asked to be: terse, teacher, reviewer or one of yours",
            palette=False,
            slash="persona",
            argument="NAME",
            among="personas",
        ),
        Action(
            "system",
            "",
            "System prompt",
            "What the model is told before the conversation",
            slash="system",
            argument="[TEXT]",
        ),
        Action(
            "set",
            "",
            "Set",
            "One setting: /set temperature 0.7, /set enable_thinking false; alone, all of them",
            palette=False,
            slash="set",
            argument="[NAME VALUE]",
            among="settings",
        ),
        Action(
            "theme",
            "",
            "Theme",
            "Change the colours",
            slash="theme",
            argument="[NAME]",
            among="themes",
        ),
        Action(
            "help",
            "f1",
            "Help",
            "Show keys, commands and what the figures mean",
            "writing editing answering selecting broken",
            slash="help",
        ),
        Action(
            "interrupt",
            "ctrl+c",
            "Interrupt",
            "Stop the answer; twice within 2 seconds ends the chat",
            palette=False,
        ),
        Action(
            "quit",
            "ctrl+q",
            "Quit",
            "End the chat",
            "writing editing answering broken",
            slash="quit",
        ),
    ),
}

ACTIONS = tuple(action for subject in SUBJECTS.values() for action in subject)
SEND, NEWLINE = (action.keys.split(",") for action in ACTIONS if action.name in ("send", "newline"))


def command(word: str) -> Action | None:
    """The action whose command is `/word`."""
    return next((action for action in ACTIONS if action.slash and action.slash == word), None)


def commands(beginning: str) -> list[Action]:
    """The commands that fit what has been typed after the slash, the likeliest first."""
    found = [action for action in ACTIONS if action.slash and beginning in action.slash]
    return sorted(found, key=lambda one: (one.slash != beginning, one.slash.find(beginning)))
