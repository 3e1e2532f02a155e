"""Prompts that were read, kept on disk: as good as in memory, bounded, and never trusted."""

import os
import stat

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_configs
from test_marks import FAMILIES, ask, length, message, talk

from mlxarch.app.engine.protocol import Generate, Load, Stats
from mlxarch.app.engine.worker import Worker
from mlxarch.cache import Past
from mlxarch.kept import Kept, fingerprint
from mlxarch.marks import NEAR  # ends of messages are not marked so near each other
from mlxarch.pace import Pace

LIMIT = 1 << 30


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_configs.model(request.param)


@pytest.fixture(scope="module")
def windowed():
    return tiny_configs.model("trinity")


def kept(folder, limit=LIMIT, model="model"):
    return Kept(folder, limit, model)


def save(folder, past, **options):
    keeper = kept(folder, **options)
    keeper.save(past)
    keeper.finish()
    return sorted(folder.glob("*"))


def logits(past, tokens):
    """Of some tokens, one after the other."""
    found = []
    for token in tokens:
        out = past.model(mx.array([[token]]), cache=past.caches)
        found.append(np.array(out[0, -1].astype(mx.float32)))
    return np.array(found)


@pytest.mark.parametrize("bits", [None, 8])
def test_what_was_kept_goes_on_to_the_bit(model, tmp_path, bits):
    past = Past(model, bits)
    messages = talk(past, 3)
    save(tmp_path, past)
    again = Past(model, bits)
    prompt = [*past.tokens, 7]
    kept(tmp_path).load(again, prompt)
    assert again.rewind(prompt) == len(past.tokens)
    assert (again.tokens, again.marked) == (past.tokens, past.marked)
    assert again.nbytes <= past.nbytes
    np.testing.assert_array_equal(logits(again, range(12)), logits(past, range(12)))
    # And goes back as the other one does.
    for k in (4, 2):
        fresh, edited = Past(model, bits), [*messages[:k], message(800 + k)]
        kept(tmp_path).load(fresh, [token for each in edited for token in each])
        said, answer = ask(fresh, edited)
        assert answer.cached > length(messages[:k]) - NEAR
        assert said == ask(Past(model, bits), edited)[0]


def test_in_bfloat16_too(tmp_path):
    built = tiny_configs.model("qwen35 dense")
    built.set_dtype(mx.bfloat16)
    past = Past(built)
    talk(past, 2)
    save(tmp_path, past)
    again, prompt = Past(built), [*past.tokens, 7]
    kept(tmp_path).load(again, prompt)
    assert again.rewind(prompt) == len(past.tokens)
    np.testing.assert_array_equal(logits(again, range(5)), logits(past, range(5)))


def test_what_is_being_written_does_not_change_with_the_caches(model, tmp_path):
    past, steady = Past(model), {"pace": Pace(16, 16, seconds=1e9)}
    talk(past, 2, **steady)
    read = list(past.tokens)
    keeper = kept(tmp_path)
    keeper.save(past)
    logits(past, range(20))
    keeper.finish()
    again, plain, prompt = Past(model), Past(model), [*read, 7]
    kept(tmp_path).load(again, prompt)
    assert again.rewind(prompt) == len(read)
    talk(plain, 2, **steady)
    np.testing.assert_array_equal(logits(again, range(5)), logits(plain, range(5)))


