"""Golden files of models that see: the tower, and prompts with pictures, by the reference.

make.py calls this; see there. The folders lie under seeing/, beside those of language models. Their
checkpoints are as published: the language model within config.json's text_config, the tower beside.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import make
import numpy as np
import torch
import transformers
from families import Family, kimi_k25, qwen35
from families.family import one_by_one

SEEING = Path(__file__).parent / "seeing"
IMAGE = 120  # the token that stands for a picture; those after it begin and end one
MERGED = 2  # patches of a token's side
TOWER = {
    "depth": 2,
    "hidden_size": 24,
    "num_heads": 2,
    "intermediate_size": 40,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 25,
    "out_hidden_size": qwen35.TEXT["hidden_size"],
}


# Six pairs that all turn, of which one that could be a row's does so by time.
ROPE = {
    **qwen35.TEXT["rope_parameters"],
    "rope_theta": 50.0,
    "partial_rotary_factor": 0.75,
    "mrope_section": [3, 1, 2],
}


def _config(text: dict[str, Any], kind: str, tied: bool) -> dict[str, Any]:
    own = {"model_type": f"{kind}_text", "tie_word_embeddings": tied, "rope_parameters": ROPE}
    return {
        "text_config": {**text, **own},
        "vision_config": {**TOWER, "model_type": f"{kind}_vision"},
        "tie_word_embeddings": tied,
        "image_token_id": IMAGE,
        "video_token_id": IMAGE + 1,
        "vision_start_token_id": IMAGE + 2,
        "vision_end_token_id": IMAGE + 3,
    }


MOON = {
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "patch_size": 4,
    "pos_emb_height": 7,
    "pos_emb_width": 7,
}


def _kimi(spelled: dict[str, Any]) -> dict[str, Any]:
    """A config.json of Kimi K2.5 as published, of the one that transformers writes."""
    tower = spelled["vision_config"]
    published = {
        "init_pos_emb_height": tower["pos_emb_height"],
        "init_pos_emb_time": tower["pos_emb_time"],
        "init_pos_emb_width": tower["pos_emb_width"],
        "merge_kernel_size": [MERGED, MERGED],
        "merge_type": "sd2_tpool",
        "mm_hidden_size": tower["hidden_size"],
        "mm_projector_type": "patchmerger",
        "patch_size": tower["patch_size"],
        "pos_emb_type": "divided_fixed",
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-05,
        "text_hidden_size": spelled["text_config"]["hidden_size"],
        "video_attn_type": "spatial_temporal",
        "vt_hidden_size": tower["hidden_size"],
        "vt_intermediate_size": tower["intermediate_size"],
        "vt_num_attention_heads": tower["num_attention_heads"],
        "vt_num_hidden_layers": tower["num_hidden_layers"],
    }
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "media_placeholder_token_id": spelled["image_token_id"],
        "model_type": "kimi_k25",
        "text_config": {**spelled["text_config"], "model_type": "kimi_k2"},
        "tie_word_embeddings": False,
        "vision_config": published,
    }


def _kimi_weights(tensors: make.Tensors) -> make.Tensors:
    """Kimi K2.5's tensors as published: see transformers' conversion_mapping.py."""
    found: make.Tensors = {}
    for name, tensor in one_by_one(tensors).items():
        name = name.removeprefix("model.")
        if name.startswith(("language_model.", "lm_head.")):
            name = name.replace("language_model.", "language_model.model.", 1)
            found[name.replace("lm_head.", "language_model.lm_head.", 1)] = tensor
            continue
        for theirs, published in (
            ("vision_tower.layers.", "vision_tower.encoder.blocks."),
            ("vision_tower.final_layernorm.", "vision_tower.encoder.final_layernorm."),
            ("pos_emb.position_embeddings", "pos_emb.weight"),
            ("mm_projector.in_proj.", "mm_projector.proj.0."),
            ("mm_projector.out_proj.", "mm_projector.proj.2."),
            (".norm1.", ".norm0."),
            (".norm2.", ".norm1."),
            (".mlp.fc1.", ".mlp.fc0."),
            (".mlp.fc2.", ".mlp.fc1."),
            (".attn.proj.", ".wo."),
        ):
            name = name.replace(theirs, published)
        if ".attn.q_proj." not in name:
            found[name] = tensor
    for name in [name for name in found if ".attn." in name]:
        del found[name]
    for name in [name for name in tensors if ".attn.q_proj." in name]:
        q, k, v = (tensors[name.replace(".q_", f".{part}_")] for part in "qkv")
        name = name.removeprefix("model.").replace("tower.layers.", "tower.encoder.blocks.")
        fused = torch.cat([_neighbours(q), _neighbours(k), v])
        found[name.replace(".attn.q_proj.", ".wqkv.")] = fused
    return found


def _neighbours(rows: torch.Tensor) -> torch.Tensor:
    """A projection whose rotated features are each half's, in the order of pairs."""
    by_head = rows.reshape(MOON["num_attention_heads"], 2, -1, *rows.shape[1:])
    return by_head.transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True, kw_only=True)
