"""Tiny Aya."""

from .family import ABSENT, Family

FAMILIES = [
    # As published: three layers with a window, then one without, and a scale on the logits.
    Family(
        name="tiny_aya",
        reference="Cohere2ForCausalLM",
        config={
            "vocab_size": 131,
            "hidden_size": 40,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
            "layer_norm_eps": 2e-3,
            "logit_scale": 0.7,
            "sliding_window": 10,
            "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
            "tie_word_embeddings": True,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        hub_config={"sliding_window_pattern": 4, "use_parallel_block": True, "rotary_pct": 1.0},
        audit={
            "rope_parameters.rope_theta": 4e4,
            "layer_norm_eps": 1e-3,
            "logit_scale": 0.75,
            "sliding_window": 11,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"] * 2) * 2,
        },
        seed=2,
        shards=2,
    ),
    # The spelling before layer_types: only a period, here an odd one that leaves two layers over.
    Family(
        name="cohere2_period3",
        reference="Cohere2ForCausalLM",
        config={
            "vocab_size": 96,
            "hidden_size": 32,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "intermediate_size": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "layer_norm_eps": 5e-3,
            "logit_scale": 1.25,
            "sliding_window": 7,
            "layer_types": ["sliding_attention"] * 2
            + ["full_attention"]
            + ["sliding_attention"] * 2,
            "tie_word_embeddings": True,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        hub_config={"sliding_window_pattern": 3, "layer_types": ABSENT},
        audit={
            "rope_parameters.rope_theta": 8e3,
            "layer_norm_eps": 2e-3,
            "logit_scale": 1.2,
            "sliding_window": 6,
            "layer_types": ["sliding_attention"] * 5,
        },
        seed=1,
        dtype="float32",
    ),
]
