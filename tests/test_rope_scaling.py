"""Stretched RoPE against its naive twin: frequencies, rotations, sizes."""

import math

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close

from mlxarch import ConfigError
from mlxarch.blocks.rope import Rope, magnitude, softmax_factor
from mlxarch.naive import rope as naive
from mlxarch.naive import rope_scaling

# Step 3.5 Flash's full layers, and Llama 3.1.
LLAMA3 = {
    "step": (
        64,
        5e6,
        {
            "rope_type": "llama3",
            "factor": 2.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 32.0,
            "original_max_position_embeddings": 131072,
        },
    ),
    "llama": (
        128,
        5e5,
        {
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
}
# Kimi K2.5; DeepSeek V3; others' turns; a ramp that the first or last pair cuts off.
YARN = {
    "kimi": (64, 5e4, {"factor": 64.0, "original_max_position_embeddings": 4096}),
    "deepseek": (64, 1e4, {"factor": 40.0, "original_max_position_embeddings": 4096}),
    "turns": (
        32,
        1e6,
        {
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "beta_fast": 16,
            "beta_slow": 2,
        },
    ),
    "not truncated": (
        32,
        1e5,
        {"factor": 4.0, "original_max_position_embeddings": 4096, "truncate": False},
    ),
    "begins early": (16, 1e4, {"factor": 8.0, "original_max_position_embeddings": 128}),
    "ends late": (16, 1e1, {"factor": 8.0, "original_max_position_embeddings": 900}),
}


def turning(rope, dims):
    """Radians a token of each pair: where a vector along its first feature points at position 1."""
    out = np.array(rope(mx.eye(dims)[:, None], offset=1)[:, 0], dtype=np.float64)
    pairs = range(dims // 2)
    return [math.atan2(out[i, i + dims // 2], out[i, i]) for i in pairs]


@pytest.mark.parametrize("name", LLAMA3)
def test_llama3_is_its_twin(name):
    dims, base, scaling = LLAMA3[name]
    wanted = [rope_scaling.llama3(base ** (-2 * i / dims), scaling) for i in range(dims // 2)]
    np.testing.assert_allclose(turning(Rope(dims, base, scaling=scaling), dims), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", YARN)
def test_yarn_is_its_twin(name):
    dims, base, scaling = YARN[name]
    wanted = [rope_scaling.yarn(i, dims, base, scaling) for i in range(dims // 2)]
    rope = Rope(dims, base, scaling={"rope_type": "yarn", **scaling})
    np.testing.assert_allclose(turning(rope, dims), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", [*LLAMA3, *YARN])
def test_stretching_slows_some_pairs_by_the_factor_and_keeps_some(name):
    """Else the tests above would hold for no stretching, or for the same of all."""
    dims, base, scaling = (LLAMA3 | YARN)[name]
    rope = Rope(dims, base, scaling={"rope_type": "yarn", **scaling})
    slower = np.array(turning(Rope(dims, base), dims)) / turning(rope, dims)
    assert slower.max() > 1.01
    assert slower.max() < scaling["factor"] * 1.001
    assert slower.min() < slower.max()


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("start", [0, 3, 1000])
def test_a_stretched_rotation_is_its_twin(interleaved, start):
    """Of the first features only, pair by pair, and longer by what yarn asks for."""
    dims, base, scaling = 12, 5e4, {"factor": 8.0, "original_max_position_embeddings": 512}
    rope = Rope(dims, base, interleaved=interleaved, scaling={"type": "yarn", **scaling})
    x = mx.random.normal((2, 3, 65, 20), key=mx.random.key(start))
    wanted = np.array(x, dtype=np.float64)
    for pair in range(dims // 2):
        both = [2 * pair, 2 * pair + 1] if interleaved else [pair, pair + dims // 2]
        angle = rope_scaling.yarn(pair, dims, base, scaling)
        for t in range(65):
            for head in np.ndindex(2, 3):
                turned = naive.rotate(wanted[*head, t, both], (start + t) * angle, base)
                wanted[*head, t, both] = turned * (0.1 * math.log(8) + 1)
    # An angle of 1000 radians is known to 6e-5 in float32.
    assert_close("rotation", rope(x, offset=start), wanted, 1e-5 if start < 1000 else 1e-4)


def test_without_scaling_nothing_is_stretched():
    x = mx.random.normal((1, 2, 9, 10))
    plain = Rope(10, 3e4)(x)
    for scaling in ({}, {"rope_type": "default", "rope_theta": 3e4}, {"type": "default"}):
        assert mx.array_equal(Rope(10, 3e4, scaling=scaling)(x), plain)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, 0.1 * math.log(40) + 1),
        ({"factor": 1.0}, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.707, "mscale_all_dim": 0}, 0.1 * math.log(40) + 1),
        (
            {"mscale": 0.707, "mscale_all_dim": 1.0},
            (0.0707 * math.log(40) + 1) / (0.1 * math.log(40) + 1),
        ),
        ({"attention_factor": 1.25, "mscale": 1.0, "mscale_all_dim": 1.0}, 1.25),
    ],
)
def test_yarn_lengthens_what_it_rotates(more, wanted):
    scaling = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, **more}
    assert magnitude(scaling) == pytest.approx(wanted, rel=1e-12)
    x = mx.random.normal((1, 1, 5, 16))
    longer = mx.linalg.norm(Rope(16, 1e4, scaling=scaling)(x)) / mx.linalg.norm(x)
    assert longer.item() == pytest.approx(wanted, rel=1e-5)


def test_yarn_sharpens_latent_attention_by_mscale_all_dim_squared():
    """Kimi K2.5: 2.0047 times."""
    kimi = {"type": "yarn", "factor": 64.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    assert softmax_factor(kimi) == pytest.approx((0.1 * math.log(64) + 1) ** 2, rel=1e-12)
    assert softmax_factor(kimi) == pytest.approx(2.0047, abs=1e-4)
    for plain in (None, {}, {"rope_type": "default"}, {"type": "yarn", "factor": 64.0}):
        assert softmax_factor(plain) == 1.0


def test_a_kind_of_scaling_that_is_not_ported_is_refused():
    with pytest.raises(ConfigError, match="rope_type is 'longrope'; ported are default, llama3"):
        Rope(8, 1e4, scaling={"rope_type": "longrope"})


SOME_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SOME_LLAMA3 = {**SOME_YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ({"rope_type": "yarn"}, "factor is None beside rope_type; a number above 0 is wanted"),
        ({**SOME_YARN, "factor": "4"}, "factor is '4'"),
        ({**SOME_YARN, "factor": math.inf}, "factor is inf"),
        ({**SOME_YARN, "original_max_position_embeddings": 0}, "position_embeddings is 0"),
        ({**SOME_YARN, "beta_fast": -1}, "beta_fast is -1"),
        ({**SOME_YARN, "attention_factor": True}, "attention_factor is True"),
        ({**SOME_YARN, "mscale": "1", "mscale_all_dim": 1.0}, "mscale is '1'"),
        ({**SOME_LLAMA3, "high_freq_factor": None}, "high_freq_factor is None"),
        ({**SOME_LLAMA3, "low_freq_factor": 4.0}, r"low_freq_factor is 4\.0; less than 4\.0 is"),
    ],
)
def test_numbers_that_stretch_nothing_are_named(scaling, said):
    for plain in (SOME_YARN, SOME_LLAMA3):
        Rope(8, 1e4, scaling=plain)
    with pytest.raises(ConfigError, match=said):
        Rope(8, 1e4, scaling=scaling)


@pytest.mark.parametrize(
    ("dims", "base", "said"),
    [
        (8, 1.0, r"rope_theta is 1\.0; a number above 1"),
        (8, math.inf, "rope_theta is inf"),
        (7, 1e4, "rotate 7 features; an even number"),
        (0, 1e4, "rotate 0 features"),
    ],
)
def test_a_rotation_of_nothing_is_refused(dims, base, said):
    with pytest.raises(ConfigError, match=said):
        Rope(dims, base)
