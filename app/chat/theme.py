"""The themes of the chat: calm surfaces, one colour of our own, amber for what is slow."""

import os

from rich.console import Console
from textual.theme import Theme

FAINT = "$foreground 70%"  # of text that comes second; `$faint` in chat.tcss

DARK = Theme(
    name="mlxarch-dark",
    primary="#6fb7c4",
    secondary="#8ba3c7",
    accent="#7ccdb4",
    success="#8fc98a",
    warning="#e3b063",
    error="#e2737c",
    foreground="#d7dbe0",
    background="#111418",
    surface="#171b20",
    panel="#1d2228",
    dark=True,
    variables={
        "text-accent": "#7ccdb4",
        "text-warning": "#e3b063",
        "border": "#3d6f79",
        "border-blurred": "#2a3037",
        "footer-background": "#171b20",
        "footer-key-foreground": "#6fb7c4",
        "footer-description-foreground": "#949ca6",
        "scrollbar": "#2a3037",
        "scrollbar-background": "#111418",
        "scrollbar-background-hover": "#111418",
        "scrollbar-background-active": "#111418",
    },
)

LIGHT = Theme(
    name="mlxarch-light",
    primary="#1f6f7d",
    secondary="#46618f",
    accent="#1d7a62",
    success="#3b7a36",
    warning="#a5660a",
    error="#b3323f",
    foreground="#262b31",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#eae7e0",
    dark=False,
    variables={
        "text-accent": "#14664f",
        "text-warning": "#8f5707",
        "border": "#6fa3ac",
        "border-blurred": "#d5d1c8",
        "footer-background": "#f3f1ec",
        "footer-key-foreground": "#1f6f7d",
        "footer-description-foreground": "#656b73",
        "scrollbar": "#d5d1c8",
        "scrollbar-background": "#fbfaf7",
        "scrollbar-background-hover": "#fbfaf7",
        "scrollbar-background-active": "#fbfaf7",
    },
)

# The terminal's own colours; what is chosen stands out by itself, also where there are none.
ANSI = Theme(
    name="mlxarch-ansi",
    ansi=True,
    primary="ansi_cyan",
    secondary="ansi_bright_blue",
    accent="ansi_green",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    dark=True,
    variables={
        "ansi-background": "ansi_default",
        "ansi-foreground": "ansi_default",
        "text-accent": "ansi_green",
        "text-warning": "ansi_yellow",
        "border": "ansi_cyan",
        "border-blurred": "ansi_bright_black",
        "footer-key-foreground": "ansi_cyan",
        "footer-description-foreground": "ansi_default",
        "scrollbar": "ansi_bright_black",
        "scrollbar-background": "ansi_default",
        "scrollbar-background-hover": "ansi_default",
        "scrollbar-background-active": "ansi_default",
        "block-cursor-foreground": "ansi_default",
        "block-cursor-background": "ansi_default",
        "block-cursor-text-style": "bold underline",
        "input-cursor-foreground": "ansi_default",
        "input-cursor-background": "ansi_default",
    },
)


def usual() -> Theme:
    """What is drawn with as long as nobody chose: the terminal's colours where it has few."""
    few = Console(force_terminal=True).color_system in ("standard", None)
    return ANSI if few else DARK


def uncoloured() -> bool:
    """Nobody wants colours.   Source: no-color.org."""
    return bool(os.environ.get("NO_COLOR"))
