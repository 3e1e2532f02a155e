"""Rules over names: both ways, and nothing lost that nobody spoke of."""

from itertools import chain

import mlx.core as mx
import numpy as np
import pytest
from goldens import Golden
from hypothesis import given
from hypothesis import strategies as st

from mlxarch import CheckpointError, checkpoint, registry
from mlxarch.names import rules
from mlxarch.names.rules import Absorb, Beyond, Change, Drop, Merge, Rename, Split, Stack, When, has

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


def test_a_condition_is_asked_of_all_names():
    rule = When(has(r"^hub\."), Change(r"\.norm$", lambda w: w + 1, why="less one"))
    for there, wanted in (("hub.x", 1), ("mlx.x", 0)):
        changed = rule.apply({there: mx.zeros(1), "a.norm": mx.zeros(1), "a.norms": mx.zeros(1)})
        assert {name: w.item() for name, w in changed.items()} == {
            there: 0,
            "a.norm": wanted,
            "a.norms": 0,
        }


def test_layers_past_the_last_are_heads():
    rule = Beyond("model.layers.{i}.{}", "mtp.{i}.{}", first=9)
    names = ["model.layers.8.a", "model.layers.9.a", "model.layers.11.b.c", "model.layers.10"]
    found = rule.apply({name: mx.zeros(1) for name in names})
    assert set(found) == {"model.layers.8.a", "mtp.0.a", "mtp.2.b.c", "model.layers.10"}


STACK = Stack("mlp.experts.{e}.{}", "mlp.stacked.{}", experts=12)


def experts(*numbers, shape=(2,)):
    return {f"mlp.experts.{e}.up.weight": mx.full(shape, e) for e in numbers}


def test_experts_are_stacked_by_their_numbers():
    found = STACK.apply({"a": mx.zeros(1), **experts(*reversed(range(12)))})
    assert list(found) == ["a", "mlp.stacked.up.weight"]
    assert found["mlp.stacked.up.weight"][:, 0].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (experts(*range(10)), r"mlp\.stacked\.up\.weight lacks experts \[10, 11\] of 12\."),
        (experts(*range(13)), r"mlp\.stacked\.up\.weight has experts \[12\] beyond 12\."),
        (experts(*range(12)) | experts(3, shape=(1,)), r"unlike shapes: \[\(1,\), \(2,\)\]"),
    ],
)
def test_experts_that_make_no_stack_are_named(weights, said):
    with pytest.raises(CheckpointError, match=said):
        STACK.apply(weights)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (LAYER, ["model.layers.1.self_attn.a", "layers.1.mixer.a"]),
        (STACK, [*experts(*range(12)), "mlp.stacked.up.weight"]),
        (Beyond("l.{i}.{}", "mtp.{i}.{}", first=2), ["l.2.a", "mtp.0.a"]),
        (Absorb("kv", "k", "v", heads=1, key_rows=1), ["kv", "v"]),
        (Split("ab", ("a", "b"), ((1,), (2,))), ["b", "ab"]),
        (Merge(("a", "b"), "ab", ((1,), (2,))), ["a", "b", "ab"]),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_tensor_under_two_names_is_refused(rule, names, order):
    with pytest.raises(CheckpointError, match="under two names"):
        rule.apply({name: mx.zeros((3, 2)) for name in names[::order]})


def test_a_table_refuses_a_tensor_that_has_its_new_name_already():
    weights = {"model.layers.1.self_attn.a": mx.zeros(1), "layers.1.mixer.a": mx.zeros(1)}
    with pytest.raises(CheckpointError, match=r"layers\.1\.mixer\.a is .* under two names"):
        rules.translate([LAYER], weights)


def test_what_expands_latents_is_taken_apart_head_by_head():
    heads, key_rows, value_rows, rank = 3, 4, 5, 6
    whole = mx.random.normal((heads * (key_rows + value_rows), rank))
    parts = Absorb("kv", "k", "v", heads, key_rows).apply({"kv": whole})
    expanded = np.array(whole).reshape(heads, key_rows + value_rows, rank)
    for h in range(heads):
        assert np.array_equal(parts["k"][h].T, expanded[h, :key_rows])
        assert np.array_equal(parts["v"][h], expanded[h, key_rows:])
    with pytest.raises(CheckpointError, match=r"kv has shape \[26, 6\]; .* rows for 3 heads"):
        Absorb("kv", "k", "v", heads, key_rows).apply({"kv": whole[1:]})


