"""Models that see, against the reference implementation and its own preparation of pictures."""

import ast
import io
import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import transformers
from close import assert_close
from PIL import Image as Pillow
from seeing import picture

import mlxarch
from mlxarch import checkpoint
from mlxarch.convert import inventory, plan
from mlxarch.convert.write import write
from mlxarch.errors import ConfigError, FormatError
from mlxarch.quantize.recipes import candidate
from mlxarch.vision.images import Image, Images
from mlxarch.vision.pixels import Scale, measure
from mlxarch.vision.sight import Sight

SEEING = Path(__file__).parent / "golden" / "seeing"
QWEN = ["qwen35_dense", "qwen35_moe"]
NAMES = [*QWEN, "kimi_k25"]


class Golden:
    """A tiny checkpoint with its tower, and what the reference says of it."""

    def __init__(self, name):
        self.folder = SEEING / name
        with np.load(self.folder / "golden.npz") as file:
            self.arrays = dict(file)
        self.model = mlxarch.load(self.folder, dtype=mx.float32)
        self.placed = name in QWEN
        self.tower = checkpoint.load_tower(self.folder, dtype=mx.float32)

    def __getitem__(self, key):
        return self.arrays[key]

    def rows(self, i):
        return self.tower(self[f"pixels.{i}"], tuple(self["grids"][i].tolist()))

    def images(self, kind):
        """The pictures of a prompt, in which 120 stands for one of their tokens."""
        ids, found = self[f"{kind}.ids"][0], []
        starts = np.flatnonzero((ids == 120) & (np.roll(ids, 1) != 120))
        for i, start in zip(self[f"{kind}.images"].tolist(), starts.tolist(), strict=True):
            rows, columns = (self["grids"][i] // 2).tolist()
            found.append(Image(str(i), start, rows, columns, lambda _, i=i: self.rows(i)))
        return Images(found, placed=self.placed)


@pytest.fixture(scope="module", params=NAMES)
def golden(request):
    return Golden(request.param)


def in_pieces(golden, kind, cuts, **options):
    """Logits of a prompt that is read in pieces, and the cache after it."""
    ids, images = golden[f"{kind}.ids"], golden.images(kind)
    cache = golden.model.make_cache(**options)
    edges = pairwise([0, *cuts, ids.shape[1]])
    out = [golden.model(mx.array(ids[:, a:b]), cache, images) for a, b in edges]
    return np.concatenate(out, axis=1), cache, images


@pytest.mark.parametrize("i", [0, 1])
def test_the_tower(golden, i):
    assert_close("tower", golden.rows(i), golden[f"tower.{i}"])


def test_the_tower_holds_no_more_than_it_may(golden, monkeypatch):
    from mlxarch.vision import transformer

    monkeypatch.setattr(transformer, "_SCORES", 4 * 2 * 60 * 7)  # seven queries of sixty
    assert_close("in pieces", golden.rows(1), golden["tower.1"])


@pytest.mark.parametrize("kind", ["one", "two"])
def test_a_prompt_with_pictures(golden, kind):
    ids, images = mx.array(golden[f"{kind}.ids"]), golden.images(kind)
    assert_close("whole", golden.model(ids, images=images), golden[f"{kind}.logits"])


@pytest.mark.parametrize("cuts", [range(1, 40), [9, 14, 30], [4, 5, 20, 21], [6, 33]])
def test_a_prompt_is_cut_within_a_picture(golden, cuts):
    logits, *_ = in_pieces(golden, "two", cuts)
    assert_close(f"cuts at {[*cuts]}", logits, golden["two.logits"])


def test_what_is_said_after_pictures(golden):
    logits, cache, images = in_pieces(golden, "two", [11])
    found, tokens = [logits[:, -1]], []
    for _ in golden["greedy.tokens"]:
        tokens.append(int(found[-1].argmax()))
        logits = golden.model(mx.array([tokens[-1:]]), cache, images)
        found.append(np.asarray(logits[:, -1]))
    assert tokens == golden["greedy.tokens"].tolist()
    assert_close("greedy", np.concatenate(found[:-1]), golden["greedy.logits"])


def test_text_of_a_model_that_sees(golden):
    ids = mx.array(golden["text.ids"])
    assert_close("text", golden.model(ids), golden["text.logits"])
    assert_close(
        "without pictures",
        golden.model(ids, images=Images([], placed=golden.placed)),
        golden["text.logits"],
    )


def test_other_pictures_and_other_places_matter(golden):
    ids = mx.array(golden["two.ids"])
    right = np.asarray(golden.model(ids, images=golden.images("two")))
    turned = Images(
        [
            Image(image.name, image.start, image.columns, image.rows, image.see)
            for image in golden.images("two")._all
        ]
    )
    turned._placed = golden.placed
    moved = abs(np.asarray(golden.model(ids, images=turned)) - right).max()
    assert moved > 1e-2 if golden.placed else moved == 0
    assert abs(np.asarray(golden.model(ids)) - right).max() > 1e-2


def test_the_tower_of_a_converted_checkpoint(golden, tmp_path):
    recipe = candidate("4g32") if golden.placed else None  # Kimi's is too narrow for it
    write(plan.make(inventory.look(golden.folder), recipe=recipe), tmp_path / "out")
    tower = checkpoint.load_tower(tmp_path / "out", dtype=mx.float32)
    grid = tuple(golden["grids"][0].tolist())
    assert_close("converted", tower(golden["pixels.0"], grid), golden["tower.0"])


@pytest.mark.parametrize("golden", QWEN, indirect=True)
def test_the_tower_as_mlx_vlm_spells_it(golden, tmp_path):
    """Under its name for the tower, and with the colours of a patch last."""
    weights = {
        name.replace("model.visual.", "vision_tower."): w.transpose(0, 2, 3, 4, 1)
        if w.ndim == 5
        else w
        for name, w in checkpoint.read(golden.folder).items()
    }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    (tmp_path / "config.json").write_bytes((golden.folder / "config.json").read_bytes())
    tower = checkpoint.load_tower(tmp_path, dtype=mx.float32)
    grid = tuple(golden["grids"][0].tolist())
    assert_close("mlx-vlm's", tower(golden["pixels.0"], grid), golden["tower.0"])


SCALE = Scale(
    patch=4,
    merged=2,
    frames=2,
    least=1024,
    most=4096,
    mean=(0.5, 0.4, 0.3),
    deviation=(0.5, 0.6, 0.7),
)


@pytest.mark.parametrize(
    "size", [(40, 40), (61, 37), (8, 90), (90, 8), (1, 1), (3, 2), (300, 200), (64, 64), (20, 52)]
)
def test_pixels_are_those_of_the_reference(size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    theirs = Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        size={"shortest_edge": 1024, "longest_edge": 4096},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )
    raw = picture(*size)
    wanted = theirs(Pillow.open(io.BytesIO(raw)), return_tensors="np")
    assert SCALE.grid(*size) == tuple(wanted["image_grid_thw"][0, 1:].tolist())
    np.testing.assert_allclose(SCALE.patches(raw), wanted["pixel_values"], atol=1e-5)


PADDED = Scale(
    patch=4,
    merged=2,
    frames=1,
    least=1,
    most=60 * 16,
    mean=(0.5, 0.4, 0.3),
    deviation=(0.5, 0.6, 0.7),
    side=12,
)


def navit_resize():
    """The reference's, out of its source, because its module wants torchvision."""
    module = "models/kimi_k25/image_processing_kimi_k25.py"
    tree = ast.parse((Path(transformers.__file__).parent / module).read_text())
    wanted = [node for node in tree.body if getattr(node, "name", "") == "navit_resize"]
    found = {"math": math}
    exec(compile(ast.Module(wanted, []), module, "exec"), found)
    return found["navit_resize"]


SIZES = [(1, 1), (3, 2), (8, 8), (9, 8), (20, 13), (31, 33), (32, 30), (45, 47), (200, 9), (9, 200)]


@pytest.mark.parametrize("size", [*SIZES, (1, 400), (333, 320), (47, 48), (48, 49)])
def test_pictures_that_are_padded(size):
    """By the reference's sizes and our own reading of how the publisher fills them."""
    raw = picture(*size)
    fitted, whole = navit_resize()(*size[::-1], 4, 2, 60, 12)
    assert PADDED.grid(*size) == (whole[0] // 4, whole[1] // 4)
    image = Pillow.open(io.BytesIO(raw)).resize(fitted[::-1], Pillow.Resampling.BICUBIC)
    beyond = [(0, all_ - part) for all_, part in zip(whole, fitted, strict=True)]
    colours = np.pad(np.asarray(image), [*beyond, (0, 0)]) / 255
    colours = (colours - PADDED.mean) / PADDED.deviation
    tokens = colours.reshape(whole[0] // 8, 2, 4, whole[1] // 8, 2, 4, 3)
    wanted = tokens.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 48)
    np.testing.assert_allclose(PADDED.patches(raw), wanted, atol=1e-5)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats(format):
    raw = picture(60, 44, format=format, mode="P" if format == "GIF" else "RGB")
    assert measure(raw) == (60, 44)
    assert SCALE.patches(raw).shape == (SCALE.grid(60, 44)[0] * SCALE.grid(60, 44)[1], 96)


def test_the_first_frame_of_a_film():
    frames = [Pillow.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    file, still = io.BytesIO(), io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(still, "PNG")
    assert (SCALE.patches(file.getvalue()) == SCALE.patches(still.getvalue())).all()


def test_a_picture_is_turned_as_its_camera_says():
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    raw = picture(60, 40, format="JPEG", exif=exif, quality=100)
    turned = io.BytesIO()
    plain = Pillow.open(io.BytesIO(raw)).transpose(Pillow.Transpose.ROTATE_270)
    plain.save(turned, "PNG", exif=b"")
    assert measure(raw) == (40, 60)
    assert (SCALE.patches(raw) == SCALE.patches(turned.getvalue())).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1"])
def test_what_shows_through_is_white(mode):
    image = Pillow.new(mode, (40, 40))  # black; with an alpha channel nothing at all
    file = io.BytesIO()
    image.save(file, "PNG")
    wanted = (1 if "A" in mode else 0) - np.array(SCALE.mean)
    found = SCALE.patches(file.getvalue()).reshape(-1, 3, 2, 4, 4)[0, :, 0, 0, 0]
    np.testing.assert_allclose(found, wanted / SCALE.deviation, rtol=1e-5)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no PNG, JPEG, WebP, GIF or BMP"),
        (b"\x89PNG\r\n\x1a\n and no more", "no PNG, JPEG, WebP, GIF or BMP"),
        (b"#!/bin/sh", "no PNG, JPEG, WebP, GIF or BMP"),
        (picture(40, 40, format="TIFF"), "no PNG, JPEG, WebP, GIF or BMP"),
        (picture(300, 300)[:5000], "damaged"),
        (picture(1, 300), "too narrow"),
    ],
    ids=["empty", "header", "script", "format", "cut", "narrow"],
)
def test_no_pictures(raw, words):
    with pytest.raises(FormatError, match=words):
        SCALE.patches(raw)


def test_a_picture_that_says_it_is_enormous():
    raw = bytearray(picture(8, 8, format="BMP"))
    raw[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(FormatError, match="more pixels than can be read"):
        measure(bytes(raw))


def test_what_a_checkpoint_says_of_pictures(golden, tmp_path):
    own = {"patch": 4, "merged": 2, "frames": 2}
    assert Scale.of(tmp_path, **own).most == 16_777_216
    said = {"size": {"shortest_edge": 64, "longest_edge": 640}, "image_mean": [0.1, 0.2, 0.3]}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(said))
    found = Scale.of(tmp_path, **own)
    assert (found.least, found.most, found.mean[2]) == (64, 640, 0.3)
    file.write_text(json.dumps({"patch_size": 14}))
    with pytest.raises(FormatError, match="patches that are not those"):
        Scale.of(tmp_path, **own)
    for least, most, last in [(640, 64, 0.5), (64, 1 << 40, 0.5), (-1, -1, 0.5), (64, 640, 0)]:
        size = {"shortest_edge": least, "longest_edge": most}
        file.write_text(json.dumps({"size": size, "image_std": [0.5, 0.5, last]}))
        with pytest.raises(FormatError, match="leaves no size"):
            Scale.of(tmp_path, **own)
    file.write_text('{"size": 3}')
    with pytest.raises(FormatError, match="does not say how pictures are read"):
        Scale.of(tmp_path, **own)


@pytest.mark.parametrize(
    "said",
    [
        {"media_proc_cfg": {"in_patch_limit": 60, "patch_limit_on_one_side": 12}},
        {"max_patches": 60, "size": {"max_height": 12, "max_width": 12}, "merge_size": 2},
    ],
    ids=["publisher", "transformers"],
)
def test_what_a_checkpoint_says_of_pictures_that_are_padded(said, tmp_path):
    own = {"patch": 14, "merged": 2, "frames": 1, "side": 512}
    found = Scale.of(tmp_path, **own)
    assert (found.most, found.side, found.mean) == (16_384 * 196, 512, (0.5, 0.5, 0.5))
    assert found.tokens(100_000, 60_000) == (50, 83)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(said))
    found = Scale.of(tmp_path, **own)
    assert (found.most, found.side) == (60 * 196, 12)
    file.write_text(json.dumps({"media_proc_cfg": {"fixed_output_tokens": 64}}))
    with pytest.raises(FormatError, match="fixed_output_tokens"):
        Scale.of(tmp_path, **own)


