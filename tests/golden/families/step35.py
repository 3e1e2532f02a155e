"""Step 3.5 Flash, which the reference reads as the text part of Step 3.7."""

import re

from .family import ABSENT, Family, heads_as_layers, trace

DEPTH = 6
LOCAL = {i: {"num_attention_heads": 6} for i in (1, 2, 3, 5)}
HUB_TYPES = ["full_attention", *["sliding_attention"] * 3] * 2


def _hub_names(tensors):
    """The released spelling: experts stacked beside the shared one, no vision."""
    found = {}
    for name, tensor in heads_as_layers(tensors, DEPTH).items():
        if "vision" in name or "projector" in name:
            continue
        name = name.replace("model.language_model.", "model.")
        name = re.sub(r"mlp\.shared_experts?\.", "share_expert.", name)
        name = name.replace("mlp.gate.e_score_correction_bias", "moe.router_bias")
        name = name.replace("mlp.gate.weight", "moe.gate.weight")
        if name.endswith("mlp.experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            base = name.removesuffix("mlp.experts.gate_up_proj")
            found[f"{base}moe.gate_proj.weight"] = gate.contiguous()
            found[f"{base}moe.up_proj.weight"] = up.contiguous()
        else:
            found[name.replace("mlp.experts.down_proj", "moe.down_proj.weight")] = tensor
    return found


FAMILIES = [
    Family(
        name="step35",
        reference="Step3p7ForConditionalGeneration",
        config={
            "text_config": {
                "vocab_size": 131,
                "hidden_size": 36,
                "num_hidden_layers": DEPTH,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "num_sliding_attention_heads": 6,
                "head_dim": 16,
                "intermediate_size": 44,
                "moe_intermediate_size": 16,
                "share_expert_dim": 20,
                "n_routed_experts": 6,
                "num_experts_per_tok": 3,
                "moe_router_scaling_factor": 3.0,
                "sliding_window": 7,
                "layer_types": HUB_TYPES[:DEPTH],
                "mtp_layer_types": ["sliding_attention"] * 2,
                "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 4,
                "mtp_mlp_layer_types": ["dense"] * 2,
                "num_nextn_predict_layers": 2,
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "llama3",
                        "rope_theta": 5e6,
                        "partial_rotary_factor": 0.5,
                        "factor": 2.0,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 32.0,
                        "original_max_position_embeddings": 32,
                    },
                    "sliding_attention": {
                        "rope_type": "default",
                        "rope_theta": 1e4,
                        "partial_rotary_factor": 1.0,
                    },
                },
                "swiglu_limits": [None] * 4 + [0.7, 0.5],
                "swiglu_limits_shared": [None] * 5 + [0.6],
                "rms_norm_eps": 2e-3,
                "tie_word_embeddings": False,
                "max_position_embeddings": 256,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "image_size": 28,
                "patch_size": 14,
            },
        },
        hub_config={
            "text_config": ABSENT,
            "vision_config": ABSENT,
            "image_token_id": ABSENT,
            "projector_bias": ABSENT,
            "architectures": ["Step3p5ForCausalLM"],
            "model_type": "step3p5",
            "vocab_size": 131,
            "hidden_size": 36,
            "num_hidden_layers": DEPTH,
            "num_nextn_predict_layers": 2,
            "num_attention_heads": 4,
            "num_attention_groups": 2,
            "attention_other_setting": {
                "attention_type": "sliding_attention",
                "num_attention_heads": 6,
                "num_attention_groups": 2,
                "head_dim": 16,
            },
            "head_dim": 16,
            "intermediate_size": 44,
            "moe_intermediate_size": 16,
            "share_expert_dim": 20,
            "moe_num_experts": 6,
            "moe_top_k": 3,
            "moe_router_scaling_factor": 3.0,
            "moe_router_activation": "sigmoid",
            "moe_layers_enum": "2,3,4,5",
            "norm_expert_weight": True,
            "use_moe_router_bias": True,
            "use_head_wise_attn_gate": True,
            "use_qk_norm": True,
            "sliding_window": 7,
            "layer_types": [*HUB_TYPES[:DEPTH], *["sliding_attention"] * 2],
            "rope_theta": [5e6, 1e4, 1e4, 1e4, 5e6, 1e4, 1e4, 1e4],
            "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0],
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 2.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 32.0,
                "original_max_position_embeddings": 32,
            },
            "yarn_only_types": ["full_attention"],
            "swiglu_limits": [0.0] * 4 + [0.7, 0.5, 0.0, 0.0],
            "swiglu_limits_shared": [0.0] * 5 + [0.6, 0.0, 0.0],
            "rms_norm_eps": 2e-3,
            "tie_word_embeddings": False,
            "max_position_embeddings": 256,
        },
        hub_weights=_hub_names,
        audit={
            "text_config.rope_parameters.full_attention.factor": 4.0,
            "text_config.rope_parameters.sliding_attention.rope_theta": 1e3,
            "text_config.rms_norm_eps": 1e-3,
            "text_config.sliding_window": 8,
            "text_config.swiglu_limits": [None] * 5 + [0.5],
            "text_config.swiglu_limits_shared": [None] * 6,
        },
        gain={r"embed|lm_head": 2.0, r"[qk]_proj": 1.6, r"experts|mlp": 2.0},
        trace=trace("model.language_model"),
        heads=2,
        head_like=1,
        reads=("config_tf5.json",),
        seed=10,
        shards=2,
    ),
]
