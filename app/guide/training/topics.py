"""The data as topics: what people may ask about one thing, and what the guide answers.

Most topics are written down in data/*.toml. Those about options, commands and architectures are
tables there, from which one topic is made for each thing and each thing asked about it.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One thing to ask about.

    `asks` are templates of whole questions, `follows` are templates of questions that make sense
    only after this topic, each with the topic that answers it.
    """

    name: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    weight: float = 1.0
    plain: bool = False  # takes no openings and closings
    follows: tuple[tuple[str, str], ...] = ()
    family: str | None = None  # topics one may go on to by naming `mention` only
    mention: str = ""


@dataclass(frozen=True, kw_only=True)
class Language:
    """The words around the questions: language.toml, with the sets of every file."""

    opening: list[str]
    closing: list[str]
    about: list[str]
    do: list[str]
    code: list[str]
    takes: list[str]
    options: list[str]
    compare: list[str]
    mention: list[str]
    alike: list[list[str]]  # words that may stand for each other
    sets: dict[str, list[str]]
    more: dict[str, list[str]]  # further asks by topic


def read(name: str) -> dict[str, Any]:
    """The data of data/`name`.toml."""
    return tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))


def files() -> list[str]:
    """Names of all files of data."""
    return sorted(path.stem for path in DATA.glob("*.toml"))


def language() -> Language:
    raw = read("language") | {"more": {}}
    for name in files():
        raw["sets"] |= read(name).get("sets", {})
        for topic, asks in read(name).get("more", {}).items():
            raw["more"].setdefault(topic, []).extend(asks)
    return Language(**raw)


def topics() -> list[Topic]:
    """All topics."""
    words = language()
    return [*_written(words), *_commands(words), *_architectures()]


def _fill(answer: str, facts: Mapping[str, str]) -> str:
    for name, text in facts.items():
        answer = answer.replace(f"[{name}]", text)
    return answer


def _listed(names: list[str], most: int) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _choice(words: list[str]) -> str:
    return "{" + "|".join(words) + "}" if words[1:] else words[0]


def _asks(name: str, raw: Mapping[str, Any], words: Language) -> tuple[str, ...]:
    asks = [*raw.get("ask", []), *words.more.get(name, [])]
    for kind, frames in (("about", words.about), ("do", words.do)):
        if kind in raw:
            # As many frames as whole questions, so that neither way of asking drowns the other.
            share = max(1, len(asks) // 24)
            asks += [frame.replace("@", _choice(raw[kind])) for frame in frames] * share
    if "code" in raw:
        asks += [frame.replace("@", raw["code"]) for frame in words.code]
    return tuple(asks)


def _written(words: Language) -> Iterator[Topic]:
    for name in files():
        for raw in read(name).get("topic", []):
            code = raw.get("code")
            yield Topic(
                name=raw["name"],
                asks=_asks(raw["name"], raw, words),
                answers=tuple(raw["answer"]),
                weight=raw.get("weight", 1.0),
                plain=raw.get("plain", False),
                follows=tuple(
                    (ask, step["topic"]) for step in raw.get("next", []) for ask in step["ask"]
                ),
                family="code" if code else None,
                mention=f"{{{code}|code {code}|exit code {code}}}" if code else "",
            )


def _commands(words: Language) -> Iterator[Topic]:
    raw = read("commands")
    for name, option in raw["option"].items():
        yield Topic(
            name=f"option.{name}",
            asks=_asks(f"option.{name}", {"about": option["words"], "ask": option["ask"]}, words),
            answers=(option["does"],),
            family="option",
            mention=f"{{{name}|{name}|{name.lstrip('-')}}}",
        )
    for name, command in raw["command"].items():
        listed = _listed([f"`{option}`" for option in command["options"]], most=8)
        yield Topic(
            name=f"options.{name}",
            asks=tuple(ask.replace("{C}", name) for ask in words.options),
            answers=(
                f"`{command['usage']}` {command['what']}. It takes {listed}; "
                f"`mlxarch {name} --help` explains them.",
            ),
            weight=0.7,
            family="options",
            mention=name,
        )
        for key, option in raw["option"].items():
            if "short" not in option or command.get("open", False):
                continue
            yes = f"Yes: `mlxarch {name}` takes `{key}`, which {option['short']}."
            no = f"No, `mlxarch {name}` does not take `{key}`. It takes {listed}."
            yield Topic(
                name=f"takes.{name}.{key}",
                asks=tuple(ask.replace("{C}", name).replace("{O}", key) for ask in words.takes),
                answers=(yes if key in command["options"] else no,),
                weight=0.07,
                family=f"takes.{key}",
                mention=name,
            )


def _architectures() -> Iterator[Topic]:
    raw, status, words = read("architectures"), read("status"), language()
    for one in raw["architecture"]:
        alias = _choice(one["aliases"])
        own = {
            "loads": status["loads"],
            "name": one["name"],
            "hub": one["hub"],
        }
        about_it = tuple(
            (ask.replace("{A}", "it"), f"{one['key']}.{kind}")
            for kind, asks in raw["ask"].items()
            for ask in asks
            if not ask.startswith("{A}") and "{A}'s" not in ask
        )
        for kind, asks in raw["ask"].items():
            answer = one.get(kind) or status["port"]
            yield Topic(
                name=f"{one['key']}.{kind}",
                asks=tuple(ask.replace("{A}", alias) for ask in asks),
                answers=(_fill(answer, own),),
                weight=0.7,
                follows=about_it,
                family=f"architecture.{kind}",
                mention=alias,
            )
    for one, other in permutations(raw["architecture"], 2):
        left, right = _choice(one["aliases"]), _choice(other["aliases"])
        yield Topic(
            name=f"compare.{one['key']}.{other['key']}",
            asks=tuple(ask.replace("{A}", left).replace("{B}", right) for ask in words.compare),
            answers=(f"{one['brief']}. {other['brief']}.",),
            weight=0.35,
        )
