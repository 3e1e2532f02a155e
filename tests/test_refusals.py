"""What each port refuses to read, so that nothing is misread without a word."""

import re

import pytest
from goldens import NAMES, Golden
from ports import PORTS, changed, read

from mlxarch import ConfigError, registry

# A golden checkpoint of each port, and what the port must refuse to read.
REFUSED = {
    "glm5": {
        "attention_bias": True,
        "hidden_act": "gelu",
        "indexer_rope_interleave": False,
        "mlp_bias": True,
        "moe_layer_freq": 2,
        "rope_interleave": False,
        "scoring_func": "softmax",
        "topk_method": "greedy",
    },
    "kimi_k25": {
        "attention_bias": True,
        "hidden_act": "gelu",
        "moe_layer_freq": 2,
        "scoring_func": "softmax",
        "topk_method": "greedy",
    },
    "ling25": {
        "hidden_act": "gelu",
        "linear_silu": True,
        "moe_router_enable_expert_bias": False,
        "rope_interleave": False,
        "score_function": "softmax",
        "use_bias": True,
        "use_qk_norm": False,
        "use_qkv_bias": True,
    },
    "minimax_m25": {
        "hidden_act": "gelu",
        "qk_norm_type": "per_head",
        "scoring_func": "softmax",
        "shared_intermediate_size": 24,
        "use_qk_norm": False,
        "use_routing_bias": False,
    },
    "nanbeige41": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    "qwen35_dense": {
        "attention_bias": True,
        "attn_output_gate": False,
        "hidden_act": "gelu",
        "mtp_use_dedicated_embeddings": True,
        "output_gate_type": "swish",
    },
    "qwen3_next": {
        "attention_bias": True,
        "decoder_sparse_step": 2,
        "hidden_act": "gelu",
        "mlp_only_layers": [0],
        "norm_topk_prob": False,
        "use_sliding_window": True,
    },
    "step35": {
        "attention_bias": True,
        "hidden_act": "gelu",
        "moe_router_activation": "softmax",
        "norm_expert_weight": False,
        "use_head_wise_attn_gate": False,
        "use_moe_router_bias": False,
        "use_qk_norm": False,
        "zero_centered": False,
    },
    "tiny_aya": {
        "attention_bias": True,
        "hidden_act": "relu",
        "layer_norm_bias": True,
        "rope_parameters.rope_type": "llama3",
        "rope_scaling.rope_type": "yarn",
        "rope_scaling.type": "linear",
        "rotary_pct": 0.5,
        "tie_word_embeddings": False,
        "use_gated_activation": False,
        "use_parallel_block": False,
        "use_qk_norm": True,
    },
    "trinity": {
        "attention_bias": True,
        "hidden_act": "gelu",
        "n_group": 2,
        "num_expert_groups": 2,
        "rope_parameters.rope_type": "llama3",
        "rope_scaling.rope_type": "yarn",
        "rope_scaling.type": "linear",
        "route_norm": False,
        "score_func": "softmax",
    },
}
STRETCHED = [name for name in REFUSED if "rope_scaling.type" not in REFUSED[name]]


def test_every_port_is_here():
    ports = {registry.find(Golden(name).config()).model for name in NAMES}
    assert set(PORTS.values()) == ports


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name in REFUSED for key, value in REFUSED[name].items()],
)
def test_what_is_not_ported_is_refused(name, key, value):
    raw = changed(Golden(name).config(), {key: value})
    said = re.escape(f"{key} is {value!r} in config.json; this port implements only ")
    with pytest.raises(ConfigError, match=said):
        read(raw)


@pytest.mark.parametrize("name", PORTS)
def test_every_switch_has_a_test(name):
    assert PORTS[name].Config.only.keys() == REFUSED[name].keys()


def scalings(c):
    return [c.rope_scaling] if hasattr(c, "rope_scaling") else [r.scaling for r in c.rotations]


