"""Qwen 3.5, dense and with experts, each beside its vision tower's tensors."""

from .family import ABSENT, Family, one_by_one, trace
from .qwen3_next import hub_head

TEXT = {
    "vocab_size": 131,
    "hidden_size": 36,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 10,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e7,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
    "rms_norm_eps": 2e-3,
    "max_position_embeddings": 256,
}
DENSE = {**TEXT, "intermediate_size": 44}
SPARSE = {
    **TEXT,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 20,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
AUDIT = {"rope_parameters.rope_theta": 1e5, "rms_norm_eps": 1e-3}
HUB = {"full_attention_interval": 4, "attn_output_gate": True, "mtp_num_hidden_layers": 1}

FAMILIES = [
    Family(
        name="qwen35_dense",
        reference="Qwen3_5ForCausalLM",
        config={**DENSE, "tie_word_embeddings": True},
        hub_config={**HUB, "rope_theta": ABSENT, "rope_scaling": ABSENT, **DENSE},
        hub_weights=hub_head,
        audit=AUDIT,
        trace=trace(mixer="self_attn|linear_attn"),
        heads=1,
        seed=4,
        long=75,
    ),
    # Experts as the hub fuses them.
    Family(
        name="qwen35_moe",
        reference="Qwen3_5MoeForCausalLM",
        config={**SPARSE, "tie_word_embeddings": False},
        hub_config={**HUB, "rope_theta": ABSENT, "rope_scaling": ABSENT, **SPARSE},
        hub_weights=hub_head,
        audit={**AUDIT, "num_experts_per_tok": 2},
        trace=trace(mixer="self_attn|linear_attn"),
        heads=1,
        seed=5,
        shards=2,
    ),
    # The same one by one, as transformers 5 saves them.
    Family(
        name="qwen35_moe_unfused",
        reference="Qwen3_5MoeForCausalLM",
        config={**SPARSE, "tie_word_embeddings": False, "num_hidden_layers": 4},
        hub_config={**HUB, "rope_theta": ABSENT, "rope_scaling": ABSENT, **SPARSE},
        hub_weights=lambda tensors: hub_head(one_by_one(tensors)),
        audit=AUDIT,
        trace=trace(mixer="self_attn|linear_attn"),
        seed=6,
        shards=2,
    ),
]