class Seeing(Family):
    """A family whose model sees."""

    grids: tuple[tuple[int, int], ...] = ((4, 6), (10, 6))  # rows and columns of patches
    frames: int = 2  # that a still picture stands for
    by_token: bool = True  # patches of a token come one after the other; else all by row
    # A config.json as published, of the one that transformers 5 writes.
    publish: Callable[[dict[str, Any]], dict[str, Any]] = dict
    audit: dict[str, Any] = field(default_factory=dict)
    aside: str = r"$^"


FAMILIES = [
    Seeing(
        name="qwen35_dense",
        reference="Qwen3_5ForConditionalGeneration",
        config=_config(qwen35.DENSE, "qwen3_5", True),
        audit={
            "text_config.rope_parameters.mrope_section": [2, 2, 2],
            "vision_config.num_heads": 1,
            "vision_config.rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        },
        seed=11,
    ),
    Seeing(
        name="qwen35_moe",
        reference="Qwen3_5MoeForConditionalGeneration",
        config=_config(qwen35.SPARSE, "qwen3_5_moe", False),
        seed=12,
    ),
    Seeing(
        name="kimi_k25",
        reference="Kimi_K25ForConditionalGeneration",
        config={
            "text_config": {
                **kimi_k25.TEXT,
                "model_type": "deepseek_v3",
                "rope_parameters": kimi_k25.YARN,
                "num_nextn_predict_layers": 0,
            },
            "vision_config": MOON,
            "projection_hidden_size": MOON["hidden_size"],
            "tie_word_embeddings": False,
            "image_token_id": IMAGE,
            "video_token_id": IMAGE + 1,
            "vision_start_token_id": IMAGE + 2,
            "vision_end_token_id": IMAGE + 3,
        },
        hub_weights=_kimi_weights,
        audit={"vision_config.num_attention_heads": 1},
        gain=kimi_k25.FAMILIES[0].gain,
        seed=13,
        grids=((4, 6), (10, 8)),
        frames=1,
        by_token=False,
        publish=_kimi,
    ),
]


def _tokens(random: np.random.Generator, texts: list[int], grids: list[tuple[int, int]]) -> Any:
    """Texts of so many tokens, and between them pictures."""
    found = []
    for length, grid in zip(texts, [*grids, None], strict=True):
        found += random.integers(3, IMAGE, length).tolist()
        if grid is not None:
            found += [IMAGE + 2, *[IMAGE] * (grid[0] * grid[1] // 4), IMAGE + 3]
    return np.array([found], dtype=np.int32)


def _pixels(family: Seeing, grid: tuple[int, int], own: np.ndarray) -> torch.Tensor:
    """Patches (n, pixels), those of a token one after the other, as the reference wants them."""
    if family.by_token:
        return torch.from_numpy(own)
    rows, columns = (side // MERGED for side in grid)
    squares = own.reshape(rows, columns, MERGED, MERGED, -1).swapaxes(1, 2)
    return torch.from_numpy(squares.reshape(len(own), 3, 4, 4).copy())


def _given(family: Seeing, ids: np.ndarray, which: list[int], pixels: list[np.ndarray]) -> Any:
    grids = [family.grids[i] for i in which]
    own = [_pixels(family, grid, pixels[i]) for i, grid in zip(which, grids, strict=True)]
    told = {"mm_token_type_ids": torch.from_numpy((ids == IMAGE).astype(np.int32))}
    return {
        "input_ids": torch.from_numpy(ids).long(),
        **(told if family.by_token else {}),
        "pixel_values": torch.cat(own),
        "image_grid_thw": torch.tensor([[1, *grid] for grid in grids]),
    }


def _ask(model: torch.nn.Module, given: Any) -> np.ndarray:
    model.model.rope_deltas = None
    return model(**given, use_cache=False).logits.numpy()


def _decode(model: torch.nn.Module, given: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens after a prompt with pictures, by the reference's own cache."""
    model.model.rope_deltas = None
    out, tokens, logits = model(**given, use_cache=True), [], []
    for _ in range(steps):
        logits.append(out.logits[0, -1].numpy())
        tokens.append(int(logits[-1].argmax()))
        fed = torch.tensor([[tokens[-1]]])
        out = model(input_ids=fed, use_cache=True, past_key_values=out.past_key_values)
    return np.array(tokens, dtype=np.int32), np.stack(logits)


def _check(family: Seeing, model: torch.nn.Module, given: Any, wanted: np.ndarray) -> Any:
    """Refuse a reference in which some tensor, some key or some pixel does not matter."""
    moved = {}
    for name, tensor in make._tensors(model).items():
        kept = tensor.clone()
        tensor.copy_(make._random(family, name, tensor, salt="again"))
        moved[name] = make.relative(_ask(model, given), wanted)
        tensor.copy_(kept)
    for key, value in family.audit.items():
        moved[key] = make.relative(_ask(make.build(family, {key: value}), given), wanted)
    swapped = given | {"pixel_values": given["pixel_values"].flip(0)}
    moved["pixels"] = make.relative(_ask(model, swapped), wanted)
    least = min(moved, key=lambda name: moved[name])
    assert moved[least] > 3e-3, f"{least} moves the logits by only {moved[least]:.1e}"
    return {"least_moved_by": {least: moved[least]}}


@torch.no_grad()
def produce(family: Seeing) -> None:
    """One family's folder."""
    model, random = make.build(family), np.random.default_rng(family.seed)
    pixels = [
        random.standard_normal((rows * columns, 3 * family.frames * 4 * 4)).astype(np.float32)
        for rows, columns in family.grids
    ]
    golden: dict[str, Any] = {"grids": np.array(family.grids)}
    for i, (grid, own) in enumerate(zip(family.grids, pixels, strict=True)):
        golden[f"pixels.{i}"] = own
        thw = torch.tensor([[1, *grid]])
        out = model.model.get_image_features(_pixels(family, grid, own), thw)
        golden[f"tower.{i}"] = out.pooler_output[0].numpy()
    golden["text.ids"] = _tokens(random, [13], [])
    golden["text.logits"] = make.ask(model, golden["text.ids"])
    for kind, texts, which in (("one", [5, 7], [0]), ("two", [4, 3, 9], [1, 0])):
        grids = [family.grids[i] for i in which]
        golden[f"{kind}.images"] = np.array(which)
        golden[f"{kind}.ids"] = _tokens(random, texts, grids)
        given = _given(family, golden[f"{kind}.ids"], which, pixels)
        golden[f"{kind}.logits"] = _ask(model, given)
    tokens, logits = _decode(model, given, family.greedy)
    golden |= {"greedy.tokens": tokens, "greedy.logits": logits}
    meta = {
        "reference": family.reference,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seed": family.seed,
        **_check(family, model, given, golden["two.logits"]),
    }
    golden["meta"] = np.array(json.dumps(meta))
    spelled = family.publish(make.configs(family, model)["config_tf5.json"])
    make.save(SEEING / family.name, family, {"config.json": spelled}, make._tensors(model), golden)
    again = make._class(family).from_pretrained(
        SEEING / family.name,
        config=model.config,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    assert (_ask(again, given) == golden["two.logits"]).all(), "it reads back something else"
    size = sum(file.stat().st_size for file in (SEEING / family.name).iterdir())
    print(f"seeing/{family.name}: {size:,} bytes; {json.dumps(meta)}")
