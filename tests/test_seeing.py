"""Pictures through the engine: each is seen, found again in what was read, and never taken for
another one."""

import shutil

import mlx.core as mx
import pytest
import seeing
import tiny
from seeing import END, PAD, START, picture
from test_turns import TEMPLATE, assistant, user
from test_worker import Desk, ask, only, text, tokens

from mlxarch import checkpoint
from mlxarch.app.engine.protocol import Finish, Load, Memory, Prefill, Ready, Stats
from mlxarch.errors import DoesNotFit, FormatError
from mlxarch.tokenizer import Tokenizer
from mlxarch.vision import qwen35, transformer
from mlxarch.vision.sight import Sight

SIZE = 64, 48  # pixels
TOKENS = 8 * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return seeing.save(tmp_path_factory.mktemp("seeing") / "tiny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of three pictures of one size, and of a wider one."""
    made, files = tmp_path_factory.mktemp("pictures"), []
    for seed, size in enumerate([SIZE, SIZE, SIZE, (96, 24)]):
        files.append(made / f"{seed}.png")
        files[-1].write_bytes(picture(*size, seed=seed))
    return files


@pytest.fixture
def desk(folder):
    return loaded(folder)


def loaded(folder, **options):
    desk = Desk()
    desk(Load(path=str(folder), **options))
    return desk


def shown(*parts):
    """What a person asks: texts, and files of pictures."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "path": str(part)}
        for part in parts
    ]
    return {"role": "user", "content": content}


def said(desk, messages, count=10, **options):
    """The tokens of an answer, and how many of the prompt were read."""
    events = desk(ask(messages, max_tokens=count, temperature=0, **options))
    stats = only(events, Stats)
    return tokens(events), stats.prompt_tokens - stats.cached_tokens


def recomputed(folder, parts, count=10):
    """The same without cache or engine."""
    sight, model = Sight(folder), checkpoint.load(folder)
    files = [part for part in parts if not isinstance(part, str)]
    prompt = Tokenizer(folder).prompt([shown(*parts)]).tokens
    assert prompt.count(PAD) == prompt.count(START) == prompt.count(END) == len(files)
    found, images = sight.place(prompt, [sight.look(file) for file in files])
    length = len(found)
    for _ in range(count):
        found.append(int(model(mx.array([found]), images=images)[0, -1].argmax()))
    return found[length:]


@pytest.mark.parametrize("which", [[0], [0, 1], [3, 0], [2, 2]])
def test_an_answer_to_pictures(desk, folder, pictures, which):
    parts = ["look: ", *(pictures[i] for i in which), " what is it?"]
    answer, read = said(desk, [shown(*parts)])
    assert answer == recomputed(folder, parts)
    assert read > sum(36 if i == 3 else TOKENS for i in which)


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    return seeing.save_kimi(tmp_path_factory.mktemp("seeing") / "kimi")


def test_kimi_answers_to_pictures(kimi, pictures):
    parts = ["look: ", pictures[3], pictures[0], " what is it?"]
    desk = loaded(kimi)
    answer, read = said(desk, [shown(*parts)])
    assert answer == recomputed(kimi, parts)
    assert read > TOKENS + 36
    parts[2] = pictures[1]
    answer, read = said(desk, [shown(*parts)])
    assert answer == recomputed(kimi, parts)
    assert TOKENS < read < TOKENS + 36


def test_two_pictures_never_pass_for_one(desk, folder, pictures, tmp_path):
    answers = []
    for file in pictures[:3]:
        answer, read = said(desk, [shown("and this? ", file, " so")])
        assert answer == recomputed(folder, ["and this? ", file, " so"])
        assert read > TOKENS
        answers.append(answer)
    assert answers[0] != answers[1] != answers[2]
    # What was read before is found again, wherever the file lies.
    moved = shutil.copy(pictures[0], tmp_path / "cat.png")
    answer, read = said(desk, [shown("and this? ", moved, " so")])
    assert (answer, read < 20) == (answers[0], True)


def test_a_late_turn_reads_what_the_second_did(desk, pictures):
    messages, read = [shown("a picture: ", pictures[0])], []
    for turn in range(6):
        read.append(said(desk, messages, 4)[1])
        messages += [assistant("because"), user(f"{turn}?")]
    assert read[0] > TOKENS > read[1] >= max(read[2:])
    # Another one later on costs itself, and nothing of what is before it.
    messages[-1] = shown("now this one: ", pictures[1])
    assert TOKENS < said(desk, messages, 4)[1] < 2 * TOKENS + read[1]
    # An edit of the first question shows the picture again.
    assert said(desk, [shown("which picture: ", pictures[0])])[1] > TOKENS


def test_a_question_is_edited_after_a_picture(folder, pictures):
    first = [shown("a picture: ", pictures[0]), assistant("a cat"), user("what colour has it?")]
    desk = loaded(folder)
    said(desk, first)
    edited = [*first[:-1], user("how large is it, then?")]
    answer, read = said(desk, edited)
    assert read < TOKENS
    assert answer == said(loaded(folder), edited)[0]
    assert said(desk, first)[0] == said(loaded(folder), first)[0]


@pytest.mark.parametrize("draft", ["heads", "lookup"])
def test_guesses_change_nothing(tmp_path, pictures, draft):
    folder = seeing.save(tmp_path / "headed", heads=True)
    parts = [shown("look look look ", pictures[0], " look look look", pictures[3], "look")]
    plain, _ = said(loaded(folder, draft="off"), parts, 40)
    desk = loaded(folder, draft=draft)
    events = desk(ask(parts, max_tokens=40, temperature=0))
    assert tokens(events) == plain
    assert draft == "lookup" or only(events, Stats).guessed_tokens > 0


def test_a_smaller_model_does_not_guess_what_it_cannot_see(folder, tmp_path, pictures):
    smaller = seeing.save(tmp_path / "smaller", seed=1)
    desk = loaded(folder, draft=str(smaller))
    events = desk(ask([shown("look ", pictures[0])], max_tokens=20))
    assert only(events, Stats).guessed_tokens == 0
    assert tokens(events) == said(loaded(folder), [shown("look ", pictures[0])], 20)[0]


@pytest.mark.parametrize("model", ["folder", "kimi"])
def test_a_cache_of_few_bits(model, pictures, request):
    question = [shown("look: ", pictures[0], " what is it?")]
    desk = loaded(request.getfixturevalue(model), kv_bits=8)
    first, read = said(desk, question)
    assert read > TOKENS
    again, read = said(desk, question)
    assert (again, read < 20) == (first, True)


def test_pictures_that_were_read_in_a_run_before(folder, pictures, tmp_path):
    question = [shown("look: ", pictures[0], " what is it?")]
    keep = {"keep": str(tmp_path), "keep_bytes": 1 << 30}
    first = loaded(folder, **keep)
    answer, _ = said(first, question)
    first.worker.close()
    again = loaded(folder, **keep)
    events = again(ask(question, max_tokens=10, temperature=0))
    assert (tokens(events), only(events, Stats).cached_tokens > TOKENS) == (answer, True)
    assert "tower" not in vars(again.worker._loaded.sight)
    other = [shown("look: ", pictures[1], " what is it?")]
    assert said(loaded(folder, **keep), other)[1] > TOKENS


def test_a_stop_is_heard_while_a_picture_is_looked_at(desk, folder, pictures, monkeypatch):
    layers = []

    def call(self, x, turned):
        layers.append(1)
        desk.stopped.add(1)
        return original(self, x, turned)

    original = transformer.Block.__call__
    monkeypatch.setattr(transformer.Block, "__call__", call)
    parts = ["look: ", pictures[0], " what is it?"]
    events = desk(ask([shown(*parts)]))
    assert (only(events, Finish).reason, layers, text(events)) == ("cancelled", [1], "")
    monkeypatch.undo()
    desk.stopped.clear()
    assert said(desk, [shown(*parts)])[0] == recomputed(folder, parts)


def test_the_tower_is_loaded_with_the_first_picture(folder, pictures):
    desk = Desk()
    events = desk(Load(path=str(folder)))
    ready, before = only(events, Ready), only(events, Memory)
    assert (ready.images, ready.blind, ready.scale["patch"]) == (True, "", 4)
    tower = sum(w.nbytes for w in mx.load(str(folder / "vision.safetensors")).values())
    assert only(desk(ask([user("hello")])), Memory).weights == before.weights == ready.bytes
    grown = only(desk(ask([shown("look ", pictures[0])])), Memory).weights - before.weights
    assert grown == tower


def test_where_there_is_no_room_to_see(desk, folder, pictures, monkeypatch):
    monkeypatch.setattr(qwen35, "working_bytes", lambda c, patches: 1 << 50)
    with pytest.raises(DoesNotFit, match="to see its pictures"):
        desk(ask([shown("look ", pictures[0])]))
    assert said(desk, [user("hello")])[0]


def test_models_that_see_nothing_say_so(tmp_path, pictures):
    desk = Desk()
    events = desk(Load(path=str(tiny.save(tmp_path / "llama"))))
    assert only(events, Ready).images is False
    assert only(events, Ready).blind == "llama cannot see: its checkpoint has no vision tower."
    with pytest.raises(FormatError, match="llama cannot see"):
        desk(ask([shown("look ", pictures[0])]))


def test_a_template_without_pictures(folder, pictures, tmp_path):
    other = seeing.save(tmp_path / "model")
    tiny.save_tokenizer(other, TEMPLATE)
    with pytest.raises(FormatError, match="0 places for 1 pictures"):
        loaded(other)(ask([shown("look ", pictures[0])]))


def test_files_that_are_gone_or_others_now(desk, tmp_path):
    file = tmp_path / "cat.png"
    missing = [shown("look ", file)]
    with pytest.raises(FormatError, match=r"cat.png cannot be read: No such file"):
        desk(ask(missing))
    file.write_text("no picture")
    with pytest.raises(FormatError, match=r"cat.png cannot be shown: it is no PNG"):
        desk(ask(missing))
    file.write_bytes(picture(*SIZE))
    part = {"type": "image", "path": str(file), "hash": "0" * 64}
    with pytest.raises(FormatError, match=r"cat.png is not the picture that it was"):
        desk(ask([{"role": "user", "content": [part]}]))
    assert said(desk, missing)[0]


def test_progress_is_told_once_more_after_a_picture(desk, pictures):
    events = desk(ask([shown("look ", pictures[0])]))
    told = [event for event in events if isinstance(event, Prefill)]
    done = [event.done for event in told]
    assert done == sorted(done)
    # Each layer, and once more: so that what it took is not laid upon its tokens.
    looked = [event.looked for event in told]
    first = looked.index(0.0)
    assert looked[first : first + 3] == [0.0, 0.5, None]
    assert looked.count(None) == len(looked) - 2
    assert len({*done[first - 1 : first + 3]}) == 1
    assert done[-1] == only(events, Stats).prompt_tokens
