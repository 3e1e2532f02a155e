"""What was said is kept: a tree of messages in SQLite, also while an answer still streams."""

from .draft import Draft
from .file import Damaged, set_aside
from .store import History
from .tree import FOUND, Conversation, Message, Summary
from .writer import HistoryError

__all__ = [
    "FOUND",
    "Conversation",
    "Damaged",
    "Draft",
    "History",
    "HistoryError",
    "Message",
    "Summary",
    "set_aside",
]
