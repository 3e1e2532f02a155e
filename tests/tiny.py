"""Tiny random checkpoints with a tokenizer, small enough to make where a test needs them."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from mlxarch import checkpoint, registry
from mlxarch.cache import Past
from mlxarch.generate import Answer
from mlxarch.names import rules

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "vocab_size": 264,
}
WINDOW = 16
CONFIGS = {
    "llama": {**COMMON, "model_type": "llama", "tie_word_embeddings": False},
    "cohere2": {**COMMON, "model_type": "cohere2", "sliding_window": WINDOW, "logit_scale": 0.5},
}
PROMPT = [int(i) for i in np.random.default_rng(0).integers(0, 256, 3 * WINDOW)]
SPECIAL = ["<bos>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
BOS, IM_START, IM_END, THINK, END_THINK = range(256, 261)
CHATML = (
    "{{ bos_token }}{% if messages[0].role == 'assistant' %}"
    "{{ raise_exception('A user speaks first.') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def model(family="llama", seed=2, **changes):
    """A random model; norms are random too, so that none hides."""
    raw = {**CONFIGS[family], **changes}
    architecture = registry.find(raw)
    built = architecture.model.build(architecture.model.Config.from_hub(raw)).eval()
    mx.random.seed(seed)
    built.apply(lambda w: mx.random.normal(w.shape) * (0.3 if w.ndim > 1 else 1.0))
    mx.eval(built.parameters())
    return built


def save(folder, family="llama", template=CHATML, seed=2, **changes) -> Path:
    """A random model as a checkpoint with the hub's names, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {**CONFIGS[family], **changes}
    architecture = registry.find(raw)
    table = architecture.names.table(architecture.model.Config.from_hub(raw))
    weights = checkpoint.parameters(model(family, seed, **changes))
    names = {name: rules.rename(rules.inverse(table), name) for name in weights}
    mx.save_safetensors(
        str(folder / "model.safetensors"), {names[name]: w for name, w in weights.items()}
    )
    (folder / "config.json").write_text(json.dumps(raw))
    save_tokenizer(folder, template)
    return folder


def save_tokenizer(folder, template=CHATML, special=SPECIAL) -> Path:
    """One token a byte, and those of ChatML; encoding a text puts <bos> before it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<bos>",
        **({"chat_template": template} if template else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def answer(model, prompt, past=None, **options):
    """An answer's tokens, and the answer."""
    options = {"max_tokens": 8, **options}
    found = Answer(model, prompt, Past(model) if past is None else past, **options)
    return [token.id for token in found], found


def recomputed(model, prompt, count):
    """Greedy tokens without any cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(mx.array([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def assert_whole(past):
    """The caches hold exactly the tokens listed: what follows is as without a cache."""
    assert {cache.offset for cache in past.caches} == {len(past.tokens)}
    probe = 7
    ours = past.model(mx.array([[probe]]), cache=past.caches)[0, -1]
    past.tokens.append(probe)
    whole = past.model(mx.array([past.tokens]))[0, -1]
    np.testing.assert_allclose(np.array(ours), np.array(whole), rtol=1e-4, atol=1e-4)