def test_a_picture_from_its_file_to_logits(golden, tmp_path):
    """Where the tokens have one for each picture, as chat templates write it."""
    folder = shutil.copytree(golden.folder, tmp_path / "model")
    small = {"size": {"shortest_edge": 256, "longest_edge": 2048}}
    (folder / "preprocessor_config.json").write_text(json.dumps(small))
    sight = Sight(folder, dtype=mx.float32)
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    for seed, file in enumerate(files):
        file.write_bytes(picture(90, 50, seed=seed))
    pictures = [sight.look(file) for file in files]
    assert [(each.width, each.height) for each in pictures] == [(90, 50)] * 2
    tokens, images = sight.place([5, 122, 120, 123, 6, 122, 120, 123, 9], pictures)
    assert tokens.count(120) == sum(each.tokens for each in pictures)
    logits = golden.model(mx.array([tokens]), images=images)
    again = golden.model(mx.array([tokens]), images=sight.place([5, 120, 120], pictures)[1])
    assert logits.shape == (1, len(tokens), 131)
    assert not mx.allclose(logits, again)
    with pytest.raises(FormatError, match="1 places for 2 pictures"):
        sight.place([120], pictures)


def test_names_tell_pictures_apart():
    def named(*names):
        places = [Image(name, 2 + 9 * i, 2, 3, None) for i, name in enumerate(names)]
        return Images(places).named([4, 5, *[120] * 6, 6, 7, 8, *[120] * 6, 9])

    assert named("a", "b") == named("a", "b")
    assert named("a", "b")[:8] == named("a", "c")[:8]
    first, other = named("a", "b"), named("b", "b")
    assert first[:2] == other[:2] == [4, 5]
    assert all(x < 0 and x != y for x, y in zip(first[2:8], other[2:8], strict=True))
    assert first[8:] == other[8:]


@pytest.mark.parametrize(
    ("kind", "tower", "words"),
    [
        ("qwen3_5", None, "its checkpoint has no vision tower"),
        ("step3p7", "vision_tower.norm.weight", "its vision tower is not ported yet"),
        ("qwen3_5", "model.visual.pos_embed.weight", "hidden_size is 'wide' in config.json"),
        ("kimi_k25", None, "its checkpoint has no vision tower"),
    ],
)
def test_models_that_do_not_see(kind, tower, words, tmp_path):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {tower or "model.x": mx.zeros(3)})
    raw = {"model_type": kind, "vision_config": {"hidden_size": "wide"}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=words):
        Sight(tmp_path)
