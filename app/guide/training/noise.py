"""How people really type: openings, missing signs, lower case, typos, left-out words."""

import random
import re
from collections.abc import Mapping, Sequence

_QUESTION = re.compile(
    r"(what|which|who|why|when|where|how|is|are|do|does|did|can|could|may|should|would|will|am|has|have)\b",
    re.IGNORECASE,
)
_KEYS = "qwertyuiop asdfghjkl zxcvbnm"
_NEIGHBOURS = {
    key: (_KEYS[i - 1 : i] + _KEYS[i + 1 : i + 2]).strip() or key for i, key in enumerate(_KEYS)
}
_DROPPABLE = {"the", "a", "an", "do", "does", "is", "are", "to", "of", "me", "my", "I", "it"}
_SHORT = {
    "you": "u", "are": "r", "please": "plz", "what is": "whats", "I am": "im", "do not": "dont",
    "what's": "whats", "how do I": "how to", "and": "n", "thanks": "thx", "because": "cuz",
    "parameters": "params", "model": "modell", "your": "ur", "for": "4", "with": "w/",
}  # fmt: skip


def _typo(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word) - 1)
    left, here, right = word[:at], word[at], word[at + 1 :]
    kind = rng.random()
    if kind < 0.35:
        return left + right[0] + here + right[1:]
    if kind < 0.65:
        return left + right
    if kind < 0.8:
        return left + here + here + right
    return left + rng.choice(_NEIGHBOURS.get(here, here)) + right


def _mistype(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for i in rng.sample(long, min(len(long), rng.choice([1, 1, 1, 2, 2, 3]))):
        words[i] = _typo(words[i], rng)
    return " ".join(words)


def _leave_out(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    if rng.random() < 0.3:
        return " ".join(word for word in words if word not in _DROPPABLE) or text
    if len(words) > 4:
        del words[rng.randrange(len(words))]
    return " ".join(words)


def _shorten(text: str, rng: random.Random) -> str:
    there = [long for long in _SHORT if re.search(rf"\b{re.escape(long)}\b", text)]
    if there:
        long = rng.choice(there)
        text = re.sub(rf"\b{re.escape(long)}\b", _SHORT[long], text, count=1)
    return text


def _punctuate(text: str, rng: random.Random) -> str:
    if text[-1:] in "?!.:":
        return text
    chance = rng.random()
    if _QUESTION.match(text) or "what" in text or "how" in text:
        return text + ("?" if chance < 0.62 else "??" if chance < 0.64 else "")
    return text + ("?" if chance < 0.22 else "." if chance < 0.38 else "!" if chance < 0.42 else "")


def _recase(text: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.45:
        return text.lower()
    if chance < 0.85:
        return text[:1].upper() + text[1:]
    return text.upper() if chance < 0.88 else text


def _reword(text: str, rng: random.Random, alike: Mapping[str, Sequence[str]]) -> str:
    words = text.split(" ")
    return " ".join(
        rng.choice(alike[word]) if word in alike and rng.random() < 0.5 else word for word in words
    )


def noisy(
    text: str,
    rng: random.Random,
    alike: Mapping[str, Sequence[str]],
    openings: Sequence[str] = (),
    closings: Sequence[str] = (),
) -> str:
    """The question as somebody might type it."""
    if rng.random() < 0.25:
        text = _reword(text, rng, alike)
    if openings and rng.random() < 0.14:
        text = rng.choice(openings) + text
    if closings and rng.random() < 0.12:
        text = text.rstrip("?!.") + rng.choice(closings)
    if rng.random() < 0.12:
        text = _leave_out(text, rng)
    if rng.random() < 0.06:
        text = _shorten(text, rng)
    if rng.random() < 0.2:
        text = text.replace("'", "")
    if rng.random() < 0.2:
        text = _mistype(text, rng)
    return _recase(_punctuate(text, rng), rng)
