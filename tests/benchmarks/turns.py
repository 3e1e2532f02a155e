"""What a turn of a long conversation costs: the tokens that are read again, and the first token.

    python tests/benchmarks/turns.py [NAME ...] [--turns 20] [--letters 200] [--answer 60]

Random models of a few families hold a conversation through the engine's worker, once with a
template that keeps what was said and once with one that drops old thinking. Every question has as
many letters, each of them a token, and every answer as many tokens. A row for each: tokens of
the last prompt, those of them that were read (in turn 2, and in the last), the time that the
processor spent until the first token there, and how many times more that is in the last turn:
medians of three turns around both. Other work on the machine does not count.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlx.core as mx

sys.path.insert(0, str(Path(__file__).parent.parent))
import tiny
import tiny_configs

from mlxarch.app.engine.protocol import Delta, Event, Generate, Load, Stats
from mlxarch.app.engine.worker import Worker

NAMES = ["qwen3_next", "qwen35 dense", "ling25", "trinity", "step35", "tiny_aya", "nanbeige41"]
DROPS = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
TEMPLATES = {"keeps all": tiny.CHATML, "drops thinking": DROPS}
# The sizes that make up the most of the work in real models are not tiny.
SIZES = {
    "vocab_size": 264,
    "max_position_embeddings": 1 << 16,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "moe_intermediate_size": 256,
    "sliding_window": 512,
}
LETTERS = 94  # the first tokens are those of ASCII


class Turn(NamedTuple):
    """What a turn cost."""

    tokens: int  # of the prompt
    cached: int  # of those
    seconds: float  # of the processor, until the first token


def save(folder: Path, name: str, template: str) -> Path:
    """A random checkpoint with room for a long conversation."""
    config = tiny_configs.CONFIGS[name]
    raw, weights = tiny_configs.saved(
        name, **{key: size for key, size in SIZES.items() if key in config}
    )
    # Say only letters that are text: the others are as likely as one of those, and come after it.
    head = max((n for n, w in weights.items() if w.shape[0] == 264), key=lambda n: "head" in n)
    weights[head] = weights[head][mx.arange(264) % LETTERS]
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(raw))
    return tiny.save_tokenizer(folder, template)


def talk(folder: Path, turns: int, letters: int, answer: int, draft: str) -> list[Turn]:
    """What each turn of a conversation cost."""
    events: list[Event] = []
    first: list[float] = []

    def emit(event: Event) -> None:
        if isinstance(event, Delta) and not any(isinstance(e, Delta) for e in events):
            first.append(time.process_time() - began)
        events.append(event)

    worker = Worker(emit, lambda _: False)
    worker.handle(Load(path=str(folder), draft=draft))
    messages: list[dict[str, str]] = []
    found: list[Turn] = []
    for number in range(turns):
        question = f"{number:03} {'question ' * letters}"[:letters]
        messages.append({"role": "user", "content": question})
        events.clear()
        began = time.process_time()
        worker.handle(Generate(id=1, messages=messages, max_tokens=answer, temperature=0))
        stats = next(event for event in events if isinstance(event, Stats))
        found.append(Turn(stats.prompt_tokens, stats.cached_tokens, first[-1]))
        text = "".join(event.text for event in events if isinstance(event, Delta))
        messages.append({"role": "assistant", "content": text})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--letters", type=int, default=200)
    parser.add_argument("--answer", type=int, default=60)
    parser.add_argument("--draft", default="off")
    options = parser.parse_args()
    print(f"{mx.default_device()}")
    print("| model | template | tokens | read in turn 2 | in the last | first token | ratio |")
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as where:
        for name in options.names:
            for kind, template in TEMPLATES.items():
                folder = save(Path(where) / f"{name} {kind}", name, template)
                found = talk(folder, options.turns, options.letters, options.answer, options.draft)
                second, last = found[1], found[-1]
                seconds = [median(t.seconds for t in part) for part in (found[1:4], found[-3:])]
                print(
                    f"| {name} | {kind} | {last.tokens:,} | {second.tokens - second.cached} "
                    f"| {last.tokens - last.cached} "
                    f"| {seconds[0] * 1e3:.0f} ms, {seconds[1] * 1e3:.0f} ms "
                    f"| {seconds[1] / seconds[0]:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
