"""Routers, experts and their sum against their naive twins."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from close import assert_close, relative
from twins import LENGTHS, LIMIT, by_row, inputs, matrices, randomised

from mlxarch.blocks.mlp import SwiGLU
from mlxarch.blocks.moe import GatedExpert, MoE, SigmoidRouter, SoftmaxRouter
from mlxarch.models.step35 import clamped
from mlxarch.naive import moe

DIM, HIDDEN, EXPERTS, TOP_K = 20, 9, 12, 3
GROUPS = {
    "no groups": {},
    "two of four groups": {"groups": 4, "group_top_k": 2},
    "one of two groups": {"groups": 2, "group_top_k": 1},
    "all groups": {"groups": 3, "group_top_k": 3},
    "groups of one": {"groups": 12, "group_top_k": 5},
}
# Some scores are above zero with their bias, or all, or none.
PUSHES = {"mixed": 0.0, "positive": 2.0, "negative": -3.0}


def tokens(x):
    return np.array(x.astype(mx.float32), dtype=np.float64).reshape(-1, DIM)


def assert_routed_alike(router, twin, x):
    """The same experts, in whatever order, with the same weights."""
    chosen, weights = (np.array(t).reshape(-1, TOP_K) for t in router(x))
    for token, experts, found in zip(tokens(x), chosen, weights, strict=True):
        wanted = twin(token)
        assert set(experts) == set(wanted)
        np.testing.assert_allclose(found, [wanted[e] for e in experts], rtol=2e-6)


def sigmoid_twin(router, **choices):
    gate, bias = matrices(router)["gate"], matrices(router)["bias"]
    return partial(moe.sigmoid_route, gate=gate, bias=bias, top_k=TOP_K, **choices)


@pytest.mark.parametrize("push", PUSHES)
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("rest", [{}, {"scale": 2.5, "normalize": False}], ids=["", "raw"])
def test_sigmoid_router_is_its_twin(groups, push, rest):
    choices = {**GROUPS[groups], **rest}
    router = randomised(SigmoidRouter(DIM, EXPERTS, TOP_K, **choices), seed=1)
    router.bias = router.bias + PUSHES[push]
    assert_routed_alike(router, sigmoid_twin(router, **choices), inputs(65, DIM))


@pytest.mark.parametrize("normalize", [True, False])
def test_softmax_router_is_its_twin(normalize):
    router = randomised(SoftmaxRouter(DIM, EXPERTS, TOP_K, normalize=normalize), seed=2)
    twin = partial(
        moe.softmax_route, gate=matrices(router)["gate"], top_k=TOP_K, normalize=normalize
    )
    assert_routed_alike(router, twin, inputs(65, DIM))


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_routers_score_in_float32_whatever_the_weights_are(kind):
    router = {"sigmoid": SigmoidRouter, "softmax": SoftmaxRouter}[kind](DIM, EXPERTS, TOP_K)
    randomised(router, seed=3).set_dtype(mx.bfloat16)
    twin = (
        sigmoid_twin(router)
        if kind == "sigmoid"
        else partial(moe.softmax_route, gate=matrices(router)["gate"], top_k=TOP_K)
    )
    assert_routed_alike(router, twin, inputs(65, DIM).astype(mx.bfloat16))


def network(weights, path, twin, **more):
    """A feed-forward's twin with the weights that lie under a path."""
    mine = {k.removeprefix(path): w for k, w in weights.items() if k.startswith(path)}
    return partial(twin, weights=mine, **more)


def experts(block, **more):
    weights = matrices(block)
    stacked = {k: w for k, w in weights.items() if k.startswith("experts.")}
    return [
        network({k: w[e] for k, w in stacked.items()}, "experts.", moe.clamped_swiglu, **more)
        for e in range(EXPERTS)
    ]


@pytest.mark.parametrize("length", LENGTHS)
def test_experts_chosen_by_sigmoid_are_their_twin(length):
    choices = {"groups": 4, "group_top_k": 2, "scale": 2.5}
    router = SigmoidRouter(DIM, EXPERTS, TOP_K, **choices)
    block = MoE(DIM, HIDDEN, EXPERTS, router=router, shared=SwiGLU(DIM, HIDDEN))
    randomised(block, seed=length)
    route, x = sigmoid_twin(router, **choices), inputs(length, DIM)
    shared, routed = network(matrices(block), "shared.", moe.clamped_swiglu), experts(block)
    wanted = by_row(lambda row: [moe.moe(t, route(t), routed, shared) for t in row], x)
    assert_close("experts", block(x), wanted, LIMIT)


@pytest.mark.parametrize("length", LENGTHS)
def test_experts_beside_a_gated_one_are_their_twin(length):
    router = SoftmaxRouter(DIM, EXPERTS, TOP_K)
    block = MoE(DIM, HIDDEN, EXPERTS, router=router, shared=GatedExpert(DIM, 2 * HIDDEN))
    randomised(block, seed=length)
    route = partial(moe.softmax_route, gate=matrices(router)["gate"], top_k=TOP_K)
    shared, routed = network(matrices(block), "shared.", moe.gated_expert), experts(block)
    x = inputs(length, DIM)
    wanted = by_row(lambda row: [moe.moe(t, route(t), routed, shared) for t in row], x)
    assert_close("experts", block(x), wanted, LIMIT)


def test_clamped_experts_are_their_twin():
    """The limits of the routed and the shared ones differ, and each binds."""
    activation, limits = clamped(0.4), {"limit": 0.4}
    router = SigmoidRouter(DIM, EXPERTS, TOP_K)
    shared = SwiGLU(DIM, HIDDEN, activation=clamped(0.9))
    block = MoE(DIM, HIDDEN, EXPERTS, router=router, shared=shared, activation=activation)
    x, route = inputs(65, DIM), sigmoid_twin(randomised(block, seed=4).router)

    def twin(shared_limit, **more):
        shared = network(matrices(block), "shared.", moe.clamped_swiglu, limit=shared_limit)
        routed = experts(block, **more)
        return by_row(lambda row: [moe.moe(t, route(t), routed, shared) for t in row], x)

    assert_close("clamped", block(x), twin(0.9, **limits), LIMIT)
    assert relative(block(x), twin(0.9)) > 0.01
    assert relative(block(x), twin(np.inf, **limits)) > 0.01


def test_without_a_shared_expert_there_are_the_chosen_ones_only():
    router = SigmoidRouter(DIM, EXPERTS, TOP_K)
    block = randomised(MoE(DIM, HIDDEN, EXPERTS, router=router), seed=5)
    x, route, routed = inputs(33, DIM), sigmoid_twin(router), experts(block)
    wanted = by_row(lambda row: [moe.moe(t, route(t), routed, np.zeros_like) for t in row], x)
    assert_close("chosen only", block(x), wanted, LIMIT)


def test_what_comes_out_is_of_the_type_that_went_in():
    router = SoftmaxRouter(DIM, EXPERTS, TOP_K)
    block = MoE(DIM, HIDDEN, EXPERTS, router=router, shared=GatedExpert(DIM, HIDDEN))
    block.set_dtype(mx.bfloat16)
    assert block(inputs(2, DIM).astype(mx.bfloat16)).dtype == mx.bfloat16
