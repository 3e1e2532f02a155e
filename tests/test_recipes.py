"""Who gets how many bits, by name: recipes, candidates and overrides."""

import pytest
from recipes import real_shapes

from mlxarch import registry
from mlxarch.errors import CheckpointError
from mlxarch.quantize import parts
from mlxarch.quantize.recipes import Override, Recipe, candidate
from mlxarch.quantize.scheme import Scheme


def word(schemes, name, shape):
    scheme = schemes.scheme(name, shape)
    return scheme.word if scheme else "kept"


# In each family's largest release: what is fragile, what is not, and what they get in 4 bits.
LATE = {
    "zai-org__GLM-5": {
        "model.layers.40.mlp.gate.weight": "kept",
        "model.layers.40.self_attn.indexer.weights_proj.weight": "kept",
        "model.layers.40.self_attn.indexer.wq_b.weight": "8",
        "model.layers.40.self_attn.indexer.wk.weight": "8",
        "model.layers.40.self_attn.embed_q.weight": "8",
        "model.layers.40.self_attn.unembed_out.weight": "8",
        "model.layers.40.mlp.switch_mlp.up_proj.weight": "4",
        "mtp.0.eh_proj.weight": "8",
        "mtp.0.self_attn.q_a_proj.weight": "8",
        "mtp.0.mlp.gate.weight": "kept",
        "mtp.0.mlp.switch_mlp.up_proj.weight": "4",
    },
    "moonshotai__Kimi-K2.5": {
        "language_model.model.layers.40.mlp.gate.weight": "kept",
        "language_model.model.layers.40.self_attn.embed_q.weight": "8",
        "language_model.model.layers.40.self_attn.unembed_out.weight": "8",
        "language_model.model.layers.40.mlp.switch_mlp.down_proj.weight": "4",
        "vision.tower.encoder.blocks.0.wo.weight": "kept",
    },
    "inclusionAI__Ling-2.5-1T": {
        "model.layers.40.mlp.gate.gate_proj.weight": "kept",
        "model.layers.39.attention.embed_q.weight": "kept",
        "model.layers.39.attention.unembed_out.weight": "kept",
        "model.layers.40.attention.g_proj.weight": "8",
        "model.layers.40.mlp.switch_mlp.gate_proj.weight": "4",
    },
    "MiniMaxAI__MiniMax-M2.5": {
        "model.layers.40.block_sparse_moe.gate.weight": "kept",
        "model.layers.40.block_sparse_moe.switch_mlp.gate_proj.weight": "4",
    },
    "Nanbeige__Nanbeige4.1-3B": {
        "model.layers.20.mlp.gate_proj.weight": "4",
        "model.layers.20.self_attn.v_proj.weight": "6",
        "model.norm.weight": "kept",
    },
    "Qwen__Qwen3.5-397B-A17B": {
        "language_model.model.layers.40.mlp.gate.weight": "kept",
        "language_model.model.layers.40.mlp.shared_expert_gate.weight": "kept",
        "language_model.model.layers.40.linear_attn.in_proj_a.weight": "kept",
        "language_model.model.layers.40.linear_attn.in_proj_b.weight": "kept",
        "language_model.model.layers.40.linear_attn.conv1d.weight": "kept",
        "language_model.model.layers.40.linear_attn.A_log": "kept",
        "language_model.model.layers.40.mlp.switch_mlp.gate_proj.weight": "4",
        "language_model.lm_head.weight": "6",
        "vision.blocks.0.attn.qkv.weight": "kept",
        "mtp.0.fc.weight": "8",
    },
    "Qwen__Qwen3-Next-80B-A3B-Instruct": {
        "model.layers.40.mlp.gate.weight": "kept",
        "model.layers.40.mlp.shared_expert_gate.weight": "kept",
        "model.layers.40.mlp.shared_expert.gate_proj.weight": "8",
        "model.layers.40.linear_attn.in_proj_ba.weight": "kept",
        "model.layers.40.mlp.switch_mlp.gate_proj.weight": "4",
    },
    "stepfun-ai__Step-3.5-Flash": {
        "model.layers.40.mlp.gate.gate.weight": "kept",
        "model.layers.40.self_attn.g_proj.weight": "kept",
        "model.layers.40.mlp.switch_mlp.up_proj.weight": "4",
        "mtp.0.eh_proj.weight": "8",
    },
    "CohereLabs__tiny-aya-global.partial": {
        "model.embed_tokens.weight": "4",
        "model.layers.20.mlp.down_proj.weight": "4",
    },
    "arcee-ai__Trinity-Large-Base": {
        "model.layers.40.mlp.router.gate.weight": "kept",
        "model.layers.40.mlp.expert_bias": "kept",
        "model.layers.40.self_attn.gate_proj.weight": "6",
        "model.layers.40.mlp.experts.gate_proj.weight": "4",
    },
}


@pytest.mark.parametrize("name", LATE)
def test_what_is_fragile_stays_high(name):
    architecture, shapes = real_shapes(name)
    aside = {tensor: (512, 512) for tensor in LATE[name] if tensor.startswith(("mtp", "vision"))}
    assert LATE[name].keys() - aside.keys() <= shapes.keys()
    schemes = Recipe().fit(architecture, shapes | aside)
    got = {tensor: word(schemes, tensor, (shapes | aside)[tensor]) for tensor in LATE[name]}
    assert got == LATE[name]


