"""Turn by turn through the engine: what is read again where old thoughts are dropped."""

import json

import mlx.core as mx
import pytest
import tiny
import tiny_configs

from mlxarch.app.engine.protocol import Generate, Load, Prefill, Stats
from mlxarch.app.engine.worker import Worker

TEMPLATE = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
OPENING = len("_assistant\n_\n")  # a letter is a token, and so is a marker
NAMES = ["qwen3_next", "qwen35 dense", "ling25", "trinity", "step35", "tiny_aya", "glm5"]


class Engine:
    """A worker with a random model, and what each answer cost."""

    def __init__(self, folder, **options):
        self.events = []
        self.worker = Worker(self.events.append, lambda _: False)
        self.worker.handle(Load(path=str(folder), **options))

    def read(self, messages, tokens=12):
        """How many tokens of a prompt are read."""
        self.events.clear()
        command = Generate(id=1, messages=messages, max_tokens=tokens, temperature=0)
        self.worker.handle(command)
        stats = next(event for event in self.events if isinstance(event, Stats))
        told = [event for event in self.events if isinstance(event, Prefill)]
        assert {event.cached for event in told} == {stats.cached_tokens}
        assert told[0].done == stats.cached_tokens
        return stats.prompt_tokens - stats.cached_tokens


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("turns")
    raw, weights = tiny_configs.saved(request.param, vocab_size=264, max_position_embeddings=4096)
    mx.save_safetensors(str(made / "model.safetensors"), weights)
    (made / "config.json").write_text(json.dumps(raw))
    return tiny.save_tokenizer(made, TEMPLATE)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def question(number):
    return user(f"{number:02} {'why ' * 20}")


def talk(engine, turns):
    """A conversation, and what each turn read."""
    messages, read = [], []
    for turn in range(turns):
        messages.append(question(turn))
        read.append(engine.read(messages))
        messages.append(assistant("because " * 5))
    return messages, read


def length(*messages):
    return sum(len(m["role"]) + len(m["content"]) + len("_\n_\n") for m in messages)


@pytest.mark.parametrize("draft", ["off", "lookup"])
def test_the_last_turn_reads_what_the_second_did(folder, draft):
    messages, read = talk(Engine(folder, draft=draft), 6)
    assert read[1] <= length(*messages[-2:]) + OPENING
    assert read[1:] == [read[1]] * 5


def test_an_edit_a_regeneration_and_the_way_back(folder):
    engine = Engine(folder, draft="off")
    messages, _ = talk(engine, 5)
    # Of a message before only its last marker may be read again, and what opens the answer.
    around = len("_\n") + 16 + OPENING
    assert engine.read(messages[:-1]) <= len("_\n")  # what opens thinking
    edited = [*messages[:4], user("what else? " * 6)]
    assert engine.read(edited) <= length(edited[-1]) + around
    assert engine.read(edited) <= around
    assert engine.read([*messages, question(8)]) <= length(*messages[-1:], question(8)) + around
    longer = [*edited, assistant("no"), question(9)]
    assert engine.read(longer) <= length(*longer[-2:]) + around


def test_it_is_so_after_a_pause_between_two_runs(folder, tmp_path):
    kept = {"keep": str(tmp_path), "keep_bytes": 1 << 30, "draft": "off"}
    engine = Engine(folder, **kept)
    messages, read = talk(engine, 3)
    engine.worker.close()
    assert Engine(folder, **kept).read([*messages, question(3)]) == read[-1]