@pytest.mark.parametrize("name", STRETCHED)
def test_a_null_rope_scaling_is_no_scaling(name):
    raw = Golden(name).config()
    assert set(scalings(read(raw | {"rope_scaling": None}))) == {None}
    stretched = raw | {"rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert {"type": "yarn", "factor": 4.0} in scalings(read(stretched))


def retyped(node, kind):
    """config.json with every rope_type changed."""
    if not isinstance(node, dict):
        return node
    return {k: kind if k == "rope_type" else retyped(v, kind) for k, v in node.items()}


@pytest.mark.parametrize("name", STRETCHED)
@pytest.mark.parametrize("kind", ["linear", "dynamic", "longrope"])
def test_a_kind_of_rope_scaling_that_is_not_ported_is_refused(name, kind):
    spelled = [Golden(name).config() | {"rope_scaling": {"type": kind, "factor": 2.0}}]
    # Ling's class is not of transformers 5.
    if name != "ling25":
        spelled.append(retyped(Golden(name).config("tf5"), kind))
    for raw in spelled:
        with pytest.raises(ConfigError, match=f"rope_type is {kind!r}; ported are default, llama3"):
            PORTS[name].build(read(raw))


@pytest.mark.parametrize("name", [name for name, port in PORTS.items() if port.Config.kinds])
def test_only_step_lists_its_heads_among_the_layers(name):
    raw = Golden(name).config()
    first = read(raw)
    listed = first.layer_types[: first.depth]
    assert first.heads_listed == (name == "step35") == (listed != first.layer_types)
    with pytest.raises(ConfigError, match="entries for"):
        read(raw | {"num_hidden_layers": len(first.layer_types) + 1})
    if not first.heads_listed:
        with pytest.raises(ConfigError, match="entries for"):
            read(raw | {"layer_types": [*listed, listed[0]]})


@pytest.mark.parametrize("classes", [None, [], ["BailingMoeV3ForCausalLM"], "BailingMoeV2_5", 3])
def test_a_model_type_that_others_bear_too_is_told_apart_by_its_class(classes):
    raw = Golden("ling25").config()
    assert registry.find(raw).module == "ling25"
    with pytest.raises(ConfigError, match="only BailingMoeV2_5ForCausalLM is"):
        registry.find(raw | {"architectures": classes})


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, "FFFF"),
        ({"index_topk_pattern": "FSFS"}, "FSFS"),
        ({"index_topk_freq": 2}, "FFSF"),
        ({"index_topk_freq": 2, "index_skip_topk_offset": 1}, "FSFS"),
        ({"index_topk_freq": 3, "index_skip_topk_offset": 3}, "FFFS"),
    ],
)
def test_layers_with_an_indexer_of_their_own_are_spelled_in_three_ways(keys, wanted):
    """Source: transformers, models/glm_moe_dsa/configuration_glm_moe_dsa.py."""
    raw = changed(Golden("glm5").config(), {"indexer_types": None, **keys})
    assert [kind[0].upper() for kind in read(raw).indexer_types] == list(wanted)


@pytest.mark.parametrize("kinds", [["shared"] * 4, ["full"] * 3, ["full", "none", "full", "full"]])
def test_indexers_that_make_no_model_are_refused(kinds):
    with pytest.raises(ConfigError, match="full or shared for each of 4 layers"):
        PORTS["glm5"].build(read(Golden("glm5").config() | {"indexer_types": kinds}))


def test_dense_layers_come_first():
    raw = changed(Golden("glm5").config(), {"first_k_dense_replace": None})
    assert read(raw | {"mlp_layer_types": ["dense"] * 3 + ["sparse"]}).dense_layers == 3
    assert read(raw | {"mlp_layer_types": ["dense"] * 4}).dense_layers == 4
    with pytest.raises(ConfigError, match="dense layers first"):
        read(raw | {"mlp_layer_types": ["sparse", "dense", "sparse", "sparse"]})
