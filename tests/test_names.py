"""Rules over names: both ways, and nothing lost that nobody spoke of."""

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxarch import checkpoint, registry
from mlxarch.names import rules
from mlxarch.names.rules import Drop, Rename

LAYER = Rename("model.layers.{i}.self_attn.{}", "layers.{i}.mixer.{}")


def port(golden):
    """The tables of a checkpoint's architecture, and its config."""
    found = registry.find(golden.config())
    return found.names, found.model.Config.from_hub(golden.config())


def test_rename_keeps_the_number_and_the_rest():
    assert LAYER.rename("model.layers.17.self_attn.q_proj.bias") == "layers.17.mixer.q_proj.bias"


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.17.mlp.up_proj.weight",
        "model.layers.x.self_attn.q_proj.weight",
        "model.layers.17.self_attn.",
        "model.layers.17.self_attn",
        "language_model.model.layers.17.self_attn.q_proj.weight",
        "model_layers.17.self_attn.q_proj.weight",
    ],
)
def test_rename_speaks_of_whole_names_only(name):
    assert LAYER.rename(name) is None
    assert rules.rename([LAYER], name) == name


def test_a_rename_without_a_rest_ends_where_the_name_does():
    rule = Rename("model.layers.{i}.bias", "layers.{i}.shift")
    assert rule.rename("model.layers.3.bias") == "layers.3.shift"
    assert rule.rename("model.layers.3.bias_scale") is None


@given(i=st.integers(0, 999), rest=st.text(st.characters(exclude_characters="\n"), min_size=1))
def test_rename_can_be_read_backwards(i, rest):
    name = f"model.layers.{i}.self_attn.{rest}"
    renamed = LAYER.rename(name)
    assert renamed == f"layers.{i}.mixer.{rest}"
    assert LAYER.inverse().rename(renamed) == name
    assert LAYER.inverse().inverse() == LAYER


def test_the_first_rename_that_fits_is_the_only_one():
    table = [Rename("a.{}", "b.{}"), Rename("b.{}", "c.{}"), Rename("a.x", "d")]
    assert rules.rename(table, "a.x") == "b.x"


def test_drop_takes_what_matches_and_leaves_the_rest():
    weights = {"a.rotary_emb.inv_freq": mx.zeros(1), "a.rotary_emb.inv_freqs": mx.ones(1)}
    rule = Drop(r"\.rotary_emb\.inv_freq$", why="recomputed")
    assert list(rules.apply([rule], weights)) == ["a.rotary_emb.inv_freqs"]
    assert len(weights) == 2, "the checkpoint that was given is not changed"


def test_rules_apply_in_order():
    weights = {"a": mx.zeros(1), "b": mx.ones(1)}
    drops = [Drop("^a$", why="first"), Drop("^c$", why="absent")]
    assert list(rules.apply(drops, weights)) == ["b"]


def test_tables_name_every_tensor_of_the_hub_and_back(golden):
    names, config = port(golden)
    table = names.table(config)
    hub = checkpoint.read(golden.folder)
    ours = {rules.rename(table, name): name for name in hub}
    assert ours.keys() == checkpoint.parameters(checkpoint.assemble(golden.config(), hub)).keys()
    assert all(rules.rename(rules.inverse(table), path) == name for path, name in ours.items())


def test_tables_leave_unknown_names_alone(golden):
    names, config = port(golden)
    unknown = {"model.vision.weight": mx.zeros(1), "model.layers.0.new.weight": mx.ones(1)}
    kept = rules.apply(names.from_hub(config), unknown)
    assert kept.keys() == unknown.keys()
    assert [rules.rename(names.table(config), name) for name in kept] == list(unknown)


def test_rules_do_nothing_to_what_they_have_done(golden):
    names, config = port(golden)
    once = rules.apply(names.from_hub(config), checkpoint.read(golden.folder))
    assert rules.apply(names.from_hub(config), once).keys() == once.keys()
