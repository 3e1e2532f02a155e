"""Kimi K2.5's language model, as Kimi K2 and DeepSeek V3 spell it and wrapped."""

from .family import Family, heads_as_layers, one_by_one

TEXT = {
    "vocab_size": 131,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 12,
    "v_head_dim": 14,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.8,
    "rope_interleave": True,
    "rms_norm_eps": 2e-3,
    "tie_word_embeddings": False,
    "max_position_embeddings": 1024,
    "num_nextn_predict_layers": 1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 5e4,
    "factor": 64.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

FAMILIES = [
    # Groups of experts, and biases that put many below zero: what is barred must stay barred.
    # mlx-lm bars with zero; with this seed that shows only in the head, which mlx-lm does not read.
    Family(
        name="kimi_k25",
        reference="DeepseekV3ForCausalLM",
        config={**TEXT, "rope_parameters": YARN},
        hub_config={
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "moe_layer_freq": 1,
            "num_nextn_predict_layers": 1,
        },
        hub_weights=lambda tensors: heads_as_layers(one_by_one(tensors), depth=3),
        audit={
            "rope_parameters.rope_theta": 4e4,
            "rope_parameters.factor": 32.0,
            "rope_parameters.mscale_all_dim": 0.8,
            "rope_parameters.beta_fast": 1.5,
            "rms_norm_eps": 1e-3,
            "routed_scaling_factor": 2.5,
            "topk_group": 3,
            "num_experts_per_tok": 2,
        },
        gain={
            r"embed|lm_head": 2.0,
            r"q_b_proj|kv_b_proj|kv_a_proj": 1.6,
            r"e_score_correction_bias": 2.0,
        },
        heads=1,
        seed=7,
        shards=2,
    ),
]
