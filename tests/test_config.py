"""config.json: both spellings, and no key that is misread without a word."""

import re
from dataclasses import dataclass, fields

import pytest
from goldens import Golden
from hypothesis import given
from hypothesis import strategies as st
from ports import PORTS, changed, read

from mlxarch import ConfigError, config, registry
from mlxarch.config import hub


def test_both_spellings_say_the_same(golden):
    assert read(golden.config("tf4")) == read(golden.config("tf5"))


def test_what_is_written_is_read_back(golden):
    port, first = registry.find(golden.config()), read(golden.config())
    written = {**first.spelled_out(), **port.names.mlx_keys(first)}
    assert not [key for key in written if "." in key]
    assert port.model.Config.from_hub(written) == first


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, f)
        for name, port in PORTS.items()
        for f in fields(port.Config)
        if f.metadata["default"] is config.MISSING
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_missing_key_is_named_in_the_hubs_spelling(name, field):
    raw = Golden(name).config()
    with pytest.raises(ConfigError, match=f"lacks.* {field.metadata['hub'][0]}"):
        read(changed(raw, dict.fromkeys(field.metadata["hub"])))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("step35", "layer_types"),
        ("step35", "rope_theta"),
        ("step35", "partial_rotary_factors"),
        ("qwen35_dense", "intermediate_size"),
        ("qwen35_moe", "num_experts_per_tok"),
        ("qwen35_moe", "moe_intermediate_size"),
        ("qwen35_moe", "shared_expert_intermediate_size"),
    ],
)
def test_a_key_that_another_field_is_made_of_is_named_too(name, key):
    with pytest.raises(ConfigError, match=f"lacks {key}\\."):
        read(changed(Golden(name).config(), {key: None}))


def test_all_missing_keys_are_named_at_once():
    with pytest.raises(ConfigError, match=r"'llama' lacks vocab_size, .*rope_theta or rope_param"):
        read({"model_type": "llama"})


def test_a_null_is_as_good_as_absent():
    raw = Golden("llama_tied").config()
    assert read(raw | {"head_dim": None}).head_dim == 64 // 4
    assert read(raw | {"num_key_value_heads": None}).kv_heads == 4
    assert read(Golden("cohere2_period3").config() | {"layer_types": None}).layer_types == [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "sliding_attention",
    ]


@pytest.mark.parametrize("name", PORTS)
def test_a_null_where_a_value_is_needed_is_missing(name):
    with pytest.raises(ConfigError, match="lacks hidden_size"):
        read(Golden(name).config() | {"hidden_size": None})


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, f)
        for name, port in PORTS.items()
        for f in fields(port.Config)
        if len(f.metadata["hub"]) > 1
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_two_spellings_that_disagree_are_refused(name, field):
    raw = Golden(name).config()
    value = getattr(read(raw), field.name)
    first, *others = field.metadata["hub"]
    for other in others:
        agreed = changed(raw, {first: value, other: value})
        assert getattr(read(agreed), field.name) == value
        with pytest.raises(ConfigError, match=f"{value!r} .* is {2 * value!r}; the two must agree"):
            read(changed(raw, {first: value, other: 2 * value}))


def test_the_language_model_is_read_inside_the_whole(golden):
    raw = golden.config()
    whole = {"model_type": raw["model_type"], "architectures": raw["architectures"]}
    found = read({**whole, "hidden_size": 7, "text_config": raw})
    assert {**vars(found), "wrapped": None} == {**vars(read(raw)), "wrapped": None}


def test_layer_types_are_read_before_a_period():
    raw = Golden("tiny_aya").config() | {"sliding_window_pattern": 2}
    assert read(raw).layer_types == raw["layer_types"]


@pytest.mark.parametrize(
    ("layer_types", "said"),
    [
        (["sliding_attention"] * 7, "7 entries for 8 layers"),
        (["full_attention"] * 9, "9 entries for 8 layers"),
        (["full_attention"] * 7 + ["mamba"], "has mamba; this port knows sliding_attention, full"),
        ("full_attention", "is 'full_attention'"),
        ([["full_attention"]] * 8, "a list of words is wanted"),
    ],
)
def test_layer_types_must_be_known_and_one_a_layer(layer_types, said):
    with pytest.raises(ConfigError, match=said):
        read(Golden("tiny_aya").config() | {"layer_types": layer_types})


