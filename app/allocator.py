"""What the allocator of C keeps of memory that was freed."""

import ctypes
from contextlib import suppress


def trim() -> None:
    """Return it to the system."""
    with suppress(OSError, AttributeError):  # only glibc keeps some for itself and can be asked
        ctypes.CDLL(None).malloc_trim(0)
