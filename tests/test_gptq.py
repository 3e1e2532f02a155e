"""Rounding by what weights are fed with: the formats, the mathematics, and all families."""

import json
from functools import partial

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from close import assert_close
from mlx.utils import tree_map
from tiny_configs import CONFIGS, MTP, VOCAB, saved
from twins import randomised

import mlxarch
from mlxarch import checkpoint, registry
from mlxarch.convert import inventory, plan
from mlxarch.convert.safetensors import MLX
from mlxarch.convert.write import write
from mlxarch.errors import CheckpointError
from mlxarch.names import rules
from mlxarch.quantize import gptq
from mlxarch.quantize.calibrate import Calibrated
from mlxarch.quantize.gptq import Cost
from mlxarch.quantize.grids import Grid
from mlxarch.quantize.inputs import ExpertHessians
from mlxarch.quantize.product import flattened
from mlxarch.quantize.recipes import Recipe
from mlxarch.quantize.scheme import Scheme
from mlxarch.quantize.stream import Stream

AFFINE = [Scheme(bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
SCHEMES = [*AFFINE, *map(Scheme.of, ("mxfp4", "mxfp8", "nvfp4"))]
TOKENS = mx.array(np.random.default_rng(0).integers(0, VOCAB, (6, 64)))
# Widths that can be packed. mlx-lm bars a group of experts with zero and adds up an indexer's
# scores in another order, so nothing is barred and nothing overlooked.
EVEN = {
    "group_norm_size": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "index_head_dim": 32,
    "index_topk": 100,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "linear_value_head_dim": 32,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "partial_rotary_factor": 0.5,
    "partial_rotary_factors": [0.5] + [1.0] * 5,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "share_expert_dim": 32,
    "shared_expert_intermediate_size": 32,
    "topk_group": 1,
    "v_head_dim": 32,
}
by_word = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme}")


def fed(tokens=1500, features=256, seed=0):
    """Inputs that go together, of very different sizes."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(features, features)) * np.exp(random.normal(size=features))
    return (random.normal(size=(tokens, features)) @ mixed / features**0.5).astype(np.float32)


def weights(rows=48, columns=256, dtype=mx.bfloat16, seed=1):
    """What a checkpoint of such a type holds."""
    array = mx.array(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))
    return np.array(array.astype(dtype).astype(mx.float32))


def read(arrays, scheme):
    """What MLX reads of packed arrays, in float32."""
    weight, scales, *biases = arrays
    biases = biases[0].astype(mx.float32) if biases else None
    scales = scales.astype(mx.float32) if biases is not None else scales
    layout = scheme.group_size, scheme.bits, scheme.mode
    return np.array(mx.dequantize(weight, scales, biases, *layout, dtype=mx.float32))


def nearest(weight, scheme, dtype=mx.bfloat16):
    """What MLX's own rounding makes of a weight."""
    layout = scheme.group_size, scheme.bits, scheme.mode
    return read(mx.quantize(mx.array(weight).astype(dtype), *layout), scheme)


def lost(weight, values, x):
    """What errors change of a layer's outputs, squared."""
    return float(np.square((weight - values).astype(np.float64) @ x.T.astype(np.float64)).sum())


@by_word
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_mlx_reads_exactly_what_was_chosen(scheme, dtype):
    grid, weight = Grid(scheme, dtype), weights(dtype=dtype)
    for cost in (None, Cost.of(np.cov(fed().T).astype(np.float32))):
        rounded = gptq.quantize(weight, cost, grid)
        arrays = grid.pack(rounded.codes, rounded.groups)
        theirs = mx.quantize(mx.array(weight).astype(dtype), *_layout(scheme))
        assert [(a.shape, a.dtype) for a in arrays] == [(a.shape, a.dtype) for a in theirs]
        # Scales of float32 leave a product's last bits to how it is added up.
        slack = 1e-6 if dtype == mx.float32 else 0
        np.testing.assert_allclose(read(arrays, scheme), rounded.values, rtol=slack, atol=slack)


def _layout(scheme):
    return scheme.group_size, scheme.bits, scheme.mode


@by_word
def test_outputs_change_less_than_by_rounding(scheme):
    x, weight, grid = fed(), weights(), Grid(scheme, mx.bfloat16)
    rounded = gptq.quantize(weight, Cost.of(x.T @ x / len(x)), grid)
    bound = lost(weight, nearest(weight, scheme), x)
    # On text that it was not made for, too.
    held_out = fed(seed=0, tokens=3000)[1500:]
    assert lost(weight, rounded.values, x) < 0.5 * bound
    assert lost(weight, rounded.values, held_out) < 0.5 * lost(
        weight, nearest(weight, scheme), held_out
    )


@pytest.mark.parametrize("scheme", AFFINE, ids=str)
def test_without_inputs_weights_change_less_than_by_rounding(scheme):
    weight = weights()
    values = gptq.quantize(weight, None, Grid(scheme, mx.bfloat16)).values
    alike = np.eye(256)
    assert lost(weight, values, alike) < 0.98 * lost(weight, nearest(weight, scheme), alike)


def test_going_over_it_again_only_lowers_the_cost(monkeypatch):
    x, weight, grid = fed(), weights(), Grid(Scheme(3, 64), mx.bfloat16)
    cost, found = Cost.of(x.T @ x / len(x)), []
    for passes in range(4):
        monkeypatch.setattr(gptq, "PASSES", passes)
        error = weight - gptq.quantize(weight, cost, grid).values
        found.append(float(((error @ cost.hessian) * error).sum()))
    assert found == sorted(found, reverse=True)
    assert found[2] < 0.95 * found[0]


def test_independent_inputs_leave_nothing_to_make_good(monkeypatch):
    monkeypatch.setattr(gptq, "PASSES", 0)
    # Each column is then rounded by itself, as without inputs.
    weight, grid = weights(), Grid(Scheme(4, 64), mx.bfloat16)
    alone = gptq.quantize(weight, None, grid)
    assert np.array_equal(gptq.quantize(weight, Cost.of(np.eye(256)), grid).values, alone.values)


@pytest.mark.parametrize("weight", [np.zeros((2, 64)), np.full((2, 64), 0.7), np.eye(2, 64)])
@pytest.mark.parametrize("scheme", [Scheme(2, 64), Scheme(8, 32), Scheme.of("nvfp4")], ids=str)
def test_weights_without_range_and_inputs_that_never_come(weight, scheme):
    weight = np.array(mx.array(weight).astype(mx.bfloat16).astype(mx.float32))
    values = gptq.quantize(weight, Cost.of(np.zeros((64, 64))), Grid(scheme, mx.bfloat16)).values
    assert np.abs(values - weight).max() < 0.05


def test_a_model_that_computes_no_numbers_is_refused():
    with pytest.raises(CheckpointError, match="no number"):
        Cost.of(np.full((4, 4), np.nan))


def test_rare_experts_are_judged_by_all_tokens():
    features, found = 64, ExpertHessians(64)
    x = fed(400, features)
    which = np.array([0] * 300 + [1] * 95 + [2] * 5)
    found.add(x[:200], which[:200])
    found.add(x[200:], which[200:])
    every, own = Cost.of(x.T @ x / 400), Cost.of(x[:300].T @ x[:300] / 300)
    np.testing.assert_allclose(found.cost(0).hessian, own.hessian, rtol=1e-4, atol=1e-4)
    for unseen in (2, 3):
        np.testing.assert_allclose(found.cost(unseen).hessian, every.hessian, rtol=1e-4, atol=1e-4)
    few = ExpertHessians(features)
    few.add(x[:332], np.array([0] * 300 + [1] * 32))
    mean = x[:332].T @ x[:332] / 332
    half = Cost.of((x[300:332].T @ x[300:332] / 32 + mean) / 2)
    np.testing.assert_allclose(few.cost(1).hessian, half.hessian, rtol=1e-4, atol=1e-4)


def save(folder, family, *, heads=False):
    folder.mkdir()
    raw, tensors = saved(family, **{k: v for k, v in EVEN.items() if k in CONFIGS[family]})
    if heads:
        port = registry.find(raw)
        config = port.model.Config.from_hub(raw)
        head = randomised(port.model.build_mtp(config, [f"mtp.0.{MTP[family]}"])[0], 0)
        ours = {f"mtp.0.{name}": w for name, w in checkpoint.parameters(head).items()}
        tensors |= rules.translate(rules.inverse(port.names.table(config)), ours)
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = {name: w.astype(mx.bfloat16) for name, w in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    return folder


def made(source, out, scheme=None, method=True, **options):
    """A quantized checkpoint: calibrated, or rounded to nearest."""
    recipe = Recipe("uniform", scheme or Scheme(3, 32))
    planned = plan.make(inventory.look(source), recipe=recipe, **options)
    dtypes = {output.name: MLX[output.dtype] for output in planned.outputs}
    write(planned, out, method=Calibrated(source, TOKENS, dtypes) if method else None)
    return out


@pytest.fixture(scope="module", params=CONFIGS)
def quantized(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    source = save(folder / "source", request.param)
    return source, made(source, folder / "ours"), made(source, folder / "nearest", method=False)


def test_every_linear_layer_of_every_family_changes_its_outputs_less(quantized):
    compared = 0
    streams = [Stream(folder, TOKENS) for folder in quantized]
    for layer, *made_of in zip(*(stream.layers() for stream in streams), strict=True):
        fed_with: dict[str, list] = {path: [] for path in layer.linears}
        for path, product in layer.linears.items():
            product.watch = partial(keep, fed_with[path])
        layer.outputs()
        for path, product in layer.linears.items():
            ours, rounded = (other.linears[path].matrix for other in made_of)
            if ours.scheme is None or not fed_with[path]:
                continue
            changes = [0.0, 0.0]
            for expert, x in by_expert(fed_with[path], product.matrix):
                weight, *values = (
                    np.array((matrix if expert is None else matrix[expert]).dense())
                    for matrix in (product.matrix, ours, rounded)
                )
                changes = [c + lost(weight, v, x) for c, v in zip(changes, values, strict=True)]
            assert changes[0] < 0.8 * changes[1], path
            compared += 1
    assert compared >= 4 * streams[0].depth


def keep(seen, x, experts):
    flat, which = flattened(x, experts)
    seen.append((np.array(flat), which))


def by_expert(seen, matrix):
    """Each expert and what it is fed with; None where there are none."""
    x, which = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    if len(matrix.shape) == 2:
        return [(None, x)]
    return [(expert, x[which == expert]) for expert in np.unique(which).tolist()]


# mlx-lm knows no layers that share a choice.
@pytest.mark.parametrize(
    "quantized",
    [name for name, raw in CONFIGS.items() if "indexer_types" not in raw],
    indirect=True,
)
@pytest.mark.usefixtures("their_decay")
def test_every_family_loads_in_mlx_lm_and_says_there_what_it_says_here(quantized):
    out = quantized[1]
    ours = np.array(mlxarch.load(out, dtype=mx.float32)(TOKENS))
    theirs, _ = mlx_lm.utils.load_model(out)
    theirs.update(tree_map(as_float32, theirs.parameters()))
    got = np.array(theirs(TOKENS))
    assert_close("mlx-lm", got, ours, 1e-3)


def as_float32(weight):
    return weight.astype(mx.float32) if mx.issubdtype(weight.dtype, mx.floating) else weight


def test_a_walk_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    source, state = save(tmp_path / "source", "glm5 shared"), tmp_path / "state"
    recipe = Recipe("uniform", Scheme(4, 32))
    outputs = [o for o in plan.make(inventory.look(source), recipe=recipe).outputs if o.scheme]
    method = Calibrated(source, TOKENS, {o.name: MLX[o.dtype] for o in outputs})
    wanted = packed(method.start(tmp_path / "other"), outputs)
    assert len(wanted) > 20
    for kill in range(0, len(outputs), 9):
        pack = method.start(state)
        packed(pack, outputs[max(0, kill - 3) : kill])
        found = packed(method.start(state), outputs[kill:])
        for name, arrays in found.items():
            assert all(map(mx.array_equal, arrays, wanted[name])), name
    assert 0 < len(list(state.glob("layer-*"))) <= 3
    # In any order, too.
    assert all(
        all(map(mx.array_equal, arrays, wanted[name]))
        for name, arrays in packed(method.start(tmp_path / "third"), outputs[::-3]).items()
    )


def packed(pack, outputs):
    """The arrays of each tensor that is not simply rounded."""
    found = {output.name: pack(output.name, output.scheme) for output in outputs}
    return {
        name: [*each.weight, *each.scales, *each.biases]
        for name, each in found.items()
        if each is not None
    }


def test_another_text_is_another_job(tmp_path):
    method = Calibrated(tmp_path, TOKENS, {})
    assert method.word == Calibrated(tmp_path, mx.array(TOKENS), {}).word
    assert method.word != Calibrated(tmp_path, TOKENS[:, :-1], {}).word
    assert method.word != Calibrated(tmp_path, TOKENS.reshape(3, -1), {}).word


def flat(weight):
    return weight.reshape(-1, weight.shape[-1])


@pytest.mark.parametrize("family", ["kimi_k25", "qwen3_next", "step35"])
def test_heads_for_further_tokens_are_calibrated(family, tmp_path):
    source = save(tmp_path / "source", family, heads=True)
    recipe = Recipe("uniform", Scheme(4, 32))
    planned = plan.make(inventory.look(source), recipe=recipe)
    heads = [o for o in planned.outputs if o.scheme and o.name.startswith("mtp.")]
    method = Calibrated(source, TOKENS, {o.name: MLX[o.dtype] for o in planned.outputs})
    pack, tensors = method.start(tmp_path / "state"), mx.load(str(source / "model.safetensors"))
    done = 0
    for output in heads:
        if (found := pack(output.name, output.scheme)) is None:
            continue
        arrays = [mx.concatenate(a) for a in (found.weight, found.scales, found.biases)]
        weight = np.array(tensors[output.name].astype(mx.float32))
        values = read(arrays, output.scheme)
        error = np.linalg.norm(values - weight) / np.linalg.norm(weight)
        assert found.relative_error == pytest.approx(error, rel=1e-3)
        alone = gptq.quantize(flat(weight), None, Grid(output.scheme, mx.bfloat16)).values
        # Not nearest to the weights, which are not what counts.
        assert 1.001 < error / (np.linalg.norm(alone - flat(weight)) / np.linalg.norm(weight)) < 2
        done += 1
    assert done >= 5
