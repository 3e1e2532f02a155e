"""Where the CPU's own kernels are put in, and where all is left to MLX."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny
from close import assert_close
from quickened import FORMATS, LIMIT, any_size, packed, pairs, quick, random
from tiny_configs import build, model

from mlxarch import backend, kernels
from mlxarch.app.engine.protocol import Load, Loading
from mlxarch.app.engine.worker import Worker
from mlxarch.blocks.mlp import SwiGLU
from mlxarch.kernels import blas, crew, matrices
from mlxarch.kernels.vectors import FORMS

pytestmark = pytest.mark.usefixtures(any_size.__name__)
MANY = matrices.FEW + 3
EIGHT_BITS = FORMS.index(("affine", 8, 64))


def test_new_weights_are_used_at_once():
    _, linear = pairs(lambda: nn.Linear(8, 8, bias=False))
    x = random(1, 8)
    linear(x)
    linear.load_weights([("weight", mx.eye(8))])
    assert_close("new weights", linear(x), x, LIMIT)


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 8), lambda: nn.RMSNorm(8)])
def test_other_types_and_gradients_are_left_to_mlx(make):
    theirs, ours = pairs(make)
    x = random(2, 8)
    for module in (theirs, ours):
        module.train()
    loss = lambda module: lambda x: module(x).square().sum()  # noqa: E731
    assert_close("gradient", mx.grad(loss(ours))(x), mx.grad(loss(theirs))(x), LIMIT)
    ours.eval().set_dtype(mx.bfloat16)
    assert ours(x.astype(mx.bfloat16)).dtype == mx.bfloat16


def test_mlx_lm_generates_the_same_with_it():
    from mlx_lm.generate import generate_step

    theirs, ours = build("nanbeige41"), model("nanbeige41")
    theirs.update(ours.parameters())
    backend.quicken(ours)
    prompt = mx.arange(1, 12)
    one, other = (
        [
            token
            for token, _ in generate_step(
                prompt, each, max_tokens=20, prompt_cache=each.make_cache()
            )
        ]
        for each in (theirs, ours)
    )
    assert one == other


def test_a_function_that_mlx_compiles_or_maps_is_left_to_it():
    theirs, ours = pairs(lambda: SwiGLU(40, 24))
    x = random(3, 40)
    assert_close("compiled", mx.compile(ours)(x), theirs(x), LIMIT)
    assert_close("mapped", mx.vmap(ours)(x), theirs(x), LIMIT)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_other_types_are_mlx_s(bits):
    form = ("affine", bits, 64)
    layer, _ = packed(128, 40, form, bias=False)
    layer.set_dtype(mx.bfloat16)
    x = random(2, 128).astype(mx.bfloat16)
    theirs = nn.QuantizedLinear(128, 40, bias=False, group_size=64, bits=bits)
    theirs.update(layer.parameters())
    assert layer(x).dtype == mx.bfloat16
    assert mx.array_equal(layer(x), theirs(x))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_computes_the_same(again):
    layer, _ = packed(128, 40, FORMATS[0], bias=False)
    x = random(2, 128)
    assert mx.array_equal(again(layer)(x), layer(x))


def test_a_forked_process_computes_too():
    """It has none of the threads that help its parent."""
    weight, scales = np.full((4096, 256), 3, np.uint8), np.ones((4096, 4), np.float32)
    places = [crew.address(part) for part in (weight, scales, scales)]
    table = np.array([[*places, 256, 16, 16, 4096, 0, 1, 0]])

    def product():
        out = crew.products(EIGHT_BITS, table, np.ones((1, 256), np.float32), 4096)
        return bool((out == 256 * 4).all())

    assert product()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if not child:
        os._exit(0 if product() else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_who_waits_for_kernels_to_be_built_is_told(monkeypatch, tmp_path):
    """Once: what was compiled is there now, and nothing is said of it."""
    folder = tiny.save(tmp_path)

    def remarks():
        events = []
        Worker(events.append, lambda answer: False).handle(Load(path=str(folder)))
        return {event.remark for event in events if isinstance(event, Loading)}

    assert remarks() == {""}
    monkeypatch.setattr(backend, "user_cache_path", lambda name: tmp_path / "nothing")
    assert remarks() == {"", "Building the CPU's kernels, this once"}


def test_a_model_s_formats_are_compiled_before_its_first_product(monkeypatch):
    wanted = []
    monkeypatch.setattr(kernels.packed, "part", wanted.append)
    holder = nn.Module()
    linear, rare = nn.Linear(128, 64, bias=False), nn.Linear(128, 64, bias=False)
    holder.layers = [
        nn.RMSNorm(128),
        linear.to_quantized(64, 3),
        linear.to_quantized(64, 3),
        rare.to_quantized(32, 8, mode="mxfp8"),
    ]
    backend.quicken(holder)
    assert wanted == [FORMS.index(("affine", 3, 64))]
    holder.layers.append(linear)
    backend.quicken(holder)
    assert wanted[1:] == [len(FORMS) - 1]


def test_a_format_is_compiled_once_and_for_all():
    code = "from mlxarch.kernels import packed; print(packed.part(0).cache_hits)"
    hits = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2)]
    assert hits[-1] == "1\n"


def test_what_is_compiled_is_kept_by_all_sources(tmp_path):
    """One file is compiled into another, and numba would look at the latter only."""
    (tmp_path / "vectors.py").write_text("LANES = 16")
    (tmp_path / "packed.py").write_text("from .vectors import LANES")
    before = backend.kernels_folder(tmp_path)
    assert backend.kernels_folder(tmp_path) == before
    (tmp_path / "vectors.py").write_text("LANES = 8")
    assert backend.kernels_folder(tmp_path) != before


def test_threads_compute_at_once():
    layer, dense = packed(1024, 600, FORMATS[0], bias=False)
    mx.eval(layer.parameters())
    xs = [random(rows, 1024, seed=rows) for rows in (1, 4, MANY, 2)]
    mx.eval(xs)
    found = [None] * len(xs)

    def compute(i):
        for _ in range(5):
            found[i] = np.array(layer(xs[i]))

    threads = [threading.Thread(target=compute, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, got in zip(xs, found, strict=True):
        assert_close("thread", got, np.array(x) @ dense.T, LIMIT)


def test_who_hands_out_work_takes_part_in_it(monkeypatch):
    monkeypatch.setattr(backend, "cores", lambda: 2)
    meet, main, busy = threading.Barrier(2), threading.current_thread(), []

    def task(i):
        meet.wait(10)  # both are at it
        busy.append(threading.current_thread())
        if busy[-1] is not main:
            raise KeyError(i)

    with pytest.raises(KeyError):
        blas.each(task, 2, 1)
    assert len(set(busy)) == 2
    assert main in busy
    seen = []
    blas.each(seen.append, 100, 1)
    assert sorted(seen) == list(range(100))


def test_nothing_changes_on_another_device(monkeypatch):
    monkeypatch.setattr(backend, "device", lambda: "Metal")
    assert type(quick(nn.Linear(4, 4))) is nn.Linear


def test_without_numba_mlx_computes_and_one_line_says_so():
    code = """
import sys
sys.modules["numba"] = None
import mlx.nn as nn
from mlxarch import backend
for _ in range(2):
    model = nn.Sequential(nn.Linear(4, 4))
    backend.quicken(model)
    assert type(model.layers[0]) is nn.Linear
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("The CPU's kernels cannot be built (")
    assert "numba" in line
    assert done.stdout == ""
