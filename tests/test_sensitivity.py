"""What each tensor's precision is worth, and what is bought for it."""

import itertools
import json
import re

import mlx.core as mx
import numpy as np
import pytest
import tiny
from commandline import run
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import CONFIGS, VOCAB, saved

import mlxarch
from mlxarch.convert import inventory, plan, target
from mlxarch.errors import CheckpointError, DoesNotFit
from mlxarch.quantize.allocate import Option, allocate
from mlxarch.quantize.recipes import Override, Recipe
from mlxarch.quantize.scheme import BITS, Scheme
from mlxarch.quantize.sensitivity import PROBE, measure

TOKENS = mx.array(np.random.default_rng(0).integers(0, VOCAB, (2, 40)))
EVEN = {
    "group_norm_size": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "index_head_dim": 32,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "linear_value_head_dim": 32,
    "moe_intermediate_size": 32,
    "partial_rotary_factor": 0.5,
    "partial_rotary_factors": [0.5] + [1.0] * 5,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "share_expert_dim": 32,
    "shared_expert_intermediate_size": 32,
    "v_head_dim": 32,
}
BASE = Recipe("default", Scheme(4, 32))


def save(folder, family, **changes):
    folder.mkdir(exist_ok=True)
    own = {key: value for key, value in EVEN.items() if key in CONFIGS[family]}
    raw, tensors = saved(family, **own | changes)
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = {name: w.astype(mx.bfloat16) for name, w in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    return folder


def divergence(p, q):
    """Mean KL over positions, of logits."""
    p, q = (np.array(x, dtype=np.float64) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("family", CONFIGS)
def test_damage_is_that_of_a_model_with_one_tensor_in_few_bits(family, tmp_path):
    source = save(tmp_path / "source", family)
    found = inventory.look(source)
    names = [o.name for o in plan.make(found, recipe=BASE).outputs if o.scheme]
    names = [name for name in names if not re.search("embed_q|unembed_out|indexer", name)]
    damages = measure(source, TOKENS, dict.fromkeys(names, 32))
    assert damages.keys() == set(names)
    tensors = mx.load(str(source / "model.safetensors"))
    original = mlxarch.load(source, dtype=mx.float32)(TOKENS)
    # What is outside of layers, and some of the first and the last of them.
    outside = [name for name in names if ".layers." not in name]
    for name in [*outside, *names[len(outside) :][1::9], names[-1]]:
        packed = mx.quantize(tensors[name].astype(mx.float32), 32, PROBE)
        values = mx.dequantize(*packed, 32, PROBE)
        changed = tmp_path / "changed"
        changed.mkdir(exist_ok=True)
        (changed / "config.json").write_bytes((source / "config.json").read_bytes())
        weights = {n: w.astype(mx.float32) for n, w in tensors.items()} | {name: values}
        mx.save_safetensors(str(changed / "model.safetensors"), weights, {"format": "mlx"})
        wanted = divergence(original, mlxarch.load(changed, dtype=mx.float32)(TOKENS))
        assert damages[name].kl == pytest.approx(wanted, rel=0.02, abs=2e-6), name


def test_more_bits_do_less_damage(tmp_path):
    source = save(tmp_path, "trinity")
    name = "model.layers.1.mlp.experts.down_proj.weight"
    damage = measure(source, TOKENS, {name: 32})[name]
    losses = [damage.at(bits) for bits in BITS]
    assert losses == sorted(losses, reverse=True)
    assert damage.at(PROBE) == damage.kl > 0
    # Half the step, a quarter of the squared error.
    for fewer, more in ((4, 5), (5, 6)):
        assert damage.at(fewer) / damage.at(more) == pytest.approx(4.2, rel=0.15)


def test_damaged_weights_are_named(tmp_path):
    source = save(tmp_path, "nanbeige41")
    weights = mx.load(str(source / "model.safetensors"))
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name] * mx.inf
    mx.save_safetensors(str(source / "model.safetensors"), weights, {"format": "mlx"})
    with pytest.raises(CheckpointError, match=r"no number where it uses model"):
        measure(source, TOKENS, {name: 32})


options = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 100)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(options, st.integers(0, 120))
def test_what_is_bought_fits_and_no_other_choice_of_its_size_is_better(drawn, budget):
    tensors = {
        f"{i}": [Option(Scheme(BITS[j]), size, float(damage)) for j, (size, damage) in enumerate(o)]
        for i, o in enumerate(drawn)
    }
    least = sum(min(option.bytes for option in own) for own in tensors.values())
    if least > budget:
        with pytest.raises(ValueError, match=f"{least} bytes are needed at least"):
            allocate(tensors, budget)
        return
    chosen = allocate(tensors, budget)
    picked = [next(o for o in own if o.scheme == chosen[n]) for n, own in tensors.items()]
    size = sum(option.bytes for option in picked)
    assert size <= budget
    damage = sum(option.damage for option in picked)
    choices = list(itertools.product(*tensors.values()))
    # A step that does not fit any more may be passed over: that is all that is lost to the best.
    largest = max(
        (a.damage - b.damage for own in tensors.values() for a in own for b in own), default=0
    )
    best = min(sum(o.damage for o in c) for c in choices if sum(o.bytes for o in c) <= budget)
    assert damage <= best + largest


