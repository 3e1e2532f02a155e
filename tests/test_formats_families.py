"""Every family, released in other formats: it answers as what its packed weights stand for."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, relative
from goldens import Golden
from releases import PACKINGS, WIDE, packed
from tiny_configs import CONFIGS, LINEAR, saved

import mlxarch
from mlxarch import checkpoint
from mlxarch.convert import inventory, plan, write
from mlxarch.quantize.recipes import candidate

IDS = mx.random.randint(0, 61, (1, 24), key=mx.random.key(0))
# What is quantized nowhere: small, or looked up.
KEPT = re.compile(
    r"norm|embed|\.gate\.|conv1d|in_proj_(a|b|ba)\.|shared_expert_gate|weights_proj|g_proj"
)


def seldom(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


OFTEN = ("fp8 block", "int4", "mxfp4", "nvfp4", "gptq")
FORMATS = [*OFTEN, *seldom(*(name for name in PACKINGS if name not in OFTEN))]
MIXED = ("kimi_k25", "qwen35 experts", "step35")
FAMILIES = [*MIXED, *seldom(*(name for name in CONFIGS if name not in MIXED))]
NOTHING = {"quantization_config": None}
MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def released(name, **sizes):
    """A random checkpoint as the family is released: experts one by one, latents expanded."""
    raw, weights = saved(name, **sizes)
    found = {}
    for path, weight in weights.items():
        path, values = hub_name(name, path), np.array(weight)
        if path.endswith("embed_q.weight"):
            others = np.array(weights[path.replace("embed_q", "unembed_out")])
            both = np.concatenate([values.swapaxes(1, 2), others], axis=1)
            found[path.replace("embed_q", "kv_b_proj")] = both.reshape(-1, both.shape[-1])
        elif name == "step35":
            found[path] = values - path.endswith("norm.weight")
        elif "{e}" in path:
            found |= {path.format(e=e): expert for e, expert in enumerate(values)}
        elif not path.endswith("unembed_out.weight"):
            found[path] = values
    return raw, found


def hub_name(name, path):
    """The hub's name of what mlx-lm calls so; `{e}` where it has a tensor for each expert."""
    if name == "step35":
        path = path.replace("mlp.gate.gate.", "moe.gate.").replace("mlp.gate.", "moe.")
        return path.replace("mlp.switch_mlp.", "moe.").replace("mlp.share_expert", "share_expert")
    if name == "minimax_m25" and ".switch_mlp." in path:
        path = re.sub(r"\w+_proj", lambda part: MIXTRAL[part.group()], path)
    path = re.sub(r"^language_model\.model\.", "model.language_model.", path)
    return re.sub(r"\.(mlp\.|block_sparse_moe\.)(switch_mlp|experts)\.", r".\1experts.{e}.", path)


def save(folder, raw, weights):
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def load(folder):
    return mlxarch.load(folder, dtype=mx.float32)


def sized(name, format_):
    """Odd sizes where a format suits any, so that the last blocks are cut."""
    return {} if PACKINGS[format_].columns == 1 else wide(name)


def wide(name):
    sizes = {key: size for key, size in WIDE.items() if key in CONFIGS[name]}
    # mlx-lm bars a group of experts with zero, and so chooses from it if all else is below.
    ungrouped = {"n_group": 1, "topk_group": 1} if name in ("glm5", "kimi_k25") else {}
    return sizes | ungrouped


def in_format(name, format_, sizes):
    """A release in another format: its config.json, its tensors, and floats in their place."""
    how = PACKINGS[format_]
    raw, weights = released(name, **sizes)
    stored, plain, lost = {}, {}, []
    for path, values in weights.items():
        stored[path] = plain[path] = mx.array(values)
        if values.ndim > 1 and not KEPT.search(path) and how.suits(values.shape):
            tensors, floats = packed(how, path, values)
            del stored[path]
            stored |= tensors
            plain[path] = mx.array(floats)
            if "kv_b_proj" in path and how.stays:
                # What is absorbed is made of floats, which are of the type of the scales.
                plain[path] = plain[path].astype(how.floats)
            lost.append(relative(floats, values))
    assert len(lost) > 10
    assert min(lost) > 1e-3
    return raw | {"quantization_config": how.config}, stored, plain


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_family_answers_as_what_its_release_stands_for(name, format_, tmp_path):
    raw, stored, plain = in_format(name, format_, sized(name, format_))
    found = load(save(tmp_path / "stored", raw, stored))
    wanted = load(save(tmp_path / "plain", raw, plain))
    assert_close(format_, found(IDS), wanted(IDS), 1e-4 if name in LINEAR else 2e-5)
    stays = [path for path, module in found.named_modules() if hasattr(module, "bits")]
    assert bool(stays) == PACKINGS[format_].stays


# mlx-lm cannot run these, or not as their publisher does.
NOT_MLX_LM = {
    "glm5 shared": "has no shared indexers",
    "ling25": "lets its memory fade at another pace",
    "qwen35 dense": "knows no text alone by this name",
}


