"""Single tokens whose graph MLX replays, as on Metal and CUDA, against those that Python builds."""

import copy
import gc
import pickle
import weakref

import mlx.core as mx
import pytest
from close import assert_close
from tiny_configs import CONFIGS, model

from mlxarch import backend
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.replay import _Replay
from mlxarch.rollback import drafting, step_back


@pytest.fixture(autouse=True)
def metal(monkeypatch):
    """The layers are told that they are not on a CPU, which computes all the same."""
    monkeypatch.setattr(backend, "device", lambda: "Metal")


def replays(module):
    return sum(
        isinstance(value, _Replay) and value._recorded is not None
        for part in module.modules()
        for value in vars(part).values()
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_tokens_one_by_one_are_those_at_once(family):
    made = model(family)
    ids = mx.random.randint(0, 61, (1, 24), key=mx.random.key(1))
    wanted, cache = made(ids), made.make_cache()
    assert replays(made) == 0
    parts = [made(ids[:, :17], cache), *(made(ids[:, i : i + 1], cache) for i in range(17, 21))]
    with drafting(cache):
        parts.append(made(ids[:, 21:22], cache))
    with drafting(cache):
        parts.append(made(mx.concatenate([ids[:, 22:23], ids[:, :1]], axis=1), cache)[:, :1])
    step_back(cache, 1)
    parts.append(made(ids[:, 23:], cache))
    assert replays(made) >= 2 * len(made.layers)
    assert_close("one by one", mx.concatenate(parts, axis=1), wanted, 1e-4)


def test_new_weights_are_used_at_once():
    made, x = SwiGLU(8, 6), mx.random.normal((1, 1, 8))
    before = made(x)
    made.update({"down_proj": {"weight": 2 * made.down_proj.weight}})
    assert replays(made) == 1
    assert_close("twice the weights", made(x), 2 * before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_has_weights_of_its_own(again):
    made, x = SwiGLU(8, 6), mx.random.normal((1, 1, 8))
    before = made(x)
    other = again(made)
    other.update({"down_proj": {"weight": 2 * made.down_proj.weight}})
    assert_close("the copy", other(x), 2 * before)
    assert_close("the first", made(x), before)


def test_a_model_that_nobody_needs_is_gone():
    made = SwiGLU(8, 6)
    mx.eval(made(mx.random.normal((1, 1, 8))))
    left = weakref.ref(made)
    del made
    gc.collect()
    assert left() is None


def test_gradients_go_through_it():
    made, x = SwiGLU(8, 6), mx.random.normal((1, 1, 8))
    wanted = mx.grad(lambda x: made(mx.concatenate([x, x], axis=1))[:, :1].sum())(x)
    assert_close("gradient", mx.grad(lambda x: made(x).sum())(x), wanted)


def test_a_cpu_replays_nothing(monkeypatch):
    monkeypatch.setattr(backend, "device", lambda: "CPU")
    made = SwiGLU(8, 6)
    made(mx.random.normal((1, 1, 8)))
    assert replays(made) == 0
