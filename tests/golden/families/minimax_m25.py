"""MiniMax M2.5."""

from .family import Family, one_by_one


def _hub_names(tensors):
    """Mixtral's: w1 is the gate, w3 the value, w2 the way out."""
    parts = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    found = {}
    for name, tensor in one_by_one(tensors).items():
        for ours, theirs in parts.items():
            name = name.replace(f".{ours}.weight", f".{theirs}.weight")
        name = name.replace(".mlp.gate.e_score", ".mlp.e_score")
        found[name.replace(".mlp.", ".block_sparse_moe.")] = tensor
    return found


FAMILIES = [
    Family(
        name="minimax_m25",
        reference="MiniMaxM2ForCausalLM",
        config={
            "vocab_size": 131,
            "hidden_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "intermediate_size": 24,
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "rotary_dim": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "partial_rotary_factor": 0.4,
            },
            "rms_norm_eps": 2e-3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
            "max_position_embeddings": 256,
        },
        hub_config={
            "rotary_dim": 8,
            "rope_scaling": None,
            "use_qk_norm": True,
            "qk_norm_type": "per_layer",
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
            "shared_intermediate_size": 0,
            "use_mtp": True,
            "num_mtp_modules": 3,
        },
        hub_weights=_hub_names,
        audit={
            "rope_parameters.rope_theta": 1e6,
            "rms_norm_eps": 1e-3,
            "num_experts_per_tok": 2,
        },
        seed=2,
        shards=2,
    ),
]
