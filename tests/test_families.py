"""What every family's decoder must obey, on a tiny random model of each."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from tiny_configs import CONFIGS, MTP, VOCAB, WINDOW, build, model, mtp, saved

import mlxarch
from mlxarch import checkpoint

FAMILIES = pytest.mark.parametrize("family", CONFIGS)
# Longer than every window and choice, and than a chunk of the recurrent layers.
LENGTH = 70
# Gated DeltaNet norms what may be next to nothing: a block's 1e-6 grows to 2e-5 in its families.
LIMIT = 5e-5

made = cache(model)


def tokens(rows, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, LENGTH))


@cache
def reference(family):
    """Tokens of two rows, and the logits they get at once and without a cache."""
    ids = mx.array(tokens(2))
    return ids, np.array(made(family)(ids))


def in_pieces(decoder, ids, cuts):
    """Logits of a prompt that arrives in pieces."""
    entries, edges = decoder.make_cache(), sorted({0, *cuts, ids.shape[1]})
    pieces = [np.array(decoder(ids[:, a:b], cache=entries)) for a, b in pairwise(edges)]
    return np.concatenate(pieces, axis=1)


@FAMILIES
@settings(max_examples=4)
@given(cuts=st.sets(st.integers(1, LENGTH - 1), min_size=1, max_size=4))
def test_any_split_of_the_prompt_gives_the_same_logits(family, cuts):
    ids, wanted = reference(family)
    assert_close("in pieces", in_pieces(made(family), ids, cuts), wanted, LIMIT)


@FAMILIES
def test_token_by_token_gives_the_same_logits(family):
    ids, wanted = reference(family)
    cuts = range(LENGTH - WINDOW - 1, LENGTH)
    assert_close("token by token", in_pieces(made(family), ids, cuts), wanted, LIMIT)


@FAMILIES
def test_a_token_changes_nothing_before_it(family):
    changed = [0, 1, 8, 30, 64, LENGTH - 1]
    ids = np.repeat(tokens(1), 1 + len(changed), axis=0)
    for row, t in enumerate(changed, start=1):
        ids[row, t] = (ids[row, t] + 1) % VOCAB
    before, *after = np.array(made(family)(mx.array(ids)))
    for t, row in zip(changed, after, strict=True):
        if t:
            assert_close(f"before {t}", row[:t], before[:t], 1e-6)
        assert relative(row[t], before[t]) > 1e-2


@FAMILIES
def test_rows_of_a_batch_do_not_know_of_each_other(family):
    ids, wanted = reference(family)
    for row in range(2):
        alone = made(family)(ids[row : row + 1])
        assert_close(f"row {row}", alone, wanted[row : row + 1], LIMIT)


@FAMILIES
def test_mlx_lm_generates_with_the_model_and_its_cache(family):
    decoder, prompt = made(family), mx.array(tokens(1)[0, :40])
    steps = generate_step(
        prompt,
        decoder,
        max_tokens=6,
        prompt_cache=decoder.make_cache(),
        prefill_step_size=16,
    )
    found = [token for token, _ in steps]
    logits = decoder(mx.array([prompt.tolist() + found]))
    assert found == mx.argmax(logits[0, 39:-1], axis=-1).tolist()


@FAMILIES
def test_to_build_a_model_evaluates_nothing(family):
    """Else a model of 1T parameters would be made of random numbers before it is loaded."""
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    decoder = build(family)
    weights = sum(w.nbytes for _, w in tree_flatten(decoder.parameters()))
    assert mx.get_peak_memory() - before < weights / 20


@FAMILIES
def test_a_model_made_in_one_thread_runs_in_another(family):
    """MLX's lazy arrays belong to a thread; those a block keeps beside its weights must not."""
    fresh, (ids, wanted) = model(family), reference(family)
    with ThreadPoolExecutor(max_workers=1) as pool:
        found = pool.submit(lambda: np.array(fresh(ids))).result()
    assert_close("elsewhere", found, wanted, LIMIT)


@pytest.mark.parametrize("family", ["step35", "tiny_aya", "trinity"])
def test_layers_with_a_window_keep_no_more_than_it(family):
    decoder, ids = made(family), reference(family)[0]
    entries, kept = decoder.make_cache(), 0
    decoder(ids[:, :-1], cache=entries)
    decoder(ids[:, -1:], cache=entries)
    for block, entry in zip(decoder.layers, entries, strict=True):
        if block.mixer.window is not None:
            a_token = 2 * 2 * block.mixer.kv_heads * CONFIGS[family]["head_dim"] * 4
            assert entry.nbytes == WINDOW * a_token
            kept += 1
    assert kept == 3


@pytest.mark.parametrize("t", [0, 7, 20])
def test_a_token_reaches_as_far_as_the_windows_do_and_no_further(t):
    decoder = model("tiny_aya", layer_types=["sliding_attention"] * 4)
    ids = tokens(1)
    before = decoder(mx.array(ids))
    ids[0, t] = (ids[0, t] + 1) % VOCAB
    after, last = decoder(mx.array(ids)), t + 4 * (WINDOW - 1)
    assert relative(after[:, last], before[:, last]) > 1e-6
    assert_close("out of reach", after[:, last + 1 :], before[:, last + 1 :], 1e-7)


@FAMILIES
def test_save_then_load_is_identity(family, tmp_path):
    raw, weights = saved(family)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    loaded = checkpoint.parameters(mlxarch.load(tmp_path))
    wanted = checkpoint.parameters(made(family))
    assert loaded.keys() == wanted.keys()
    assert all(mx.array_equal(loaded[path], wanted[path]) for path in wanted)


@pytest.mark.parametrize("family", MTP)
@settings(max_examples=3)
@given(cuts=st.sets(st.integers(1, LENGTH - 2), min_size=1, max_size=3))
def test_heads_for_further_tokens_are_the_same_in_any_split(family, cuts):
    decoder, (head,) = made(family), mtp(family, [f"mtp.0.{MTP[family]}"])
    ids, _ = reference(family)
    hidden = decoder.norm(decoder.hidden(ids))[:, :-1]
    embedded = decoder.embed(ids)[:, 1:]
    entry, pieces = head.make_cache(), []
    for a, b in pairwise(sorted({0, *cuts, LENGTH - 1})):
        pieces.append(np.array(head(hidden[:, a:b], embedded[:, a:b], entry)))
    assert_close("in pieces", np.concatenate(pieces, axis=1), head(hidden, embedded), LIMIT)
