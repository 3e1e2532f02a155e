"""Objects that nothing reaches any more: when the chat looks for them.

Python does by itself, over all there are, which takes a tenth of a second of a chat that has been
used for a while: a pause that is seen in whatever is being typed or drawn.
"""

import gc

from textual.app import App

from ..allocator import trim

PAUSE = 10.0  # seconds between two looks at least
REST = 2.0  # seconds that nobody has touched a key or the mouse
LATEST = 120.0  # seconds without a look after which there is one, whoever types
NEVER = 1 << 30


def wait() -> None:
    """From now on only `collect` looks at what has been there for a while, imports least of all."""
    often, sometimes, _ = gc.get_threshold()
    gc.set_threshold(often, sometimes, NEVER)
    gc.freeze()


def collect_new() -> None:
    """Find those that came since the last look, which are most."""
    gc.collect()
    gc.freeze()


def collect(app: App) -> None:
    """Find all of them now, and return their memory to the system.

    What is there after that is not looked at again before the next call.

    Inputs of several lines watch the app's theme. Textual forgets those that are closed when the
    theme changes, which it may never do.
    """
    for watchers in getattr(app, "__watchers", {}).values():
        watchers[:] = [(who, what) for who, what in watchers if not who._closing]
    gc.unfreeze()
    collect_new()
    trim()
