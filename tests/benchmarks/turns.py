"""What a turn of a long conversation costs: the tokens that are read again, and the first token.

    python tests/benchmarks/turns.py [NAME ...] [--turns 20] [--letters 200] [--answer 60]
    python tests/benchmarks/turns.py --config FILE [--layers 8]

Random models hold a conversation through an engine process, as the chat does, once with a template
that keeps what was said and once with one that drops old thinking: tiny ones of a few families, or
one in the shape of a config.json's first layers. Every question has as many letters, each of them
a token, and every answer as many tokens.

A row for each: tokens of the last prompt, those that were read in turn 2 and in the last, then for
both the milliseconds from the question until its first token is back, how many times more that is
in the last turn, and what of it the model took to read, and all else: the way there and back, the
template, tokens, marks, the first step. Least of three turns around both, since what else the
machine does only adds.

Below, the same for an answer that is made anew, a question that is asked otherwise, a branch that
is gone back to, and a conversation that is forked: tokens, those that were read, milliseconds.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlx.core as mx

sys.path.insert(0, str(Path(__file__).parent.parent))
import tiny
import tiny_configs

from mlxarch import shards
from mlxarch.app.engine.client import Engine
from mlxarch.app.engine.protocol import Delta, Error, Finish, Generate, Load, Ready, Stats
from mlxarch.quantize import synthetic
from mlxarch.quantize.recipes import Recipe

NAMES = ["qwen3_next", "qwen35 dense", "ling25", "trinity", "step35", "tiny_aya", "nanbeige41"]
DROPS = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
TEMPLATES = {"keeps all": tiny.CHATML, "drops thinking": DROPS}
VOCAB = 264
# The sizes that make up the most of the work in real models are not tiny.
SIZES = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 1 << 16,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "moe_intermediate_size": 256,
    "sliding_window": 512,
}
LETTERS = 94  # the first tokens are those of ASCII

Messages = list[dict[str, str]]


class Turn(NamedTuple):
    """What a turn cost."""

    tokens: int  # of the prompt
    cached: int  # of those
    seconds: float  # until the first token was back
    reading: float  # of those, the model's
    text: str

    @property
    def read(self) -> int:
        """Tokens of the prompt that were not known."""
        return self.tokens - self.cached


def save_tiny(folder: Path, name: str) -> None:
    """A random checkpoint with room for a long conversation."""
    config = tiny_configs.CONFIGS[name]
    raw, weights = tiny_configs.saved(
        name, **{key: size for key, size in SIZES.items() if key in config}
    )
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(raw))


def save_shape(folder: Path, config: Path, layers: int | None) -> None:
    """Random weights of 4 bits in the shape of a model's first layers, with few tokens."""
    raw = synthetic.shortened(shards.read_config(config), layers)
    raw.get("text_config", raw)["vocab_size"] = VOCAB
    folder.mkdir(parents=True)
    synthetic.write(raw, folder, Recipe())


def tame(folder: Path) -> None:
    """Have a model say only letters that are text: others are as likely as one of those."""
    for file in folder.glob("*.safetensors"):
        weights = dict(mx.load(str(file)))
        rows = [n for n, w in weights.items() if w.ndim == 2 and w.shape[0] == VOCAB]
        heads = [name for name in rows if "head" in name] or rows
        for name in heads:
            weights[name] = weights[name][mx.arange(VOCAB) % LETTERS]
        mx.eval(weights)
        mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})


