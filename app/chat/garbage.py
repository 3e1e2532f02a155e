"""Objects that nothing reaches any more: when the chat looks for them.

Python does by itself, over all there are, which takes a tenth of a second of a chat that has been
used for a while: a pause that is seen in whatever is being typed or drawn.
"""

import gc

PAUSE = 10.0  # seconds between two looks at least


def collect() -> None:
    """Find them now; what is there after that is not looked at again before the next call."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
