"""A small grammar: `{a|b|}` chooses one, `<name>` takes one of a set; both may nest."""

import random
import re
from collections.abc import Mapping, Sequence

Sets = Mapping[str, Sequence[str]]

_INNERMOST = re.compile(r"\{([^{}]*)\}")
_SET = re.compile(r"<([a-z]+)>")


def expand(template: str, sets: Sets, rng: random.Random) -> str:
    """One sentence of the template; a `<name>` that is no set stays as it is."""

    def of_set(match: re.Match[str]) -> str:
        choices = sets.get(match[1])
        return expand(rng.choice(choices), sets, rng) if choices else match[0]

    text = template
    while "{" in text:
        text = _INNERMOST.sub(lambda match: rng.choice(match[1].split("|")), text)
    return " ".join(_SET.sub(of_set, text).split())


def normalise(text: str) -> str:
    """What two questions have in common that differ only in case, signs and spaces."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split()) or text.strip()
