"""What a person asks of an answer, in the words of the engine's protocol."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and where they end; what is None is left to the model's publisher."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: list[str] = field(default_factory=list)  # texts that end the answer
    switches: dict[str, Any] = field(default_factory=dict)  # what the chat template is told
    thinking_tokens: int | None = None  # after so many, thinking is ended for the model