@pytest.mark.parametrize("format_", ["int4 row", *seldom("fp8 block", "mxfp4", "gptq")])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_converted_is_read_by_mlx_lm(name, format_, tmp_path):
    from mlx_lm.utils import load_model

    raw, stored, _ = in_format(name, format_, wide(name))
    source, out = save(tmp_path / "source", raw, stored), tmp_path / "out"
    write.write(plan.make(inventory.look(source), dtype="float32"), out)
    limit = 1e-4 if name in LINEAR else 1e-5
    wanted = load(source)(IDS)
    assert_close("converted", load(out)(IDS), wanted, limit)
    assert ("quantization" in json.loads((out / "config.json").read_text())) == (
        PACKINGS[format_].stays
    )
    if name not in NOT_MLX_LM:
        theirs, _ = load_model(out)
        theirs.set_dtype(mx.float32)
        assert_close("mlx-lm", theirs(IDS), wanted, limit)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_packed_otherwise_than_wanted_is_packed_anew(name, tmp_path):
    """In 8 bits, what is not lost again is far less than 4 bits have lost."""
    raw, stored, plain = in_format(name, "int4", wide(name))
    source, floats = save(tmp_path / "packed", raw, stored), save(tmp_path / "plain", raw, plain)
    (floats / "config.json").write_text(json.dumps(raw | NOTHING))
    for folder in (source, floats):
        made = plan.make(inventory.look(folder), dtype="float32", recipe=candidate("8g32"))
        write.write(made, tmp_path / f"{folder.name}8")
    packed, wanted = (tmp_path / f"{folder.name}8" for folder in (source, floats))
    configs = [json.loads((out / "config.json").read_text()) for out in (packed, wanted)]
    assert configs[0]["quantization"] == configs[1]["quantization"]
    assert_close("anew", load(packed)(IDS), load(wanted)(IDS), 2e-2)


def test_what_is_packed_as_wanted_is_not_touched(tmp_path):
    raw, stored, _ = in_format("trinity", "int4", wide("trinity"))
    source = save(tmp_path / "source", raw, stored)
    made = plan.make(inventory.look(source), recipe=candidate("4g32"))
    write.write(made, tmp_path / "out")
    found = mx.load(str(tmp_path / "out" / "model.safetensors"))
    path = "model.layers.0.self_attn.k_proj"
    assert mx.array_equal(found[f"{path}.weight"], stored[f"{path}.weight_packed"].view(mx.uint32))
    assert mx.array_equal(found[f"{path}.scales"], stored[f"{path}.weight_scale"])


def test_experts_beside_a_tower_whose_format_is_in_the_text_s_config(tmp_path):
    """Kimi K2.5 as published."""
    raw, stored, plain = in_format("kimi_k25", "int4", wide("kimi_k25"))
    outputs = []
    for folder, weights, more in (("stored", stored, {}), ("plain", plain, NOTHING)):
        whole = {"model_type": "kimi_k25", "text_config": raw | more}
        weights = {f"language_model.{name}": weight for name, weight in weights.items()}
        weights["vision_tower.patch_embed.proj.weight"] = mx.zeros((2, 2))
        outputs.append(load(save(tmp_path / folder, whole, weights))(IDS))
    assert_close("int4", *outputs, 1e-5)


@pytest.mark.parametrize("name", ["minimax_m25", "glm5", "qwen35_moe"])
def test_what_transformers_wrote_in_fp8_blocks(name, tmp_path):
    """By the names of the reference implementation, experts fused among them."""
    golden, how = Golden(name), PACKINGS["fp8 block"]
    stored, plain = checkpoint.read(golden.folder), checkpoint.read(golden.folder)
    names = [path for path, w in plain.items() if w.ndim > 1 and not KEPT.search(path)]
    assert len(names) > 30
    for path in names:
        values = np.array(stored.pop(path).astype(mx.float32))
        tensors, floats = packed(how, path, values)
        stored |= {end.replace(f"{path}weight", path): t for end, t in tensors.items()}
        plain[path] = mx.array(floats)
    raw = golden.config()
    found = load(save(tmp_path / "stored", raw | {"quantization_config": how.config}, stored))
    wanted = load(save(tmp_path / "plain", raw, plain))
    assert_close("fp8", found(IDS), wanted(IDS), 1e-4 if "qwen" in name else 1e-5)


def test_fused_experts_in_blocks_stay_packed(tmp_path):
    """Qwen 3.5's experts under the names of one whole, as transformers saves them."""
    raw, weights = saved("qwen35 experts", **wide("qwen35 experts"))
    stored, plain = dict(weights), dict(weights)
    for name in weights:
        path, _, part = name.partition(".switch_mlp.")
        if part not in ("gate_proj.weight", "down_proj.weight"):
            continue
        new, parts = f"{path}.experts.down_proj", ["down_proj"]
        if part == "gate_proj.weight":
            new, parts = f"{path}.experts.gate_up_proj", ["gate_proj", "up_proj"]
        values = [np.array(stored.pop(f"{path}.switch_mlp.{each}.weight")) for each in parts]
        tensors, floats = PACKINGS["mxfp4 blocks"].pack(np.concatenate(values, axis=1))
        stored |= {f"{new}{end.removeprefix('weight')}": t for end, t in tensors.items()}
        for each, part in zip(parts, np.split(floats, len(parts), axis=1), strict=True):
            plain[f"{path}.switch_mlp.{each}.weight"] = mx.array(part)
    how = {"quantization_config": PACKINGS["mxfp4 blocks"].config}
    found = load(save(tmp_path / "stored", raw | how, stored))
    wanted = load(save(tmp_path / "plain", raw, plain))
    assert_close("mxfp4", found(IDS), wanted(IDS), 1e-4)
    assert sum(hasattr(module, "bits") for module in found.modules()) == 3 * 4