@given(period=st.integers(1, 9), depth=st.integers(1, 12))
def test_layers_of_a_period_have_it(period, depth):
    layers = config.one_full_in("every", "other")({"every": period, "num_hidden_layers": depth})
    found = config.period(layers)
    again = config.one_full_in("every", "other")({"every": found, "num_hidden_layers": depth})
    assert again == layers
    assert found == min(period, depth + 1)


def test_layers_of_no_period_have_no_name_in_the_mlx_format():
    with pytest.raises(ConfigError, match="only one full layer in every n"):
        config.period(["full_attention", "other", "full_attention"])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("nanbeige41", "hidden_size", "60"),
        ("nanbeige41", "hidden_size", -60),
        ("nanbeige41", "num_hidden_layers", 3.0),
        ("nanbeige41", "num_attention_heads", 0),
        ("nanbeige41", "vocab_size", [131]),
        ("nanbeige41", "rope_theta", "7e7"),
        ("nanbeige41", "rms_norm_eps", True),
        ("nanbeige41", "tie_word_embeddings", "no"),
        ("cohere2_period3", "sliding_window_pattern", 0),
        ("cohere2_period3", "sliding_window_pattern", "3"),
        ("cohere2_period3", "sliding_window", 0),
        ("cohere2_period3", "num_hidden_layers", "5"),
        ("kimi_k25", "text_config", ["kimi"]),
        ("kimi_k25", "rope_scaling", "yarn"),
        ("glm5", "rope_parameters", 1e6),
        ("step35", "rope_scaling", [2.0]),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(name, key, value):
    with pytest.raises(ConfigError, match=re.escape(f"{key} is {value!r} in config.json; ")):
        read(Golden(name).config() | {key: value})


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("llama_tied", "hidden_size", 3, "head_dim comes to 0 by config.json; a whole number"),
        ("step35", "rope_theta", 5e6, "wrong kind where rotations is to be found"),
        ("step35", "rope_theta", [5e6], "wrong kind where rotations is to be found"),
        ("step35", "layer_types", [1] * 8, "layer_types comes to .* a list of words"),
        ("step35", "swiglu_limits", 0.5, "wrong kind where limits is to be found"),
        ("step35", "moe_layers_enum", [2, 3], "wrong kind where sparse_layers is to be found"),
    ],
)
def test_a_value_that_nothing_can_be_made_of_is_named(name, key, value, said):
    with pytest.raises(ConfigError, match=said):
        read(Golden(name).config() | {key: value})


@pytest.mark.parametrize("raw", [{}, {"model_type": None}, {"model_type": ["llama"]}])
def test_an_unknown_model_type_is_told_what_is_known(raw):
    with pytest.raises(ConfigError, match=r"model_type is .*ported are .*cohere2, .*llama, "):
        registry.find(raw)


def test_a_whole_number_may_stand_for_a_float():
    assert read(Golden("nanbeige41").config() | {"rope_theta": 70_000_000}).rope_base == 7e7


def test_defaults_are_what_transformers_takes():
    @dataclass(frozen=True, kw_only=True)
    class Config(config.Config):
        eps: float = hub("eps", default=1e-6)
        wide: int = hub("wide", default=lambda raw: 2 * raw["dim"])
        dim: int = hub("dim", "deep.er.dim")

    read_back = Config.from_hub({"dim": 3})
    assert (read_back.eps, read_back.wide, read_back.dim) == (1e-6, 6, 3)
    assert Config.from_hub({"deep": {"er": {"dim": 4}}, "wide": 5}).dim == 4
    with pytest.raises(ConfigError, match=r"lacks wide, dim or deep\.er\.dim\."):
        Config.from_hub({"deep": {"er": None}})
