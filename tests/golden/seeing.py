"""Golden files of models that see: the tower, and prompts with pictures, by the reference.

make.py calls this; see there. The folders lie under seeing/, beside those of language models. Their
checkpoints are as published: the language model within config.json's text_config, the tower beside.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import make
import numpy as np
import torch
import transformers
from families import Family, qwen35

SEEING = Path(__file__).parent / "seeing"
IMAGE = 120  # the token that stands for a picture; those after it begin and end one
GRIDS = [(4, 6), (10, 6)]  # rows and columns of patches
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


@dataclass(frozen=True, kw_only=True)
class Seeing(Family):
    """A family whose model sees."""

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
]


def _tokens(random: np.random.Generator, texts: list[int], grids: list[tuple[int, int]]) -> Any:
    """Texts of so many tokens, and between them pictures."""
    found = []
    for length, grid in zip(texts, [*grids, None], strict=True):
        found += random.integers(3, IMAGE, length).tolist()
        if grid is not None:
            found += [IMAGE + 2, *[IMAGE] * (grid[0] * grid[1] // 4), IMAGE + 3]
    return np.array([found], dtype=np.int32)


def _given(ids: np.ndarray, grids: list[tuple[int, int]], pixels: list[np.ndarray]) -> Any:
    return {
        "input_ids": torch.from_numpy(ids).long(),
        "mm_token_type_ids": torch.from_numpy((ids == IMAGE).astype(np.int32)),
        "pixel_values": torch.from_numpy(np.concatenate(pixels)),
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
        random.standard_normal((rows * columns, 3 * 2 * 4 * 4)).astype(np.float32)
        for rows, columns in GRIDS
    ]
    golden: dict[str, Any] = {"grids": np.array(GRIDS)}
    for i, (grid, own) in enumerate(zip(GRIDS, pixels, strict=True)):
        golden[f"pixels.{i}"] = own
        thw = torch.tensor([[1, *grid]])
        out = model.model.visual(torch.from_numpy(own), grid_thw=thw)
        golden[f"tower.{i}"] = out.pooler_output.numpy()
    golden["text.ids"] = _tokens(random, [13], [])
    golden["text.logits"] = make.ask(model, golden["text.ids"])
    for kind, texts, which in (("one", [5, 7], [0]), ("two", [4, 3, 9], [1, 0])):
        grids = [GRIDS[i] for i in which]
        golden[f"{kind}.images"] = np.array(which)
        golden[f"{kind}.ids"] = _tokens(random, texts, grids)
        given = _given(golden[f"{kind}.ids"], grids, [pixels[i] for i in which])
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
    spelled = make.configs(family, model)["config_tf5.json"]
    make.save(SEEING / family.name, family, {"config.json": spelled}, make._tensors(model), golden)
    size = sum(file.stat().st_size for file in (SEEING / family.name).iterdir())
    print(f"seeing/{family.name}: {size:,} bytes; {json.dumps(meta)}")