def test_what_hurts_gets_the_bits():
    sizes = {bits: 100 * bits for bits in BITS}

    def tensor(worth):
        return [Option(Scheme(bits), sizes[bits], worth * 4.0**-bits) for bits in BITS]

    chosen = allocate({"a": tensor(1.0), "b": tensor(16.0), "c": tensor(256.0)}, 1200)
    assert [chosen[name].bits for name in "abc"] == [2, 4, 6]


@pytest.mark.parametrize("bits_per_weight", [4.0, 5.5, 7.0])
def test_a_target_is_hit_from_below(tmp_path, bits_per_weight):
    source = inventory.look(save(tmp_path, "trinity"))
    goal = target.Target(bits_per_weight=bits_per_weight)
    recipe, damages = target.choose(source, BASE, goal, TOKENS, calibrated=False)
    planned = plan.make(source, recipe=recipe)
    # As far as the next step of the smallest tensor.
    assert bits_per_weight - 0.15 < planned.bits_per_weight <= bits_per_weight
    assert len({recipe.chosen[name].bits for name in damages}) > 1
    base = plan.make(source, recipe=BASE)
    for before, after in zip(base.outputs, planned.outputs, strict=True):
        if before.name not in damages:
            assert after.scheme == before.scheme
    size = target.Target(bytes=planned.bytes_out)
    again, _ = target.choose(source, BASE, size, TOKENS, calibrated=False)
    # A few bytes of headers may cost the last step.
    bytes_again = plan.make(source, recipe=again).bytes_out
    assert 0.99 * planned.bytes_out < bytes_again <= planned.bytes_out


def test_a_mixture_loses_less_than_the_same_bits_for_all(tmp_path):
    source = save(tmp_path / "source", "nanbeige41")
    # One layer says next to nothing: what it says may be wrong.
    weights = mx.load(str(source / "model.safetensors"))
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.0.{name}.weight"] *= 0.02
    mx.save_safetensors(str(source / "model.safetensors"), weights, {"format": "mlx"})
    found, recipe = inventory.look(source), Recipe("uniform", Scheme(4, 32))
    uniform = plan.make(found, recipe=recipe)
    goal = target.Target(bytes=uniform.bytes_out)
    mixed, _ = target.choose(found, recipe, goal, TOKENS, calibrated=False)
    from mlxarch.convert.write import write

    other = mx.array(np.random.default_rng(1).integers(0, VOCAB, (4, 40)))
    wanted, losses = mlxarch.load(source, dtype=mx.float32)(other), []
    for name, each in (("uniform", recipe), ("mixed", mixed)):
        write(plan.make(found, recipe=each), tmp_path / name)
        losses.append(divergence(wanted, mlxarch.load(tmp_path / name, dtype=mx.float32)(other)))
    assert losses[1] < 0.7 * losses[0]


