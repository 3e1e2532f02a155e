"""Trinity."""

from .family import Family, one_by_one

FAMILIES = [
    Family(
        name="trinity",
        reference="AfmoeForCausalLM",
        config={
            "vocab_size": 131,
            "hidden_size": 36,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 48,
            "moe_intermediate_size": 20,
            "num_dense_layers": 1,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "route_scale": 2.8,
            "sliding_window": 9,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"],
            "global_attn_every_n_layers": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "rms_norm_eps": 2e-3,
            "mup_enabled": True,
            "tie_word_embeddings": False,
            "max_position_embeddings": 256,
        },
        hub_config={
            "n_group": 1,
            "topk_group": 1,
            "route_norm": True,
            "score_func": "sigmoid",
            "load_balance_coeff": 0.001,
        },
        hub_weights=one_by_one,
        audit={
            "rope_parameters.rope_theta": 8e3,
            "rms_norm_eps": 1e-3,
            "route_scale": 2.6,
            "sliding_window": 10,
            "num_experts_per_tok": 3,
            "mup_enabled": False,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 3,
        },
        gain={r"embed|lm_head": 1.0, r"[qk]_proj": 1.6, r"router": 2.0},
        seed=1,
        shards=2,
    ),
]
