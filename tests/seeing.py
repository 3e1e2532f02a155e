"""A tiny random checkpoint that sees, with a tokenizer and a template, and pictures to show it."""

import io
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import tiny
import tiny_configs
from PIL import Image
from twins import randomised

from mlxarch import checkpoint, registry
from mlxarch.names import rules

TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 20,
    "patch_size": 4,
    "num_position_embeddings": 16,
    "out_hidden_size": tiny_configs.COMMON["hidden_size"],
}
MOON = {
    "vt_num_hidden_layers": 2,
    "vt_hidden_size": 16,
    "vt_num_attention_heads": 2,
    "vt_intermediate_size": 20,
    "patch_size": 4,
    "init_pos_emb_height": 4,
    "init_pos_emb_width": 4,
    "text_hidden_size": tiny_configs.COMMON["hidden_size"],
}
SIDE = 8  # pixels of a token
START, END, PAD = range(261, 264)
_PARTS = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
TEMPLATE = tiny.CHATML.replace("{{ m.content }}", _PARTS)


def save(folder: Path, *, heads: bool = False, seed: int = 0) -> Path:
    """A model with one token a byte, and one for each 8 x 8 pixels."""
    text, weights = tiny_configs.saved("qwen35 dense", vocab_size=264, max_position_embeddings=4096)
    text["rope_parameters"] = {"rope_theta": 50.0, "mrope_section": [1, 1, 0]}
    del text["rope_theta"]
    raw = {
        "model_type": "qwen3_5",
        "text_config": text,
        "tie_word_embeddings": True,
        "vision_config": TOWER,
        "image_token_id": PAD,
    }
    if heads:
        port = registry.find(raw)
        (head,) = tiny_configs.mtp("qwen35 dense", ["mtp.0.norm.weight"])
        own = {f"mtp.0.{name}": w for name, w in checkpoint.parameters(head).items()}
        table = port.names.table(port.model.Config.from_hub(raw))
        weights |= rules.translate(rules.inverse(table), own)
    own = _tower(raw, seed)
    patches = "vision.patch_embed.proj.weight"
    own[patches] = own[patches].reshape(-1, 3, 2, 4, 4)
    return _save(folder, raw, weights, own)


def save_kimi(folder: Path) -> Path:
    """The same of Kimi K2.5, whose pictures change nothing about positions."""
    text, weights = tiny_configs.saved("kimi_k25", vocab_size=264, max_position_embeddings=4096)
    raw = {
        "model_type": "kimi_k25",
        "text_config": text,
        "vision_config": MOON,
        "media_placeholder_token_id": PAD,
    }
    weights = {f"language_model.{name}": w for name, w in weights.items()}
    own = _tower(raw, 0)
    patches, places = (f"vision.tower.patch_embed.{part}.weight" for part in ("proj", "pos_emb"))
    own[patches] = own[patches].reshape(-1, 3, 4, 4)
    own[places] = own[places].reshape(4, 4, -1)
    return _save(folder, raw, weights, own)


def _tower(raw: dict, seed: int) -> rules.Weights:
    """A random tower's tensors, as `checkpoint.as_mlx` names them."""
    port = registry.find(raw)
    tower = port.vision.build(port.vision.Config.from_hub(raw["vision_config"]))
    own = checkpoint.parameters(randomised(tower, seed))
    return rules.translate(rules.inverse(port.names.tower()), own)


def _save(folder: Path, raw: dict, weights: rules.Weights, own: rules.Weights) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    mx.save_safetensors(str(folder / "vision.safetensors"), own)
    (folder / "config.json").write_text(json.dumps(raw))
    scale = {"size": {"shortest_edge": 256, "longest_edge": 4096}}
    (folder / "preprocessor_config.json").write_text(json.dumps(scale))
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    return tiny.save_tokenizer(folder, TEMPLATE, [*tiny.SPECIAL, *special])


def picture(width, height, mode="RGB", format="PNG", seed=0, **options) -> bytes:
    """A file of a picture that is nowhere the same."""
    random = np.random.default_rng([width, height, seed])
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, bands) if bands > 1 else (height, width)
    image = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