def test_files_are_for_their_owner_alone(windowed, tmp_path):
    past = Past(windowed)
    talk(past, 1)
    folder = tmp_path / "new" / "prompts"
    (file,) = save(folder, past)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_conversation_that_goes_on_has_one_file_and_others_stay(windowed, tmp_path):
    past, keeper = Past(windowed), kept(tmp_path)
    messages = []
    for turn in range(3):
        messages.append(message(turn))
        ask(past, messages)
        keeper.save(past)
        keeper.finish()
        keeper.load(past, past.tokens)
        assert len(list(tmp_path.iterdir())) == 1
        messages.append([5, 6, tiny_configs.VOCAB - 1])  # thoughts are dropped
    ask(past, [message(50), message(51)])
    keeper.save(past)
    keeper.finish()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_not_used_for_longest_goes_first(windowed, tmp_path):
    files = []
    for n in range(3):
        past = Past(windowed)
        ask(past, [message(60 + n)])
        files += set(save(tmp_path, past)) - set(files)
        os.utime(files[-1], (n, n))
    size = files[0].stat().st_size
    again, prompt = Past(windowed), [*message(60), 59]
    kept(tmp_path).load(again, prompt)  # used now
    past = Past(windowed)
    ask(past, [message(63)])
    left = save(tmp_path, past, limit=3 * size + size // 2)
    assert files[0] in left
    assert files[1] not in left
    assert len(left) == 3
    assert save(tmp_path / "small", past, limit=size // 2) == []


def test_another_model_s_are_left_alone(windowed, tmp_path):
    past = Past(windowed)
    talk(past, 1)
    (file,) = save(tmp_path, past, model="another")
    again = Past(windowed)
    kept(tmp_path).load(again, [*past.tokens, 7])
    assert again.reach([*past.tokens, 7]) == 0
    assert file.exists()


def flipped(file):
    raw = bytearray(file.read_bytes())
    raw[-100] ^= 1
    file.write_bytes(raw)


def truncated(file):
    file.write_bytes(file.read_bytes()[:-100])


def emptied(file):
    file.write_bytes(b"")


def no_file(file):
    file.write_text("hello, I am no file of tensors at all")


def of_another_model(file):
    """It is whole, and has the name of this one."""
    other = Past(tiny_configs.model("nanbeige41"))
    ask(other, [message(0)], max_tokens=1)
    (whole,) = save(file.parent / "other", other)
    whole.rename(file.parent / whole.name)
    file.unlink()


@pytest.mark.parametrize("damage", [flipped, truncated, emptied, no_file, of_another_model])
def test_what_is_damaged_or_foreign_is_removed(windowed, tmp_path, damage):
    past = Past(windowed)
    ask(past, [message(0)], max_tokens=1)
    (file,) = save(tmp_path, past)
    damage(file)
    again, prompt = Past(windowed), [*past.tokens, 7]
    kept(tmp_path).load(again, prompt)
    assert again.reach(prompt) == 0
    assert list(tmp_path.glob("*.safetensors")) == []
    said, answer = ask(again, [message(0)])
    assert answer.cached == 0
    assert said == ask(Past(windowed), [message(0)])[0]


def test_a_model_is_told_by_its_weights_and_bits(tmp_path):
    folder = tiny.save(tmp_path / "llama")
    found = {fingerprint(folder, bits) for bits in (None, 8, None)}
    assert len(found) == 2
    os.utime(folder / "model.safetensors", (1, 1))
    found.add(fingerprint(folder, None))
    assert len(found) == 3


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_a_later_run_goes_on_where_the_last_one_was(tmp_path, family):
    folder = tiny.save(tmp_path / family, family)
    question = [{"role": "user", "content": "w" * 100}]
    found = []
    for _ in range(2):
        events = []
        worker = Worker(events.append, lambda _: False)
        worker.handle(Load(path=str(folder), keep=str(tmp_path / "kept"), keep_bytes=LIMIT))
        worker.handle(Generate(id=1, messages=question, max_tokens=4))
        found.append(next(event for event in events if isinstance(event, Stats)))
        worker.close()
    assert found[0].cached_tokens == 0
    assert found[1].cached_tokens >= 100


def test_it_is_saved_when_nobody_waits_and_not_again_and_again(tmp_path, monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr("mlxarch.app.engine.worker.perf_counter", lambda: seconds[0])
    folder, where = tiny.save(tmp_path / "llama"), tmp_path / "kept"
    worker = Worker(lambda _: None, lambda _: False)
    assert not worker.saves
    worker.handle(Load(path=str(folder), keep=str(where), keep_bytes=LIMIT))
    assert worker.saves
    found = []
    for n, later in enumerate((0, 3, 40)):
        messages = [{"role": "user", "content": f"{n} " * 50}]
        worker.handle(Generate(id=1, messages=messages, max_tokens=4))
        seconds[0] += later
        worker.rest()
        assert worker.patience
        worker.rest()
        worker._loaded.kept.finish()
        found.append(len(list(where.iterdir())))
    assert found == [1, 1, 2]
