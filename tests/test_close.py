"""The layer report is what a failing port is repaired with, so it must name the right layer."""

import re

import mlx.core as mx
import pytest
from close import assert_close, layer_report, recording, relative
from goldens import Golden

import mlxarch


@pytest.fixture
def model(golden):
    """A model of its own for each test, to be broken."""
    return mlxarch.load(golden.folder, dtype=mx.float32)


def lines(report, verdict):
    return [line.split()[1] for line in report.splitlines() if line.startswith(verdict)]


def test_a_sound_model_has_nothing_to_report(model, golden):
    report = layer_report(model, golden)
    assert lines(report, "[DIFF]") == lines(report, "[NONE]") == []
    assert {"embed", "layers.0.mixer", "layers.0.mlp", "layers.0", "norm", "logits"} <= set(
        lines(report, "[OK]")
    )


@pytest.mark.parametrize("part", ["mixer", "mlp"])
def test_the_first_difference_is_the_broken_part(model, golden, part):
    for path, module in getattr(model.layers[1], part).named_modules():
        # Attention's way out and a recurrent layer's, and those of all experts.
        if path.split(".")[-1] in ("o_proj", "out_proj", "up_proj"):
            module.weight = module.weight * 1.01
    report = layer_report(model, golden)
    assert lines(report, "[DIFF]")[0] == f"layers.1.{part}"
    assert f"layers.0.{part}" in lines(report, "[OK]")


def test_a_layer_that_forgets_is_found(model, golden, monkeypatch):
    forgetful = model.layers[1].mixer
    call = type(forgetful).__call__

    def called(self, x, mask, cache):
        # Others go by its cache too: masks are made from it.
        out = call(self, x, mask, cache)
        if self is not forgetful or cache is None:
            return out
        empty = self.make_cache()
        return call(self, x, self.make_mask(x, empty), empty)

    monkeypatch.setattr(type(forgetful), "__call__", called)
    found = lines(layer_report(model, golden), "[DIFF]")
    assert found == []
    found = lines(layer_report(model, golden, cuts=[20, 29]), "[DIFF]")
    assert found[0] == "layers.1.mixer"


def test_a_broken_scale_of_the_logits_is_the_only_difference(model, golden):
    model.logit_scale *= 1.01
    assert lines(layer_report(model, golden), "[DIFF]") == ["logits"]


def test_a_part_that_is_not_there_is_said(model, golden):
    more = Golden(golden.name)
    more.arrays["trace.layers.0.gate"] = golden["trace.layers.0"]
    assert lines(layer_report(model, more), "[NONE]") == ["layers.0.gate"]


def test_recording_leaves_no_trace(model):
    tokens = mx.array([[3, 4]])
    with recording(model) as first:
        model(tokens)
    seen = dict(first)
    model(mx.array([[5, 6]]))
    assert first.keys() == seen.keys()
    assert all(first[path] is seen[path] for path in seen)


def test_a_failure_shows_the_error_and_the_report():
    said = re.escape("logits: off by 5.0e-01; 1e-04 is allowed.\nlayers")
    with pytest.raises(AssertionError, match=said):
        assert_close("logits", [[1.5, 0.0]], [[1.0, 0.0]], report=lambda: "layers")


def test_not_a_number_is_never_close():
    assert relative([[float("nan"), 1.0]], [[1.0, 1.0]]) == float("inf")
