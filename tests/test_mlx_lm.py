"""Every port against mlx-lm: on the same weights, and on what mlx-lm has quantized."""

import json

import mlx.core as mx
import pytest
from close import assert_close, relative
from goldens import Golden
from releases import WIDE
from tiny_configs import CONFIGS, LINEAR, model, saved

import mlxarch
from mlxarch import checkpoint
from mlxarch.convert import settings

LIMIT = 1e-5
# What mlx-lm cannot load, and the tensors that it misses or has no place for: layers that share an
# indexer, and experts of this model_type that are not fused.
UNKNOWN = {
    "glm5_shared": r"Missing .*\.indexer\.",
    "qwen35_moe_unfused": r"not in model.*\.experts\.0\.",
}
# In these mlx-lm bars a group of experts with zero, and so chooses from it if all else is below.
UNGROUPED = {name: {"n_group": 1, "topk_group": 1} for name in ("glm5", "kimi_k25")}


def save(folder, raw, weights):
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def as_mlx_lm_reads(golden, folder):
    """The checkpoint as mlx-lm reads the hub's.

    In float32: to norms that are stored less one it adds the one in the type they are stored in.
    """
    raw, weights = golden.config(), checkpoint.read(golden.folder)
    if raw["model_type"] == "glm_moe_dsa":
        # As published: of transformers 5's keys it reads this one, and needs it.
        raw |= {"rope_parameters": golden.config("tf5")["rope_parameters"]}
    if raw["model_type"].startswith("qwen3_5"):
        # It knows the language model by itself only inside the whole.
        raw = {"model_type": raw["model_type"].removesuffix("_text"), "text_config": raw}
    if raw["model_type"] == "deepseek_v3":
        # It takes any layer past the 61st for a head, and no other.
        head = f"model.layers.{raw['num_hidden_layers']}."
        weights = {name: w for name, w in weights.items() if not name.startswith(head)}
    return save(folder, raw, {name: w.astype(mx.float32) for name, w in weights.items()})


def theirs(folder):
    from mlx_lm.utils import load_model

    found, _ = load_model(folder)
    found.set_dtype(mx.float32)
    return found


@pytest.mark.usefixtures("their_decay")
def test_mlx_lm_agrees_on_the_same_weights(golden, tmp_path):
    folder, ids = as_mlx_lm_reads(golden, tmp_path), mx.array(golden["long.ids"])
    if golden.name in UNKNOWN:
        with pytest.raises(ValueError, match=f"(?s){UNKNOWN[golden.name]}"):
            theirs(folder)
        return
    # Kimi's in float32 are 1.0e-5 from torch's, ours and mlx-lm's alike and not on the same side.
    limit = 2e-5 if golden.name.startswith("kimi") else LIMIT
    assert_close("mlx-lm", mlxarch.load(folder, dtype=mx.float32)(ids), theirs(folder)(ids), limit)


def test_mlx_lm_lets_ling_s_memory_fade_at_another_pace(tmp_path):
    """Ours is the publisher's, see `ling25.decays`; when this fails, mlx-lm has followed."""
    golden = Golden("ling25")
    folder, ids = as_mlx_lm_reads(golden, tmp_path), mx.array(golden["long.ids"])
    assert relative(theirs(folder)(ids), golden["long.logits"]) > 0.1


def _mixed(path, module):
    """8 bits here, 4 bits there, and some layers left alone."""
    if not hasattr(module, "to_quantized") or path.endswith(("v_proj", "gate_proj")):
        return False
    return {"group_size": 32, "bits": 8 if "embed" in path or "o_proj" in path else 4}


@pytest.mark.usefixtures("their_decay")
@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "glm5 shared"])
@pytest.mark.parametrize(
    "recipe",
    [
        {"group_size": 32, "bits": 4},
        {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        {"group_size": 32, "bits": 4, "quant_predicate": _mixed},
    ],
    ids=["affine", "mxfp4", "mixed"],
)
def test_a_checkpoint_quantized_by_mlx_lm_answers_as_mlx_lm_does(family, tmp_path, recipe):
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    changes = WIDE | UNGROUPED.get(family, {})
    sizes = {key: size for key, size in changes.items() if key in CONFIGS[family]}
    raw, weights = saved(family, **sizes)
    source = save(tmp_path / "source", settings.write(raw, [], None, None), weights)
    packed = tmp_path / "packed"
    quantized, config = quantize_model(*load_model(source), **recipe)
    save_model(packed, quantized)
    save_config(config, packed / "config.json")

    ids = mx.random.randint(0, raw["vocab_size"], (1, 40), key=mx.random.key(0))
    ours = mlxarch.load(packed, dtype=mx.float32)(ids)
    # Recurrent layers norm what is nearly nothing, which magnifies the order of a sum.
    # Kimi's in float32 are 1e-5 from float64, see above.
    limit = 1e-4 if family in LINEAR else 2e-5 if family == "kimi_k25" else LIMIT
    assert_close("mlx-lm", ours, theirs(packed)(ids), limit)
    assert relative(ours, model(family, **sizes)(ids)) > 0.01, "nothing was quantized"
