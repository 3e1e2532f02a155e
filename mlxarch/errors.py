"""Errors that people see without a traceback.

MlxarchError
├── ConfigError       config.json asks for something that is missing or not ported
├── CheckpointError   tensors are missing, left over, or of the wrong shape
├── FormatError       a file or a message is not in the format it should be in
├── DoesNotFit        memory or disk would not suffice
├── ContextFull       a conversation is longer than the model's context
└── HubError          a repository cannot be had: no network, no such name, no permission

Each says what was found, what was wanted and what to do, one sentence each.
"""


class MlxarchError(Exception):
    """Base of all errors that are shown to people as one line."""

    exit_code = 1


class ConfigError(MlxarchError):
    """config.json is missing something, or asks for what is not ported."""

    exit_code = 3


class CheckpointError(MlxarchError):
    """Tensors are missing, left over or misshapen."""


class FormatError(MlxarchError):
    """A file or message is not what its name says."""


class DoesNotFit(MlxarchError):  # noqa: N818  (reads better than DoesNotFitError)
    """Memory or disk would not suffice; the message holds the arithmetic."""

    exit_code = 4


class ContextFull(MlxarchError):  # noqa: N818
    """A conversation has more tokens than the model's context holds."""

    exit_code = 4


class HubError(MlxarchError):
    """A repository cannot be had."""

    exit_code = 6
