"""A checkpoint read one layer at a time says what it says when it is loaded."""

import json
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from close import assert_close, relative
from tiny_configs import CONFIGS, LINEAR, MTP, VOCAB, saved
from tiny_configs import mtp as random_heads

import mlxarch
from mlxarch import checkpoint, registry
from mlxarch.names import rules
from mlxarch.quantize.product import Matrix
from mlxarch.quantize.stream import Stream

# Longer than every window and choice; two batches, since five do not fit in one.
TOKENS = mx.array(np.random.default_rng(0).integers(0, VOCAB, (5, 50)))
# Two ways of adding up, and families that norm what may be next to nothing.
LIMIT = 2e-4
# Widths that can be packed.
EVEN = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "head_dim": 16}


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("mlxarch.quantize.stream._BATCH", 150)
    monkeypatch.setattr("mlxarch.quantize.stream._POSITIONS", 40)


def save(folder, raw, weights):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def logits(stream):
    return np.array(mx.concatenate(list(stream.logits())))


def whole(folder):
    """What the loaded model says."""
    return np.array(mlxarch.load(folder, dtype=mx.float32)(TOKENS)).reshape(-1, VOCAB)


def run(stream):
    for _ in stream.layers():
        pass
    return stream


def test_every_family_says_what_it_says_when_loaded(family, tmp_path):
    folder = save(tmp_path, *saved(family))
    stream = Stream(folder, TOKENS)
    paths = [layer.path for layer in stream.layers()]
    assert paths == [f"layers.{i}" for i in range(stream.depth)]
    assert_close("streamed", logits(stream), whole(folder), LIMIT)


def test_a_few_tokens_find_their_experts(tmp_path):
    # mlx-lm sorts tokens by expert from 64 on.
    folder, few = save(tmp_path, *saved("trinity")), TOKENS[:1, :20]
    wanted = np.array(mlxarch.load(folder, dtype=mx.float32)(few))[0]
    assert_close("streamed", logits(run(Stream(folder, few))), wanted, LIMIT)


@pytest.mark.parametrize("family", ["kimi_k25", "qwen35 experts", "trinity"])
def test_packed_checkpoints_too(family, tmp_path):
    raw, weights = saved(family, **EVEN)
    model = checkpoint.assemble(raw, weights)
    nn.quantize(model, 32, 4, class_predicate=lambda _, m: quantizable(m))
    table = registry.find(raw).names.table(registry.find(raw).model.Config.from_hub(raw))
    packed = rules.translate(rules.inverse(table), checkpoint.parameters(model))
    raw |= {"quantization": {"group_size": 32, "bits": 4}}
    folder = save(tmp_path, raw, packed)
    assert sum(name.endswith(".scales") for name in packed) > 10
    # Half a step of float32 in the weights of the recurrent one moves its logits by 5 to 8e-4.
    limit = 1e-3 if family in LINEAR else LIMIT
    assert_close("packed", logits(run(Stream(folder, TOKENS))), whole(folder), limit)


def quantizable(module):
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def test_it_goes_on_where_it_was_stored(family, tmp_path):
    folder = save(tmp_path / "model", *saved(family))
    stream = Stream(folder, TOKENS)
    for layer in stream.layers():
        if layer.path == "layers.1":
            mx.save_safetensors(str(tmp_path / "state"), stream.state())
    again = Stream(folder, TOKENS)
    again.restore(1, mx.load(str(tmp_path / "state.safetensors")))
    paths = [layer.path for layer in again.layers()]
    assert paths[0] == "layers.1"
    assert np.array_equal(logits(again), logits(stream))


def test_what_is_exchanged_counts_for_all_that_follows(tmp_path):
    raw, weights = saved("nanbeige41")
    folder, name = save(tmp_path / "a", raw, weights), "model.layers.0.mlp.down_proj.weight"
    stream = Stream(folder, TOKENS)
    for layer in stream.layers():
        if layer.path == "layers.0":
            product = layer.linears["layers.0.mlp.down_proj"]
            product.matrix = Matrix(2 * product.matrix.dense())
    changed = save(tmp_path / "b", raw, weights | {name: 2 * weights[name]})
    assert relative(whole(changed), whole(folder)) > 0.01
    assert_close("exchanged", logits(stream), whole(changed), LIMIT)


def keep(seen, path, x, experts):
    """The first that a linear layer is fed with."""
    flat = np.array(x).reshape(-1, x.shape[-1])
    seen.setdefault(path, (flat, None if experts is None else np.array(experts).reshape(-1)))


def test_linear_layers_show_what_they_are_fed_with(tmp_path):
    stream = Stream(save(tmp_path, *saved("trinity")), TOKENS)
    for layer in stream.layers():
        block, (x, mask), seen = layer.block, layer.batches[0], {}
        for path, product in layer.linears.items():
            product.watch = partial(keep, seen, path)
        layer.outputs()
        fed = np.array(block.mixer_in(x)).reshape(-1, x.shape[-1])
        for name in ("q_proj", "k_proj", "v_proj", "gate_proj"):
            got, which = seen[f"{layer.path}.mixer.{name}"]
            assert which is None
            assert np.array_equal(got, fed)
        if layer.path == "layers.0":
            continue
        x = x + block.mixer_out(block.mixer(block.mixer_in(x), mask))
        x = block.mlp_in(x)
        chosen = np.array(block.mlp.router(x)[0]).reshape(-1)
        fed = np.array(x).reshape(-1, x.shape[-1]).repeat(2, axis=0)
        got, which = seen[f"{layer.path}.mlp.experts.up_proj"]
        for expert in range(6):  # in any order
            ours, theirs = got[which == expert], fed[chosen == expert]
            assert len(ours) == len(theirs)
            np.testing.assert_allclose(np.sort(ours, 0), np.sort(theirs, 0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", MTP)
def test_heads_are_fed_with_the_tokens_that_follow(family, tmp_path):
    raw, weights = saved(family)
    port = registry.find(raw)
    table = port.names.table(port.model.Config.from_hub(raw))
    count = 2 if family in ("glm5", "kimi_k25", "ling25", "step35") else 1
    names = [f"mtp.{i}.{MTP[family]}" for i in range(count)]
    heads = random_heads(family, names)
    for i, head in enumerate(heads):
        ours = {f"mtp.{i}.{name}": w for name, w in checkpoint.parameters(head).items()}
        weights |= rules.translate(rules.inverse(table), ours)
    folder = save(tmp_path, raw, weights)
    stream = run(Stream(folder, TOKENS))
    model = mlxarch.load(folder, dtype=mx.float32)
    hidden = mx.concatenate(stream.normed())  # the layers below are compared above
    paths = []
    for i, layer in enumerate(stream.heads()):
        hidden = model.mtp[i](hidden[:, :-1], model.embed(TOKENS[:, i + 1 :]))
        got = np.concatenate([np.array(x) for x in layer.outputs()])
        assert_close(layer.path, got, np.array(hidden), LIMIT / 10)
        paths.append(layer.path)
    assert paths == [f"mtp.{i}" for i in range(count)]


def test_one_layer_is_in_memory_at_a_time(tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    folder = save(tmp_path, *saved("nanbeige41", **sizes))
    stream, before = Stream(folder, TOKENS), mx.get_active_memory()
    held = []
    for layer in stream.layers():
        layer.outputs()
        size = sum(a.nbytes for p in layer.linears.values() for a in p.matrix.arrays)
        held.append((mx.get_active_memory() - before) / size)
    assert 0.9 < max(held) < 1.3
