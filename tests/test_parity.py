"""Every port against the reference implementation, on the same weights."""

import json
import re
from functools import partial
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, layer_report
from goldens import NAMES, SPELLINGS, Golden

import mlxarch
from mlxarch import checkpoint, registry


@pytest.fixture(scope="module", params=SPELLINGS)
def model(request, golden, tmp_path_factory):
    """Our model of a checkpoint, from transformers 4's config.json and from transformers 5's."""
    folder = golden.spelled(request.param, tmp_path_factory.mktemp(golden.name))
    return mlxarch.load(folder, dtype=mx.float32)


def chunked(model, ids, cuts):
    """Logits of tokens that arrive in pieces, through one cache."""
    cache, edges = model.make_cache(), [0, *cuts, ids.shape[1]]
    out = [model(mx.array(ids[:, start:stop]), cache=cache) for start, stop in pairwise(edges)]
    return np.concatenate(out, axis=1)


def greedy(model, ids, steps):
    """The likeliest tokens after one row, and their logits."""
    cache, fed, tokens, logits = model.make_cache(), mx.array(ids), [], []
    for _ in range(steps):
        logits.append(model(fed, cache=cache)[:, -1])
        fed = logits[-1].argmax(axis=-1, keepdims=True)
        tokens.append(fed.item())
    return tokens, np.concatenate(logits)


@pytest.mark.parametrize("prompt", ["long", "short", "batch"])
def test_whole_prompt(model, golden, prompt):
    ours = model(mx.array(golden[f"{prompt}.ids"]))
    report = partial(layer_report, model, golden)
    assert_close(f"{prompt} prompt", ours, golden[f"{prompt}.logits"], report=report)


@pytest.mark.parametrize("size", [1, 3, 7, 19])
def test_prefill_in_chunks(model, golden, size):
    ids = golden["long.ids"]
    cuts = range(size, ids.shape[1], size)
    report = partial(layer_report, model, golden, cuts)
    assert_close(
        f"chunks of {size}", chunked(model, ids, cuts), golden["long.logits"], report=report
    )


@pytest.mark.parametrize("cuts", [[5, 6, 17, 19, 20], [23, *range(24, 37)], [2, 36]])
def test_prefill_in_odd_chunks_then_decode(model, golden, cuts):
    ours = chunked(model, golden["long.ids"], cuts)
    report = partial(layer_report, model, golden, cuts)
    assert_close(f"cuts at {cuts}", ours, golden["long.logits"], report=report)


def test_rows_of_a_batch_do_not_see_each_other(model, golden):
    ids, wanted = golden["batch.ids"], golden["batch.logits"]
    for row in range(2):
        assert_close(f"row {row}", model(mx.array(ids[row : row + 1])), wanted[row : row + 1])
    assert_close("a batch in chunks", chunked(model, ids, [4, 5, 14]), wanted)


def test_greedy_decoding_past_the_window(model, golden):
    tokens, logits = greedy(model, golden["short.ids"], len(golden["greedy.tokens"]))
    assert_close("greedy", logits, golden["greedy.logits"])
    assert tokens == golden["greedy.tokens"].tolist()


def test_mlx_lm_generates_with_our_model_and_cache(model, golden):
    from mlx_lm.generate import generate_step

    prompt, wanted = mx.array(golden["short.ids"][0]), golden["greedy.tokens"].tolist()
    steps = generate_step(
        prompt, model, max_tokens=len(wanted), prompt_cache=model.make_cache(), prefill_step_size=2
    )
    assert [token for token, _ in steps] == wanted


@pytest.mark.parametrize("cuts", [[], [1, 2, 9, 20, 21]], ids=["whole", "pieces"])
def test_heads_for_further_tokens(model, golden, cuts):
    heads = model.mtp or []
    assert len(heads) == sum(key.endswith(".hidden") for key in golden.arrays)
    ids = mx.array(golden["long.ids"])
    length = ids.shape[1] - len(heads)
    states = model.norm(model.hidden(ids[:, :length]))
    for j, head in enumerate(heads):
        tokens, cache, pieces = model.embed(ids[:, j + 1 :]), head.make_cache(), []
        for start, stop in pairwise([0, *cuts, length]):
            pieces.append(head(states[:, start:stop], tokens[:, start:stop], cache))
        states = mx.concatenate(pieces, axis=1)
        assert_close(f"states of head {j}", states, golden[f"mtp.{j}.hidden"])
        assert_close(f"logits of head {j}", model.logits(states), golden[f"mtp.{j}.logits"])


@pytest.mark.parametrize(
    ("name", "kind", "outside", "inside", "towers"),
    [
        ("kimi_k25", "kimi_k25", "", "language_model.", ["vision_tower", "mm_projector"]),
        ("qwen35_dense", "qwen3_5", "model.", "model.language_model.", ["model.visual"]),
        ("qwen35_moe", "qwen3_5_moe", "model.", "model.language_model.", ["model.visual"]),
    ],
)
def test_a_language_model_beside_its_tower(name, kind, outside, inside, towers, tmp_path):
    """As published: in config.json's text_config, and under names of its own."""
    golden = Golden(name)
    weights = {
        re.sub(f"^{outside}", inside, path): weight
        for path, weight in checkpoint.read(golden.folder).items()
    }
    weights |= {f"{tower}.norm.weight": mx.zeros(3) for tower in towers}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    raw = {"model_type": kind, "text_config": golden.config(), "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found = mlxarch.load(tmp_path, dtype=mx.float32)
    assert_close("inside", found(mx.array(golden["long.ids"])), golden["long.logits"])
    assert len(found.mtp) == 1


def test_golden_files_say_what_made_them(golden):
    assert golden.meta["transformers"].startswith("5.")
    assert golden.meta["reference"].split(".")[-1] in golden.config("tf5")["architectures"]
    assert golden.meta["float32_noise"] < 1e-5


def test_every_port_has_golden_files():
    proved = {registry.find(Golden(name).config()).module for name in NAMES}
    ports = [*registry.BY_MODEL_TYPE.values(), *registry.BY_CLASS.values()]
    assert proved == {port.module for port in ports}
