"""Ask a guide the held-out questions and count the answers that hold the right facts.

    python -m mlxarch.app.guide.training.evaluate [FOLDER] [--questions FILE] [--show failures|all]
    python -m mlxarch.app.guide.training.evaluate [FOLDER] --speed

With --speed each question is answered twice in turn, with the heads' guesses and without.
"""

import argparse
import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

import mlxarch
from mlxarch.cache import Past
from mlxarch.decoder import Decoder
from mlxarch.generate import Answer
from mlxarch.sampling import Sampling
from mlxarch.speculate import drafter
from mlxarch.stake import Stake
from mlxarch.tokenizer import Tokenizer

from .. import PATH
from .corpus import HELDOUT, Corpus, Message

LONGEST = 200  # tokens of an answer
UNSEEN = 1_000_003  # a seed that is not trained on
DIALOGUES = 100
TIMED = 100  # questions


@dataclass(frozen=True)
class Question:
    """One held-out question; of a conversation the last one counts."""

    theme: str
    asked: tuple[str, ...]
    facts: tuple[str, ...]  # regular expressions, all of which a right answer holds

    def right(self, answer: str) -> bool:
        """Whether the answer holds all facts."""
        flat = " ".join(answer.split())
        return all(re.search(fact, flat, re.IGNORECASE) for fact in self.facts)


def questions(path: Path = HELDOUT) -> Iterator[Question]:
    """The questions of a file such as heldout.toml."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    for theme in raw["theme"]:
        for one in theme["questions"]:
            limit = one.get("limit", theme.get("limit", False))
            facts = (raw["limit"],) if limit else tuple(one["facts"])
            yield Question(theme["name"], tuple(one.get("chat", [one.get("q")])), facts)


class Guide:
    """A guide that answers greedily."""

    def __init__(self, folder: Path = PATH):
        self.model: Decoder = mlxarch.load(folder)
        self.tokenizer = Tokenizer(folder)
        self.past = Past(self.model)

    def answer(self, messages: list[Message]) -> str:
        """What it says to a conversation."""
        prompt = self.tokenizer.prompt(messages).tokens
        stop = self.tokenizer.stop_ids
        answer = Answer(self.model, prompt, self.past, max_tokens=LONGEST, stop_ids=stop)
        reader = self.tokenizer.reader()
        return "".join(reader.read(token.id)[1] for token in answer) + reader.rest()

    def timed(self, question: str, draft: str, stake: Stake) -> "Timed":
        """What it says to a question that it has not read yet, and how soon."""
        self.past.clear()
        prompt = self.tokenizer.prompt([{"role": "user", "content": question}]).tokens
        answer = Answer(
            self.model,
            prompt,
            self.past,
            drafter=drafter(draft, self.model, Sampling()),
            max_tokens=LONGEST,
            stop_ids=self.tokenizer.stop_ids,
            stake=stake,
        )
        tokens = list(answer)
        seconds = sum(token.seconds for token in tokens)
        return Timed([token.id for token in tokens], seconds, answer.guessed, answer.right)

    def converse(self, asked: tuple[str, ...]) -> str:
        """Its answer to the last of several questions."""
        messages: list[Message] = []
        for question in asked:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": self.answer(messages)})
        return messages[-1]["content"]

    def perplexity(self, dialogues: int = DIALOGUES) -> float:
        """Of the answers in conversations whose seed was never trained on."""
        total, count = 0.0, 0
        for messages in islice(Corpus(UNSEEN).conversations(), dialogues):
            asked_on = [*messages, {"role": "user", "content": "-"}]
            tokens = mx.array([self.tokenizer.prompt(asked_on).tokens])
            losses = nn.losses.cross_entropy(self.model(tokens[:, :-1])[0], tokens[0, 1:])
            for end, message in enumerate(messages):
                if message["role"] == "assistant":
                    first = len(self.tokenizer.prompt(messages[:end]).tokens)
                    last = (
                        len(self.tokenizer.prompt(messages[: end + 1]).tokens) + 1
                    )  # with its end
                    total += losses[first - 1 : last - 1].sum().item()
                    count += last - first
        return math.exp(total / count)


@dataclass(frozen=True)
class Timed:
    """An answer, the seconds for its tokens, and how many of these were guessed and right."""

    tokens: list[int]
    seconds: float
    guessed: int
    right: int


def race(guide: Guide, asked: list[str]) -> dict[str, float]:
    """Each question answered with the heads and without, who begins in turn; sums of it all."""
    stakes = {draft: Stake() for draft in ("heads", "off")}
    seconds, found = dict.fromkeys(stakes, 0.0), {"tokens": 0, "guessed": 0, "right": 0, "equal": 0}
    for i, question in enumerate(asked):
        order = ("heads", "off") if i % 2 else ("off", "heads")
        said = {draft: guide.timed(question, draft, stakes[draft]) for draft in order}
        for draft, answer in said.items():
            seconds[draft] += answer.seconds
        found["tokens"] += len(said["heads"].tokens)
        found["guessed"] += said["heads"].guessed
        found["right"] += said["heads"].right
        found["equal"] += said["heads"].tokens == said["off"].tokens
    return {**found, **seconds}


def show_race(guide: Guide) -> None:
    """Print what the heads are worth."""
    asked = [one.asked[0] for one in questions() if len(one.asked) == 1][::3][:TIMED]
    guide.timed(asked[0], "heads", Stake())
    found = race(guide, asked)
    tokens, heads, off = found["tokens"], found["heads"], found["off"]
    print(f"{found['equal']} of {len(asked)} answers equal, {tokens} tokens")
    print(f"{found['right'] / found['guessed']:.1%} of {found['guessed']} guesses right")
    print(
        f"tokens/s: {tokens / off:.0f} plain, {tokens / heads:.0f} with heads: {off / heads:.2f} x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=PATH)
    parser.add_argument("--questions", type=Path, default=HELDOUT)
    parser.add_argument("--show", choices=["none", "failures", "all"], default="failures")
    parser.add_argument("--speed", action="store_true", help="what the heads are worth")
    args = parser.parse_args()
    guide = Guide(args.folder)
    if args.speed:
        show_race(guide)
        return
    themes: dict[str, list[bool]] = {}
    for question in questions(args.questions):
        answer = guide.converse(question.asked)
        right = question.right(answer)
        themes.setdefault(question.theme, []).append(right)
        if args.show == "all" or (args.show == "failures" and not right):
            mark = "ok  " if right else "MISS"
            print(f"{mark} [{question.theme}] {' / '.join(question.asked)}\n     {answer}")
    for theme, found in themes.items():
        print(f"{theme:24} {sum(found):3} of {len(found):3}  {sum(found) / len(found):.0%}")
    found = [right for each in themes.values() for right in each]
    print(f"{'all':24} {sum(found):3} of {len(found):3}  {sum(found) / len(found):.1%}")
    print(f"perplexity {guide.perplexity():.3f}")


if __name__ == "__main__":
    main()
