"""Qwen3-Coder-Next and Qwen3-Next."""

from .family import Family, one_by_one, trace


def hub_head(tensors):
    """The head for a further token as Qwen spells it."""
    parts = {"enorm": "pre_fc_norm_embedding", "hnorm": "pre_fc_norm_hidden", "eh_proj": "fc"}
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("mtp.0."):
            name = name.replace("mtp.0.mtp_block.", "mtp.layers.0.").replace("mtp.0.", "mtp.")
            name = name.replace("mtp.post_norm", "mtp.norm")
            for theirs, hub in parts.items():
                name = name.replace(f"mtp.{theirs}.", f"mtp.{hub}.")
        found[name] = tensor
    return found


FAMILIES = [
    Family(
        name="qwen3_next",
        reference="Qwen3NextForCausalLM",
        config={
            "vocab_size": 131,
            "hidden_size": 36,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 40,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 12,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 6,
            "linear_value_head_dim": 10,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 20,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "partial_rotary_factor": 0.5,
            },
            "rms_norm_eps": 2e-3,
            "tie_word_embeddings": False,
            "max_position_embeddings": 256,
        },
        hub_config={
            "partial_rotary_factor": 0.5,
            "rope_scaling": None,
            "full_attention_interval": 4,
            "use_sliding_window": False,
        },
        hub_weights=lambda tensors: hub_head(one_by_one(tensors)),
        audit={
            "rope_parameters.rope_theta": 1e6,
            "rms_norm_eps": 1e-3,
            "num_experts_per_tok": 2,
        },
        trace=trace(mixer="self_attn|linear_attn"),
        heads=1,
        seed=13,
        shards=2,
        long=75,
    ),
]