class Talk:
    """A conversation with an engine process."""

    def __init__(self, folder: Path, draft: str, answer: int):
        self._engine, self._answer, self._asked = Engine.start(), answer, 0
        self._engine.send(Load(path=str(folder), draft=draft))
        while not isinstance(self._next(), Ready):
            pass

    def ask(self, messages: Messages) -> Turn:
        """The next answer."""
        self._asked += 1
        first, text, stats = 0.0, "", None
        began = time.perf_counter()
        self._engine.send(
            Generate(id=self._asked, messages=messages, max_tokens=self._answer, temperature=0)
        )
        while not isinstance(event := self._next(), Finish):
            if isinstance(event, Delta):
                first = first or time.perf_counter() - began
                text += event.text
            elif isinstance(event, Stats):
                stats = event
        assert stats is not None
        return Turn(stats.prompt_tokens, stats.cached_tokens, first, stats.prefill_seconds, text)

    def close(self) -> None:
        """End the process."""
        self._engine.close()

    def _next(self):
        event = self._engine.receive()
        if event is None or isinstance(event, Error):
            raise SystemExit(f"{event}\n{self._engine.log_tail()}")
        return event


def question(number: int, letters: int) -> dict[str, str]:
    """One that is told from others by its first letters."""
    return {
        "role": "user",
        "content": f"{number:03}"[::-1] + f" {'question ' * letters}"[3:letters],
    }


def hold(talk: Talk, turns: int, letters: int) -> tuple[Messages, list[Turn]]:
    """A conversation, and what each of its turns cost."""
    messages: Messages = []
    found: list[Turn] = []
    for number in range(turns):
        messages.append(question(number, letters))
        found.append(talk.ask(messages))
        messages.append({"role": "assistant", "content": found[-1].text})
    return messages, found


def wander(talk: Talk, messages: Messages, letters: int) -> Iterator[tuple[str, Turn]]:
    """What people do with a conversation, one after another, and what each costs."""
    middle = len(messages) // 4 * 2  # the messages before a question
    turn = middle // 2 + 1
    yield "the last answer again", talk.ask(messages[:-1])
    yield "the last question otherwise", talk.ask([*messages[:-2], question(901, letters)])
    yield f"answer {turn} again", talk.ask(messages[: middle + 1])
    yield f"question {turn} otherwise", talk.ask([*messages[:middle], question(902, letters)])
    yield "back at the end, a question", talk.ask([*messages, question(903, letters)])
    yield f"a fork after answer {turn}", talk.ask([*messages[: middle + 2], question(904, letters)])


def row(name: str, kind: str, found: list[Turn]) -> str:
    """A line of the table."""
    second, last = found[1], found[-1]
    a, b = (min(near, key=lambda turn: turn.seconds) for near in (found[1:4], found[-3:]))
    whole, reading, rest = (
        f"{1e3 * early:.1f}, {1e3 * late:.1f}"
        for early, late in (
            (a.seconds, b.seconds),
            (a.reading, b.reading),
            (a.seconds - a.reading, b.seconds - b.reading),
        )
    )
    cells = f"{last.tokens:,} | {second.read}, {last.read} | {whole}"
    return f"| {name} | {kind} | {cells} | {b.seconds / a.seconds:.2f} | {reading} | {rest} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--letters", type=int, default=200)
    parser.add_argument("--answer", type=int, default=60)
    parser.add_argument("--draft", default="off")
    options = parser.parse_args()
    names = [options.config.stem] if options.config else options.names or NAMES
    wandered: list[str] = []
    print(f"{mx.default_device()}")
    print("| model | template | tokens | read | first token, ms | ratio | reading | else |")
    print("|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as where:
        for name in names:
            folder = Path(where) / name
            if options.config:
                save_shape(folder, options.config, options.layers)
            else:
                save_tiny(folder, name)
            tame(folder)
            for kind, template in TEMPLATES.items():
                tiny.save_tokenizer(folder, template)
                talk = Talk(folder, options.draft, options.answer)
                messages, found = hold(talk, options.turns, options.letters)
                print(row(name, kind, found), flush=True)
                for what, turn in wander(talk, messages, options.letters):
                    cells = f"{turn.tokens:,} | {turn.read} | {turn.seconds * 1e3:.1f}"
                    wandered.append(f"| {name} | {kind} | {what} | {cells} |")
                talk.close()
    print("\n| model | template | what | tokens | read | first token, ms |")
    print("|---|---|---|---|---|---|")
    print("\n".join(wandered))


if __name__ == "__main__":
    main()
