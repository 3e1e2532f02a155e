"""A tiny config of each family, in the hub's spelling, and random models of them.

Each has every kind of layer that its family knows, sizes that differ wherever they may, and a
window, a choice or a group small enough to matter within a few tokens.
"""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from twins import randomised

from mlxarch import checkpoint, registry
from mlxarch.decoder import Decoder
from mlxarch.names import rules

VOCAB, WINDOW = 61, 9
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 512,
    "rope_theta": 1e4,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 14}
LATENT = {
    "q_lora_rank": 18,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
DEEPSEEK = {
    **COMMON,
    **LATENT,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 14,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
GLM5 = {
    **DEEPSEEK,
    "model_type": "glm_moe_dsa",
    "index_n_heads": 3,
    "index_head_dim": 8,
    "index_topk": 7,
}
QWEN = {
    **COMMON,
    "num_hidden_layers": 4,
    "partial_rotary_factor": 0.4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 4,
}
CONFIGS = {
    "glm5": GLM5,
    "glm5 shared": {**GLM5, "indexer_types": ["full", "shared", "shared"]},
    "kimi_k25": {
        **DEEPSEEK,
        "model_type": "kimi_k2",
        "rope_scaling": {
            "type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "ling25": {
        **COMMON,
        **LATENT,
        **EXPERTS,
        "model_type": "bailing_hybrid",
        "architectures": ["BailingMoeV2_5ForCausalLM"],
        "num_hidden_layers": 5,
        "layer_group_size": 2,
        "group_norm_size": 2,
        "partial_rotary_factor": 0.6,
        "first_k_dense_replace": 1,
        "num_shared_experts": 1,
        "n_group": 3,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
    },
    "minimax_m25": {
        **COMMON,
        "model_type": "minimax_m2",
        "num_hidden_layers": 2,
        "rotary_dim": 6,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
    },
    "nanbeige41": {**COMMON, "model_type": "llama", "num_hidden_layers": 2},
    "qwen35 dense": {**QWEN, "model_type": "qwen3_5_text", "tie_word_embeddings": True},
    "qwen35 experts": {
        **QWEN,
        **EXPERTS,
        "model_type": "qwen3_5_moe_text",
        "shared_expert_intermediate_size": 18,
    },
    "qwen3_next": {
        **QWEN,
        **EXPERTS,
        "model_type": "qwen3_next",
        "shared_expert_intermediate_size": 18,
    },
    "step35": {
        **COMMON,
        "model_type": "step3p5",
        "num_hidden_layers": 4,
        "num_attention_groups": 2,
        "attention_other_setting": {"num_attention_heads": 6},
        "sliding_window": WINDOW,
        "layer_types": ["full_attention", *["sliding_attention"] * 5],
        "rope_theta": [5e4] + [1e4] * 5,
        "partial_rotary_factors": [0.6] + [1.0] * 5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 2.0,
            "original_max_position_embeddings": 32,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        "yarn_only_types": ["full_attention"],
        "moe_layers_enum": "1,2,3",
        "moe_num_experts": 6,
        "moe_top_k": 2,
        "moe_intermediate_size": 14,
        "share_expert_dim": 18,
        "moe_router_scaling_factor": 3.0,
        "swiglu_limits": [0.0, 0.0, 0.7, 0.5, 0.0, 0.0],
        "swiglu_limits_shared": [0.0, 0.0, 0.0, 0.9, 0.0, 0.0],
    },
    "tiny_aya": {
        **COMMON,
        "model_type": "cohere2",
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "logit_scale": 0.5,
    },
    "trinity": {
        **COMMON,
        **EXPERTS,
        "model_type": "afmoe",
        "num_hidden_layers": 4,
        "num_dense_layers": 1,
        "sliding_window": WINDOW,
        "num_shared_experts": 2,
        "route_scale": 2.5,
        "mup_enabled": True,
    },
}
# The families with layers that norm what may be next to nothing: 1e-6 becomes 2e-5 there.
LINEAR = {"qwen35 dense", "qwen35 experts", "qwen3_next"}
# The families with heads for further tokens, and a tensor by which those are known.
MTP = {
    "glm5": "block.mixer.indexer.wk.weight",
    "kimi_k25": "proj.weight",
    "ling25": "proj.weight",
    "qwen35 dense": "proj.weight",
    "qwen35 experts": "proj.weight",
    "qwen3_next": "proj.weight",
    "step35": "head.weight",
}


def divided(name: str) -> dict[str, Any]:
    """Changes to a config with which groups divide its rows: heads of 64, latents of 32."""
    sizes = {"head_dim": 64, "partial_rotary_factor": 0.5, "kv_lora_rank": 32}
    return {key: size for key, size in sizes.items() if key in CONFIGS.get(name, {"head_dim": 0})}


def build(name: str, **changes: Any) -> Decoder:
    """A model as its checkpoint would be loaded into it, some keys of its config changed."""
    raw = CONFIGS[name] | changes
    port = registry.find(raw).model
    return port.build(port.Config.from_hub(raw))


def model(name: str, seed: int = 0, **changes: Any) -> Decoder:
    """A random model."""
    return randomised(build(name, **changes), seed)


def saved(name: str, **changes: Any) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """A random model's config.json, and its tensors as mlx-lm names them."""
    raw = CONFIGS[name] | changes
    port = registry.find(raw)
    table = port.names.table(port.model.Config.from_hub(raw))
    weights = checkpoint.parameters(model(name, **changes))
    return raw, rules.translate(rules.inverse(table), weights)


def mtp(name: str, tensors: Iterable[str], seed: int = 0) -> list[nn.Module]:
    """Random heads, as many as the tensors have numbers."""
    port = registry.find(CONFIGS[name]).model
    heads = port.build_mtp(port.Config.from_hub(CONFIGS[name]), list(tensors))
    return [randomised(head, seed + i) for i, head in enumerate(heads)]
