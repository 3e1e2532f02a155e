"""Recipes beside mlx-lm's own choice: sizes of the released models, and what tiny ones lose."""

from functools import cache

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from recipes import in_mlx_lm_s_spelling, real_shapes
from test_mlx_lm import UNGROUPED, WIDE, save
from test_released_configs import RELEASED, config
from tiny_configs import CONFIGS, build, model

from mlxarch.convert import settings
from mlxarch.quantize.recipes import ROOM, Recipe, candidate
from mlxarch.quantize.scheme import Scheme

FAMILIES = [name for name in CONFIGS if name != "glm5 shared"]
# Tiny, and wide enough for groups of 32: in real ones, what is fragile is nearly nothing.
BASE = "4g32"


def wide(family):
    changes = WIDE | UNGROUPED.get(family, {})
    return {key: size for key, size in changes.items() if key in CONFIGS[family]}


@cache
def tiny_shapes(family):
    changes = wide(family)
    raw = CONFIGS[family] | changes
    architecture, weights = in_mlx_lm_s_spelling(raw, build(family, **changes))
    return architecture, {name: weight.shape for name, weight in weights.items()}


def bytes_of(weights):
    """What tensors take, floats in 16 bits."""
    return sum(w.nbytes if w.dtype in (mx.uint32, mx.uint8) else 2 * w.size for w in weights)


def quantized_by_mlx_lm(theirs, base, schemes=None):
    """A model of mlx-lm's, in place: in its own way, or in that of a recipe."""
    from mlx_lm.utils import quantize_model

    def chosen(path, module):
        scheme = schemes.scheme(f"{path}.weight", module.weight.shape)
        return False if scheme is None else scheme.entry

    layout = {"group_size": base.group_size, "bits": base.bits, "mode": base.mode}
    quantize_model(theirs, {}, **layout, quant_predicate=schemes and chosen)
    return theirs


# mlx-lm wants two more keys of the one, and the other is GLM-5 again.
WHOLE = [
    name
    for name in RELEASED
    if name not in ("Qwen__Qwen3-Coder-Next.partial", "zai-org__GLM-5-FP8")
]


@pytest.mark.parametrize("name", WHOLE)
def test_sizes_of_the_released_models_are_within_bounds_of_mlx_lm_s(name):
    from mlx_lm.utils import _get_classes

    raw = config(name)
    kind, arguments = _get_classes(config=raw)
    theirs = quantized_by_mlx_lm(kind(arguments.from_dict(raw)), Scheme())
    size = bytes_of(weight for _, weight in tree_flatten(theirs.parameters()))
    architecture, shapes = real_shapes(name)
    fitted = {recipe: Recipe(recipe).fit(architecture, shapes).bytes(shapes) for recipe in ROOM}
    assert fitted["uniform"] == size
    assert size < fitted["default"] < 1.01 * size
    assert 1.02 * size < fitted["mixed"] < 1.1 * size


@pytest.mark.parametrize("base", ["2", "3g32", "6", "8", "mxfp4", "mxfp8", "nvfp4"])
@pytest.mark.parametrize("name", ["arcee-ai__Trinity-Mini", "Qwen__Qwen3.5-0.8B"])
def test_nothing_gets_less_than_mlx_lm_would_give_it(name, base):
    architecture, shapes = real_shapes(name)
    least = candidate(f"uniform:{base}").fit(architecture, shapes)
    for recipe in ("default", "mixed"):
        schemes = candidate(f"{recipe}:{base}").fit(architecture, shapes)
        for tensor, shape in shapes.items():
            theirs, ours = least.scheme(tensor, shape), schemes.scheme(tensor, shape)
            if ours is not None:
                assert theirs is not None
                assert ours.bits >= theirs.bits
        size = schemes.bytes(shapes) / least.bytes(shapes)
        assert size <= 1 + ROOM[recipe]


def divergence(exact, other):
    """KL of two sets of logits, mean over positions."""
    p, q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (exact, other))
    return float((mx.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_diverges_no_more_than_mlx_lm_s_default(family, tmp_path):
    """Random weights: where both give a tensor the same, only chance is left, and little of it."""
    from mlx_lm.utils import load_model

    architecture, shapes = tiny_shapes(family)
    base = Scheme.parse(BASE)
    recipe = candidate(BASE).fit(architecture, shapes)
    losses = {"mlx-lm": 0.0, "ours": 0.0}
    for seed in range(2):
        raw = CONFIGS[family] | wide(family)
        _, weights = in_mlx_lm_s_spelling(raw, model(family, seed, **wide(family)))
        folder = save(tmp_path / str(seed), settings.write(raw, [], None, None), weights)
        ids = mx.random.randint(0, raw["vocab_size"], (1, 96), key=mx.random.key(seed))
        exact = load_model(folder)[0](ids)
        for who, schemes in (("mlx-lm", None), ("ours", recipe)):
            found = quantized_by_mlx_lm(load_model(folder)[0], base, schemes)
            losses[who] += divergence(exact, found(ids))
    assert losses["ours"] <= 1.03 * losses["mlx-lm"], losses


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_is_what_mlx_lm_does_tensor_by_tensor(family, tmp_path):
    from mlx_lm.utils import load_model

    architecture, shapes = tiny_shapes(family)
    raw = CONFIGS[family] | wide(family)
    _, weights = in_mlx_lm_s_spelling(raw, build(family, **wide(family)))
    folder = save(tmp_path, settings.write(raw, [], None, None), weights)
    theirs = quantized_by_mlx_lm(load_model(folder, lazy=True)[0], Scheme.parse(BASE))
    found = dict(tree_flatten(theirs.parameters()))
    schemes = candidate(f"uniform:{BASE}").fit(architecture, shapes)
    for name, shape in shapes.items():
        scheme = schemes.scheme(name, shape)
        scales = found.get(f"{name.removesuffix('weight')}scales")
        assert (scheme is None) == (scales is None), name
        if scheme is not None:
            assert scales.shape[-1] == shape[-1] // scheme.group_size, name
            assert found[name].shape[-1] == shape[-1] * scheme.bits // 32, name
