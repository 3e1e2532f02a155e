"""What is asked of checkpoints before their weights are read: have they room, and go they together.

Both are told from headers and tokenizers.
"""

from pathlib import Path

import mlx.core as mx

from mlxarch import backend, shards
from mlxarch.errors import ConfigError, DoesNotFit
from mlxarch.tokenizer import Tokenizer
from mlxarch.vision.sight import is_tower
from mlxarch.words import size

from . import model as models


def needed(folder: Path, *others: Path | None, limit: int | None = None) -> int:
    """Bytes that the weights of a model will take in memory, and of what is loaded beside it.

    A vision tower is none of it: it is loaded once a picture is shown.

    Raises: DoesNotFit if that is beyond the limit, or this machine has not that much.
    """
    growth = backend.compute_dtype(mx.bfloat16).size // mx.bfloat16.size
    total = sum(
        info.bytes * (growth if info.dtype in ("BF16", "F16") else 1)
        for each in (folder, *others)
        if each is not None
        for name, info in shards.read_headers(shards.find(each)).items()
        if not is_tower(name)
    )
    who = "this machine has" if limit is None else "it may take"
    if total > (most := backend.memory_limit() if limit is None else limit):
        raise DoesNotFit(
            f"{models.name(folder)} needs {size(total)} for its weights; {who} "
            f"{size(most)} for a model. Choose a smaller one, or fewer bits."
        )
    return total


def check_same_tokens(smaller: Path, folder: Path, tokenizer: Tokenizer) -> None:
    """Raise ConfigError unless a smaller model has a larger one's tokens."""
    if (other := Tokenizer(smaller).vocabulary) != tokenizer.vocabulary:
        raise ConfigError(
            f"{models.name(smaller)} knows {len(other):,} tokens that are not the "
            f"{len(tokenizer.vocabulary):,} of {models.name(folder)}, so it cannot guess for it. "
            "Choose a smaller model of the same family."
        )