def test_every_architecture_has_a_largest_release_here():
    every = {*registry.BY_MODEL_TYPE.values(), *registry.BY_CLASS.values()}
    assert {real_shapes(name)[0] for name in LATE} == every
    assert parts.FRAGILE.keys() == {architecture.module for architecture in every}


@pytest.mark.parametrize(
    ("text", "name", "base"),
    [
        ("4", "default", Scheme(4, 64)),
        ("3g128", "default", Scheme(3, 128)),
        ("nvfp4", "default", Scheme(4, 16, "nvfp4")),
        ("mixed", "mixed", Scheme(4, 64)),
        ("uniform:mxfp8", "uniform", Scheme(8, 32, "mxfp8")),
        ("default:6g32", "default", Scheme(6, 32)),
    ],
)
def test_a_candidate_is_a_recipe_a_format_or_both(text, name, base):
    assert candidate(text) == Recipe(name, base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", "affine with 7 bits; MLX has it with 2, 3, 4, 5, 6 or 8"),
        ("4g16", "affine in groups of 16; MLX has it in 32, 64 or 128"),
        ("best", "'best' is no format; wanted is 2, 3.*default, mixed, uniform are recipes"),
        ("best:4", "'best' is no recipe; there are default, mixed, uniform"),
        ("mixed:keep", "'keep' is no format"),
        ("", "'' is no format"),
    ],
)
def test_what_is_no_candidate_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        candidate(text)


SHAPES = {
    "model.embed_tokens.weight": (512, 128),
    "model.layers.0.self_attn.q_proj.weight": (128, 128),
    "model.layers.1.self_attn.q_proj.weight": (128, 128),
    "model.layers.1.mlp.gate.weight": (8, 128),
    "model.layers.1.mlp.switch_mlp.down_proj.weight": (8, 128, 96),
    "model.norm.weight": (128,),
}
NEXT = registry.BY_MODEL_TYPE["qwen3_next"]
KIMI = registry.BY_MODEL_TYPE["kimi_k2"]


def overridden(*texts, base="uniform:4", architecture=NEXT):
    recipe = candidate(base)
    overrides = tuple(Override.parse(text) for text in texts)
    schemes = Recipe(recipe.name, recipe.base, overrides).fit(architecture, SHAPES)
    return {name: word(schemes, name, shape) for name, shape in SHAPES.items()}


def test_an_override_speaks_of_what_it_finds_and_of_nothing_else():
    before = overridden()
    after = overridden(r"q_proj=mxfp8", r"layers\.1\.self=3g32", "embed=keep", "down=5g32")
    assert after == {
        **before,
        "model.embed_tokens.weight": "kept",
        "model.layers.0.self_attn.q_proj.weight": "mxfp8",
        "model.layers.1.self_attn.q_proj.weight": "3g32",
        "model.layers.1.mlp.switch_mlp.down_proj.weight": "5g32",
    }
    assert before["model.layers.1.mlp.switch_mlp.down_proj.weight"] == "kept", "rows of 96"


def test_an_override_may_quantize_what_a_recipe_keeps():
    assert overridden(base="default")["model.layers.1.mlp.gate.weight"] == "kept"
    assert overridden("=6", base="default")["model.layers.1.mlp.gate.weight"] == "6"
    assert overridden("=6")["model.norm.weight"] == "kept"
    # mlx-lm has no quantized form of Kimi's router.
    assert overridden("=6", architecture=KIMI)["model.layers.1.mlp.gate.weight"] == "kept"


@pytest.mark.parametrize("pattern", ["k_proj", "norm", r"^embed", "mlp.gate.w"])
def test_an_override_that_finds_nothing_says_what_there_is(pattern):
    with pytest.raises(CheckpointError) as refused:
        overridden(f"{pattern}=4", architecture=KIMI)
    assert f"{pattern!r} finds no tensor that can be quantized" in str(refused.value)
    assert "model.layers.{i}.self_attn.q_proj.weight, model.layers.{i}.mlp.switch" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lm_head", "no REGEX=BITS"),
        ("=", "'' is no format"),
        ("a(=4", "'a\\(' is no regular expression"),
        ("lm_head=7", "MLX has it with 2, 3"),
        ("lm_head=mixed", "'mixed' is no format"),
    ],
)
def test_what_is_no_override_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Override.parse(text)


def test_an_override_may_hold_the_sign_that_ends_it():
    assert Override.parse("(?<=q)_proj=4g32") == Override("(?<=q)_proj", Scheme(4, 32))


def test_what_was_measured_counts_unless_somebody_says_otherwise():
    chosen = {
        "model.embed_tokens.weight": Scheme(8),
        "model.layers.0.self_attn.q_proj.weight": None,
        "model.layers.1.self_attn.q_proj.weight": Scheme(8),
    }
    recipe = Recipe("uniform", overrides=(Override("layers.1", Scheme(2)),), chosen=chosen)
    schemes = recipe.fit(NEXT, SHAPES)
    got = [word(schemes, name, SHAPES[name]) for name in chosen]
    assert got == ["8", "kept", "2"]


def test_every_tensor_is_of_a_kind_that_people_know():
    architecture, shapes = real_shapes("Qwen__Qwen3-Next-80B-A3B-Instruct")
    schemes = Recipe().fit(architecture, shapes)
    kinds = {schemes.kind(name, shape) for name, shape in shapes.items()}
    assert {"router", "gate", "decay", "convolution", "experts", "norms, biases"} < kinds
    assert schemes.kind("mtp.0.fc.weight", (8, 8)) == "mtp"
    assert schemes.kind("model.layers.9.mlp.up_proj.weight", (8, 8)) == "mlp"
