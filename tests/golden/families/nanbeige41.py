"""Nanbeige 4.1 and plain Llama."""

from .family import ABSENT, Family

FAMILIES = [
    # As published: heads that do not fill the width, one shared key/value head, an own output head.
    Family(
        name="nanbeige41",
        reference="LlamaForCausalLM",
        config={
            "vocab_size": 131,
            "hidden_size": 60,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 96,
            "rope_parameters": {"rope_type": "default", "rope_theta": 7e7},
            "rms_norm_eps": 2e-3,
            "tie_word_embeddings": False,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        audit={
            "rope_parameters.rope_theta": 6e7,
            "rms_norm_eps": 1e-3,
        },
        seed=3,
        shards=2,
    ),
    # A Llama of the small kind: tied, its head size left to be computed, rows that can be packed.
    Family(
        name="llama_tied",
        reference="LlamaForCausalLM",
        config={
            "vocab_size": 96,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
            "rms_norm_eps": 5e-3,
            "tie_word_embeddings": True,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        hub_config={"head_dim": ABSENT},
        audit={
            "rope_parameters.rope_theta": 4e5,
            "rms_norm_eps": 2e-3,
        },
        seed=3,
        dtype="float16",
    ),
]
