"""config.json: both spellings, and no key that is misread without a word."""

import re
from dataclasses import dataclass, fields

import pytest
from goldens import Golden

from mlxarch import ConfigError, config, registry
from mlxarch.config import hub
from mlxarch.models import nanbeige41, tiny_aya

FAMILIES = {"nanbeige41": nanbeige41, "tiny_aya": tiny_aya}
ROPES = [
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    ("rope_scaling", {"type": "linear", "factor": 2.0}),
    ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
]
REFUSED = {
    "nanbeige41": [("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu"), *ROPES],
    "tiny_aya": [
        ("attention_bias", True),
        ("hidden_act", "relu"),
        ("layer_norm_bias", True),
        ("rotary_pct", 0.5),
        ("tie_word_embeddings", False),
        ("use_gated_activation", False),
        ("use_parallel_block", False),
        ("use_qk_norm", True),
        *ROPES,
    ],
}


def read(raw):
    return registry.find(raw).model.Config.from_hub(raw)


def changed(name, **keys):
    """config.json of a golden checkpoint with some keys changed; None takes one away."""
    raw = Golden(name).config() | keys
    return {key: value for key, value in raw.items() if value is not None}


def test_both_spellings_say_the_same(golden):
    assert read(golden.config("tf4")) == read(golden.config("tf5"))


def test_what_is_written_is_read_back(golden):
    first = read(golden.config())
    assert type(first).from_hub(first.spelled_out()) == first


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (name, f.metadata["hub"][0])
        for name, module in FAMILIES.items()
        for f in fields(module.Config)
        if f.metadata["default"] is config.MISSING
    ],
)
def test_a_missing_key_is_named_in_the_hubs_spelling(name, key):
    with pytest.raises(ConfigError, match=f"lacks.* {key}"):
        read(changed(name, **{key: None}))


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


@pytest.mark.parametrize("name", FAMILIES)
def test_a_null_where_a_value_is_needed_is_missing(name):
    with pytest.raises(ConfigError, match="lacks hidden_size"):
        read(Golden(name).config() | {"hidden_size": None})


def test_a_null_rope_scaling_is_no_scaling(golden):
    raw = golden.config()
    assert raw["rope_scaling"] is None
    assert read(raw).rope_base == raw["rope_theta"]


@pytest.mark.parametrize(
    ("name", "key", "value"), [(name, *pair) for name in REFUSED for pair in REFUSED[name]]
)
def test_what_is_not_ported_is_refused(name, key, value):
    said = value.get("rope_type", value.get("type")) if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=rf"{key}.* is {said!r} .*implements only"):
        read(Golden(name).config() | {key: value})


@pytest.mark.parametrize("name", FAMILIES)
def test_every_switch_has_a_test(name):
    switches = {key.split(".")[0] for key in FAMILIES[name].Config.only}
    assert switches == {key for key, _ in REFUSED[name]}


def test_two_spellings_that_disagree_are_refused():
    raw = Golden("nanbeige41").config() | {"rope_parameters": {"rope_theta": 1e4}}
    with pytest.raises(ConfigError, match=r"rope_theta is 70000000\.0 .*rope_theta is 10000\.0"):
        read(raw)


def test_layer_types_are_read_before_a_period():
    raw = changed("tiny_aya", sliding_window_pattern=2)
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
        read(changed("tiny_aya", layer_types=layer_types))


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
    ],
)
def test_a_value_of_the_wrong_kind_is_named(name, key, value):
    with pytest.raises(ConfigError, match=re.escape(f"{key} is {value!r} in config.json; ")):
        read(Golden(name).config() | {key: value})


@pytest.mark.parametrize("raw", [{}, {"model_type": None}, {"model_type": ["llama"]}])
def test_an_unknown_model_type_is_told_what_is_known(raw):
    with pytest.raises(ConfigError, match=r"model_type is .*ported are cohere2, llama\."):
        registry.find(raw)


def test_a_whole_number_may_stand_for_a_float():
    assert read(changed("nanbeige41", rope_theta=70_000_000)).rope_base == 7e7


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
