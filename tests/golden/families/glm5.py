"""GLM-5, and the later kind whose layers share an indexer."""

from .family import ABSENT, Family, heads_as_layers, one_by_one

CONFIG = {
    "vocab_size": 131,
    "hidden_size": 36,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    # Many heads: what none of few heads likes scores zero, and zeros are chosen from by chance.
    "index_head_dim": 12,
    "index_n_heads": 16,
    "index_topk": 6,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 2,
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rms_norm_eps": 2e-3,
    "tie_word_embeddings": False,
    "max_position_embeddings": 256,
}
HUB = {
    "indexer_rope_interleave": True,
    "rope_interleave": True,
    "moe_layer_freq": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
GAIN = {r"embed|lm_head": 2.0, r"q_b_proj|kv_b_proj|kv_a_proj": 1.6}

FAMILIES = [
    Family(
        name="glm5",
        reference="GlmMoeDsaForCausalLM",
        config=CONFIG,
        # As published: rope_parameters before transformers 5 wrote them.
        hub_config={
            **HUB,
            "num_nextn_predict_layers": 1,
            "rope_parameters": CONFIG["rope_parameters"],
            "rope_scaling": ABSENT,
            "rope_theta": ABSENT,
        },
        hub_weights=lambda tensors: heads_as_layers(one_by_one(tensors), depth=4),
        audit={
            "rope_parameters.rope_theta": 1e5,
            "rms_norm_eps": 1e-3,
            "index_topk": 8,
            "routed_scaling_factor": 2.0,
        },
        gain=GAIN,
        heads=1,
        seed=8,
        shards=2,
    ),
    Family(
        name="glm5_shared",
        reference="GlmMoeDsaForCausalLM",
        config={**CONFIG, "indexer_types": ["full", "shared", "full", "shared"]},
        hub_config=HUB,
        hub_weights=one_by_one,
        audit={"index_topk": 8},
        gain=GAIN,
        seed=9,
    ),
]