def test_overrides_and_what_is_fragile_are_left_alone(tmp_path):
    source = inventory.look(save(tmp_path, "glm5"))
    recipe = Recipe("default", Scheme(4, 32), (Override.parse(r"layers\.1\..*o_proj=8g32"),))
    goal = target.Target(bits_per_weight=6)
    found, damages = target.choose(source, recipe, goal, TOKENS, calibrated=False)
    schemes = {output.name: output.scheme for output in plan.make(source, recipe=found).outputs}
    assert schemes["model.layers.1.self_attn.o_proj.weight"] == Scheme(8, 32)
    untouched = [n for n in schemes if re.search("indexer|embed_q|unembed_out|mlp.gate.weight", n)]
    assert untouched
    assert not damages.keys() & {*untouched, "model.layers.1.self_attn.o_proj.weight"}


def test_a_target_out_of_reach_says_what_is_in_reach(tmp_path):
    source = inventory.look(save(tmp_path, "nanbeige41"))
    goal = target.Target(bits_per_weight=1.5)
    with pytest.raises(DoesNotFit, match=r"goes from \d\.\d\d to \d\.\d\d bits per weight, [\d,]+"):
        target.choose(source, BASE, goal, TOKENS, calibrated=True)
    with pytest.raises(DoesNotFit, match="1,000 bytes cannot be reached"):
        target.choose(source, BASE, target.Target(bytes=1000), TOKENS, calibrated=True)


WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}


def test_the_command_measures_calibrates_and_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mlxarch.quantize.calibrate.STRETCHES", 4)
    monkeypatch.setattr("mlxarch.quantize.quality._TOKENS", 128)
    source, out = tiny.save(tmp_path / "source", **WIDE), tmp_path / "out"
    goal = ["--target-bpw", "5", "--method", "gptq", "--json"]
    assert run(monkeypatch, "quantize", source, out, *goal, "--dry-run") == 0
    dry = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert run(monkeypatch, "quantize", source, out, *goal) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert dry | {"free_bytes": 0} == events[0] | {"free_bytes": 0}
    assert 4.7 < dry["bits_per_weight"] <= 5
    stored = json.loads((out / "sensitivity.json").read_text())["tensors"]
    assert next(e for e in events if e["event"] == "sensitivity")["tensors"] == stored
    made = json.loads((out / "mlxarch.json").read_text())
    assert {row["name"] for row in stored} == made["tensors"].keys()
    assert "sensitivity.json" in made["files"]
    assert "as measured" in made["options"]["recipe"]
    assert run(monkeypatch, "verify", out, source) == 0
    assert run(monkeypatch, "quantize", source, tmp_path / "rounded", "--bits", "4") == 0
    original, ours, rounded = (
        mlxarch.load(folder, dtype=mx.float32)(TOKENS)
        for folder in (source, out, tmp_path / "rounded")
    )
    assert divergence(original, ours) < divergence(original, rounded)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--target-bpw", "4", "--target-size", "1GB"], "two ways to say one thing"),
        (["--target-bpw", "4", "--mode", "mxfp4"], "leave --mode out"),
        (["--calibration", __file__], "--method gptq or a target"),
        (["--compare", "4,3", "--method", "gptq"], "takes no --method"),
        (["--target-bpw", "0"], "0"),
        (["--target-size", "big"], "is no size"),
    ],
)
def test_the_command_refuses_what_contradicts_itself(tmp_path, monkeypatch, capsys, wrong, said):
    source = tiny.save(tmp_path / "source", **WIDE)
    assert run(monkeypatch, "quantize", source, tmp_path / "out", *wrong) == 2
    assert said in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_not_calibrated_with_noise(tmp_path, monkeypatch, capsys):
    source, method = save(tmp_path / "source", "nanbeige41"), ["--method", "gptq"]
    assert run(monkeypatch, "quantize", source, tmp_path / "out", *method) == 1
    assert "need text" in capsys.readouterr().err
