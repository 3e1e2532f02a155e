"""The released configs: each builds without memory, and counts what its publisher counted."""

import json
import time
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import mlx.core as mx
import pytest

from mlxarch import anatomy, registry

CONFIGS = Path(__file__).parent / "configs"
RELEASED = tomllib.loads((CONFIGS / "released.toml").read_text())
ANNOUNCES = "num_nextn_predict_layers"


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@cache
def examined(name, announced=0):
    """The anatomy of a released config, with heads that it does not announce itself."""
    return anatomy.examine(config(name) | ({ANNOUNCES: announced} if announced else {}))


def test_every_config_here_has_its_facts():
    assert {file.stem for file in CONFIGS.glob("*.json")} == RELEASED.keys()
    assert all(facts["source"] for facts in RELEASED.values())


@pytest.mark.parametrize("name", RELEASED)
def test_the_parameters_are_the_published_ones(name):
    facts = RELEASED[name]
    # Qwen3-Next has a head that its config does not announce.
    found = examined(name, facts.get("heads", 0))
    assert found.total.parameters == sum(facts["main"])
    assert found.heads == facts.get("heads", 0)
    if "with_heads" in facts:
        assert (found.total + found.mtp).parameters == sum(facts["with_heads"])


@pytest.mark.parametrize("name", [name for name in RELEASED if "active" in RELEASED[name]])
def test_the_active_parameters_are_those_of_the_name(name):
    # Names round up and down, with and without embedding and head: see anatomy._sizes.
    active = examined(name).active.parameters
    assert abs(active / 1e9 - RELEASED[name]["active"]) < 1


@pytest.mark.parametrize("name", [name for name in RELEASED if "active" not in RELEASED[name]])
def test_of_a_dense_model_all_is_active_but_the_lookup(name):
    found = examined(name)
    lookup = found.total.parameters - found.active.parameters
    text = {**config(name), **config(name).get("text_config", {})}
    assert lookup == (0 if text["tie_word_embeddings"] else found.vocab * found.dim)


@pytest.mark.parametrize("name", RELEASED)
def test_building_takes_a_moment_and_no_memory(name):
    raw = config(name)
    registry.find(raw).model  # noqa: B018  (the import is not what is measured)
    mx.reset_peak_memory()
    memory, seconds = mx.get_active_memory(), time.process_time()
    found = anatomy.examine(raw)
    assert time.process_time() - seconds < 2
    assert mx.get_peak_memory() - memory < 1 << 20
    assert found.total.bf16 > 1 << 30


@pytest.mark.parametrize("name", [file.stem for file in (CONFIGS / "transformers5").iterdir()])
def test_transformers_5_spells_the_same_model(name):
    found = anatomy.examine(config(f"transformers5/{name}"))
    assert replace(found, quantization=None) == replace(examined(name), quantization=None)
