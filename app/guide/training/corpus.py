"""Conversations without end, made from the topics and a seed; none asks a held-out question."""

import random
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from .grammar import expand, normalise
from .noise import noisy
from .topics import Topic, language, topics

HELDOUT = Path(__file__).parent / "heldout.toml"

Message = dict[str, str]

SYSTEMS = (
    "You are a helpful assistant.",
    "You are the mlxarch guide.",
    "You are a friendly assistant. Answer briefly.",
    "Be concise.",
    "Answer politely and in whole sentences.",
    "You help people with mlxarch.",
)


def heldout_questions(path: Path = HELDOUT) -> list[str]:
    """Every held-out question, those inside conversations too."""
    themes = tomllib.loads(path.read_text(encoding="utf-8"))["theme"]
    asked = [one for theme in themes for one in theme["questions"]]
    return [question for one in asked for question in one.get("chat", [one.get("q")])]


class Corpus:
    """An endless, repeatable stream of conversations; most have one turn, but where long ones are
    asked for."""

    def __init__(self, seed: int, long: bool = False):
        self.rng = random.Random(seed)
        self.turns = (20, 10, 10, 10, 20, 30) if long else (60, 17, 10, 6, 5, 2)
        self.words = language()
        self.topics = {topic.name: topic for topic in topics()}
        self.families: dict[str, list[Topic]] = defaultdict(list)
        for topic in self.topics.values():
            if topic.family:
                self.families[topic.family].append(topic)
        self.alike = {word: group for group in self.words.alike for word in group}
        self.names = list(self.topics)
        self.weights = [topic.weight for topic in self.topics.values()]
        self.forbidden = {normalise(question) for question in heldout_questions()}

    def conversations(self) -> Iterator[list[Message]]:
        """Messages of one conversation after another."""
        while True:
            turns = self.rng.choices([1, 2, 3, 4, 6, 10], self.turns)[0]
            messages = []
            if self.rng.random() < 0.2:
                messages.append({"role": "system", "content": self.rng.choice(SYSTEMS)})
            topic = None
            for _ in range(turns):
                topic, question = self._turn(topic)
                messages += [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": self.rng.choice(topic.answers)},
                ]
            yield messages

    def _turn(self, before: Topic | None) -> tuple[Topic, str]:
        """The next topic and its question, which may lean on the topic before."""
        while True:
            topic, template = self._choose(before)
            asked = expand(template, self.words.sets, self.rng)
            around = () if topic.plain else (self.words.opening, self.words.closing)
            question = noisy(asked, self.rng, self.alike, *around)
            if not self.forbidden & {normalise(asked), normalise(question)}:
                return topic, question

    def _choose(self, before: Topic | None) -> tuple[Topic, str]:
        if before is not None:
            chance = self.rng.random()
            if before.follows and chance < 0.3:
                template, name = self.rng.choice(before.follows)
                return self.topics[name], template
            if before.family and 0.3 < chance < 0.45:
                topic = self.rng.choice(self.families[before.family])
                if topic is not before:
                    return topic, self.rng.choice(self.words.mention).replace("@", topic.mention)
        topic = self.topics[self.rng.choices(self.names, self.weights)[0]]
        return topic, self.rng.choice(topic.asks)


if __name__ == "__main__":
    stream = Corpus(seed=0).conversations()
    for _ in range(20):
        for message in next(stream):
            print(f"{message['role']}: {message['content']}")
        print()
