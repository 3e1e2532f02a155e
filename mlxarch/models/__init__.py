"""One short file an architecture: its config, its block, and how they are put together."""
