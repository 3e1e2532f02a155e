"""Every port against the reference implementation and against mlx-lm, on the same weights."""

from functools import partial
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, layer_report, relative
from goldens import NAMES, SPELLINGS, Golden
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import mlxarch
from mlxarch import registry


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


def test_mlx_lm_agrees_on_the_same_weights(golden, tmp_path):
    from mlx_lm.utils import load_model

    theirs, _ = load_model(golden.spelled("tf4", tmp_path))
    theirs.set_dtype(mx.float32)
    ours = mlxarch.load(tmp_path, dtype=mx.float32)
    ids = mx.array(golden["long.ids"])
    assert_close("mlx-lm", ours(ids), theirs(ids), limit=1e-5)


def _mixed(path, module):
    """8 bits here, 4 bits there, and some layers left alone."""
    if not hasattr(module, "to_quantized") or path.endswith(("v_proj", "gate_proj")):
        return False
    return {"group_size": 32, "bits": 8 if "embed" in path or "o_proj" in path else 4}


@pytest.mark.parametrize(
    "recipe",
    [
        {"q_bits": 4, "q_group_size": 32},
        {"q_mode": "mxfp4"},
        {"q_bits": 4, "q_group_size": 32, "quant_predicate": _mixed},
    ],
    ids=["affine", "mxfp4", "mixed"],
)
def test_a_checkpoint_quantized_by_mlx_lm_answers_as_mlx_lm_does(golden, tmp_path, recipe):
    from mlx_lm import convert
    from mlx_lm.utils import load_model

    source, packed = tmp_path / "source", tmp_path / "packed"
    source.mkdir()
    golden.spelled("tf4", source)
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(source / "tokenizer.json"))
    convert(str(source), str(packed), quantize=True, **recipe)

    theirs, _ = load_model(packed)
    theirs.set_dtype(mx.float32)
    ours = mlxarch.load(packed, dtype=mx.float32)
    ids = mx.array(golden["long.ids"])
    assert_close("mlx-lm, quantized", ours(ids), theirs(ids), limit=1e-5)
    assert relative(ours(ids), golden["long.logits"]) > 0.01, "nothing was quantized"


def test_golden_files_say_what_made_them(golden):
    assert golden.meta["transformers"].startswith("5.")
    assert golden.meta["reference"] in golden.config()["architectures"]
    assert golden.meta["float32_noise"] < 1e-5


def test_every_port_has_golden_files():
    proved = {registry.find(Golden(name).config()).module for name in NAMES}
    assert proved == {port.module for port in registry.BY_MODEL_TYPE.values()}
