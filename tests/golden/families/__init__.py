"""The tiny models of which golden files are made: one file an architecture.

To add one: write NAME.py with a list FAMILIES, run `python tests/golden/make.py`, keep what it
writes under data/. The tests find each folder there and try everything on it.
"""

from .family import ABSENT, Family

__all__ = ["ABSENT", "Family"]