@st.composite
def splits(draw):
    """A rule that cuts rows, and how many there must be."""
    runs = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
    sizes = tuple(draw(st.lists(runs, min_size=2, max_size=3)))
    groups = draw(st.integers(1, 3))
    rule = Split("a.{}", tuple(f"b{n}.{{}}" for n in range(len(sizes))), sizes, groups)
    return rule, groups * sum(map(sum, sizes))


@given(split=splits(), lead=st.sampled_from([(), (2,)]))
def test_rows_are_cut_run_by_run_and_put_together_again(split, lead):
    rule, count = split
    rows = np.broadcast_to(np.arange(count)[:, None], (*lead, count, 2))
    parts = rule.apply({"a.weight": mx.array(rows), "c": mx.zeros(1)})
    # By the rule's own words: each stretch holds the runs of all parts in turn.
    wanted = [[[] for _ in sizes] for sizes in rule.sizes]
    row = 0
    for _ in range(rule.groups):
        for part, sizes in zip(wanted, rule.sizes, strict=True):
            for run, size in zip(part, sizes, strict=True):
                run += range(row, row + size)
                row += size
    for n, part in enumerate(wanted):
        own = rows[..., list(chain(*part)), :]
        assert np.array_equal(parts[f"b{n}.weight"], own)
    assert rule.inverse().inverse() == rule
    back = rule.inverse().apply(parts)
    assert back.keys() == {"a.weight", "c"}
    assert np.array_equal(back["a.weight"], rows)
    assert {rule.inverse().rename(name) for name in parts} == {"a.weight", None}


@given(split=splits())
def test_packed_rows_are_cut_exactly(split):
    rule, count = split
    weight = mx.random.normal((count, 64))
    packed = dict(zip(("weight", "scales", "biases"), mx.quantize(weight, 32, 4), strict=True))
    parts = rule.apply({f"a.{end}": part for end, part in packed.items()})
    cut = rule.apply({"a.weight": mx.dequantize(*packed.values(), 32, 4)})
    for n in range(len(rule.new)):
        ends = (parts[f"b{n}.{end}"] for end in packed)
        assert mx.array_equal(mx.dequantize(*ends, 32, 4), cut[f"b{n}.weight"])


@pytest.mark.parametrize("shape", [(7, 2), (5,)])
def test_rows_that_cannot_be_cut_are_refused(shape):
    rule = Split("a.{}", ("b.{}", "c.{}"), ((2, 2), (1,)))
    with pytest.raises(CheckpointError, match=r"a\.weight has shape .*; .* makes it 5 rows\."):
        rule.apply({"a.weight": mx.zeros(shape)})


def test_hub_to_mlx_lm_to_ours_and_back(golden):
    names, config = port(golden)
    table, raw, hub = names.table(config), golden.config(), checkpoint.read(golden.folder)
    mlx = checkpoint.as_mlx(raw, hub)
    ours = rules.translate(table, mlx)
    assert ours.keys() == checkpoint.parameters(checkpoint.assemble(raw, hub)).keys()
    back = rules.translate(rules.inverse(table), ours)
    assert back.keys() == mlx.keys()
    assert all(mx.array_equal(back[name], mlx[name]) for name in mlx)
    # By these names errors speak of a tensor, and config.json of a layer's bits.
    assert {rules.rename(rules.inverse(table), path) for path in ours} == mlx.keys()


def test_tables_lose_no_name_that_they_do_not_know(golden):
    names, config = port(golden)
    unknown = {f"{path}.new.weight": mx.zeros(1) for path in ("tower", "model", "model.layers.0")}
    kept = rules.apply(names.from_hub(config), unknown)
    # Qwen 3.5 finds "model" inside "language_model".
    for name, path in zip(unknown, kept, strict=True):
        assert path.endswith(name)
        assert rules.rename(names.table(config), path) == path


def test_what_is_in_mlx_lm_s_spelling_is_not_changed_again(golden):
    """No norm gets its one twice."""
    raw = golden.config()
    once = checkpoint.as_mlx(raw, checkpoint.read(golden.folder))
    twice = checkpoint.as_mlx(raw, once)
    assert twice.keys() == once.keys()
    assert all(mx.array_equal(twice[name], once[name]) for name in once)


def test_heads_alone_tell_that_a_checkpoint_of_step_is_the_hub_s():
    """One without experts stores its norms less one, too."""
    golden = Golden("step35")
    names, config = port(golden)
    norm, head = (
        "model.layers.0.input_layernorm.weight",
        f"model.layers.{config.depth}.eh_proj.weight",
    )
    for beside, wanted in ((head, 1.25), ("model.layers.0.mlp.up_proj.weight", 0.25)):
        found = rules.apply(names.from_hub(config), {norm: mx.array([0.25]), beside: mx.zeros(1)})
        assert found[norm].item() == wanted
