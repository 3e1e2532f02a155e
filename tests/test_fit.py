"""`mlxarch fit`: the sum of what a model takes, held against what it takes once it is loaded."""

import json
from dataclasses import replace
from pathlib import Path

import commandline
import mlx.core as mx
import pytest
import seeing
import tiny
from click.testing import CliRunner
from huggingface_hub import constants

from mlxarch import anatomy, backend, checkpoint
from mlxarch.app import catalogue, fit, fitting
from mlxarch.app.cli import cli
from mlxarch.app.fit import Fit, Machine
from mlxarch.convert import hub, inventory, plan, write
from mlxarch.errors import HubError
from mlxarch.quantize.recipes import Recipe
from mlxarch.words import size

CONFIGS = Path(__file__).parent / "configs"
HERE = Machine("CPU", 10_000_000_000, "this machine's memory", 40e9, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(fitting, "LM_STUDIO", tmp_path / "studio")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mlxarch(monkeypatch, capsys):
    monkeypatch.setattr(backend, "bandwidth", lambda: 40e9)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = commandline.run(monkeypatch, "fit", *arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def examined(name):
    return anatomy.examine(json.loads((CONFIGS / f"{name}.json").read_text()))


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("packed", [False, True])
def test_weights_and_what_a_token_reads_are_those_of_the_loaded_model(family, packed, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder = tiny.save(tmp_path / "source", family, **sizes)
    if packed:
        write.write(plan.make(inventory.look(folder), recipe=Recipe()), tmp_path / "packed")
        folder = tmp_path / "packed"
    one = fitting.look(str(folder))
    loaded = checkpoint.load(folder)
    held = sum(array.nbytes for array in checkpoint.parameters(loaded).values())
    found = Fit(one, one.forms[0], HERE, 256)
    assert found.weights == held
    assert found.read - found.cache == pytest.approx(anatomy.bytes_read(loaded), rel=0.02)
    assert [form.name for form in one.forms[1:]] == ([] if packed else ["4 bits"])


def test_what_4_bits_would_take_is_what_they_take(tmp_path):
    folder = tiny.save(tmp_path / "source", hidden_size=64, intermediate_size=128, head_dim=16)
    write.write(plan.make(inventory.look(folder), recipe=Recipe()), tmp_path / "packed")
    before, after = (fitting.look(str(path)) for path in (folder, tmp_path / "packed"))
    promised, kept = Fit(before, before.forms[1], HERE, 256), Fit(after, after.forms[0], HERE, 256)
    assert promised.weights == kept.weights
    assert promised.form.disk == kept.form.disk


@pytest.mark.parametrize("tokens", [256, 1024])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_the_cache_is_what_a_conversation_takes(family, tokens, tmp_path):
    model = tiny.model(family, max_position_embeddings=2048)
    caches = model.make_cache()
    for _ in range(0, tokens, 64):
        mx.eval(model(mx.ones((1, 64), mx.int32), cache=caches))
    model(mx.ones((1, 1), mx.int32), cache=caches)
    mx.eval([cache.state for cache in caches])
    raw = {**tiny.CONFIGS[family], "max_position_embeddings": 2048}
    told = fit.Cache.of(anatomy.examine(raw)).bytes(tokens + 1, 4)
    assert told == pytest.approx(sum(cache.nbytes for cache in caches), rel=0.05)


def test_few_bits_make_the_cache_smaller_and_leave_states():
    cache = fit.Cache(fixed=1000, per_token=10, state=5000)
    assert cache.bytes(256, 4) == 5000 + 3560 * 4
    assert cache.bytes(256, 4, 8) == 5000 + int(3560 * (1 + 8 / 64))
    assert cache.bytes(1, 2) == cache.bytes(256, 2)


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [(1.2, "fits"), (1.05, "tight"), (1.0, "tight"), (0.999, "too large")],
)
def test_the_verdict_is_the_sum_against_the_memory(memory, verdict):
    one = fitting.look(str(CONFIGS / "Qwen__Qwen3.5-0.8B.json"))
    together = Fit(one, one.forms[1], HERE, 8192).together
    machine = Machine("CPU", int(memory * together), "--memory", 40e9, 4)
    found = Fit(one, one.forms[1], machine, 8192)
    assert found.verdict == verdict
    assert together == found.weights + found.cache + found.working


def test_the_longest_context_that_fits_does_and_the_next_does_not():
    one = fitting.look(str(CONFIGS / "arcee-ai__Trinity-Mini.json"))
    machine = Machine("Metal", 16_000_000_000, "--memory", 100e9, 2)
    most = Fit(one, one.forms[1], machine, 131_072).most_tokens
    assert 0 < most < one.context
    assert Fit(one, one.forms[1], machine, most // 256 * 256).verdict != "too large"
    assert Fit(one, one.forms[1], machine, most + 512).verdict == "too large"
    assert Fit(one, one.forms[0], machine, 256).most_tokens == 0


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.model.name)
def test_the_catalogue_says_what_the_released_configs_say(entry):
    found, model = examined(entry.config), entry.model
    assert (model.family, model.context) == (found.architecture, found.context)
    assert (model.parameters, model.active) == (found.total.parameters, found.active.parameters)
    assert (model.cache, model.activations) == (fit.Cache.of(found), fit.activations(found))
    assert model.vision == found.vision.parameters
    if model.family == "Kimi K2.5":  # released in INT4: experts alone are packed
        (form,) = model.forms
        assert form.floats + 2 * form.packed == pytest.approx(found.total.parameters, rel=0.07)
        return
    for form, derived in zip(model.forms, (fit.plain(found), fit.in_4_bits(found)), strict=True):
        numbers = (form.floats, form.packed, form.floats_read, form.packed_read)
        assert numbers == (
            derived.floats,
            derived.packed,
            derived.floats_read,
            derived.packed_read,
        )


def test_the_catalogue_has_all_ten_families_and_something_for_every_memory():
    entries = catalogue.entries()
    assert len({entry.model.family for entry in entries}) == 10
    for gigabytes in (8, 16, 32, 64, 128, 256, 512):
        machine = Machine("Metal", int(gigabytes * 0.75e9), "--memory", 100e9, 2)
        fits = [fit.best(Fit.all(entry.model, machine, 8192)) for entry in entries]
        roomy = [found for found in fits if found.verdict == "fits"]
        assert roomy
        assert max(found.weights for found in roomy) > 0.15e9 * gigabytes


def test_a_form_is_suggested_that_has_room_and_is_quick_enough():
    one = fitting.look(str(CONFIGS / "Qwen__Qwen3.5-4B.partial.json"))
    slow, quick = (Machine("Metal", 20_000_000_000, "", rate, 2) for rate in (20e9, 400e9))
    small = Machine("Metal", 1_000_000_000, "", 400e9, 2)
    names = [fit.best(Fit.all(one, machine, 8192)).form.name for machine in (slow, quick, small)]
    assert names == ["4 bits", "bf16", "4 bits"]


def test_a_model_that_fits_is_a_sum_and_code_0(mlxarch, tmp_path):
    code, out, err = mlxarch(CONFIGS / "arcee-ai__Trinity-Mini.json", "--memory", "24GB")
    assert (code, err) == (0, "")
    assert "weights in memory           104 GB" in out
    assert "16.4 GB" in out
    assert "too large by" in out
    assert "an estimate" in out
    assert max(map(len, out.splitlines())) <= 80


def test_what_does_not_fit_in_any_form_is_code_4(mlxarch):
    code, out, _ = mlxarch("moonshotai/Kimi-K2.5", "--memory", "32GB")
    assert code == 4
    assert "too large by" in out


def test_json_has_every_figure_of_each_form(mlxarch):
    code, out, _ = mlxarch("Qwen/Qwen3.5-27B", "--memory", "32GB", "--context", "8k", "--json")
    forms = [json.loads(line) for line in out.splitlines()]
    assert (code, [form["verdict"] for form in forms]) == (0, ["too large", "fits"])
    assert [form["suggested"] for form in forms] == [False, True]
    for form in forms:
        assert form["together"] == form["weights"] + form["cache"] + form["working"]
        assert (form["context"], form["memory"]) == (8192, 32_000_000_000)


def test_a_context_of_one_token_is_one_token(mlxarch):
    code, out, _ = mlxarch(CONFIGS / "Qwen__Qwen3.5-27B.json", "--memory", "1TB", "--context", "1")
    assert code == 0
    assert "cache of 1 token " in out


def test_a_context_beyond_what_the_model_holds_is_said(mlxarch):
    asked = (CONFIGS / "Qwen__Qwen3.5-27B.json", "--memory", "1TB", "--context")
    code, out, err = mlxarch(*asked, "10m")
    assert code == 0
    assert "cache of 262,144 tokens" in out
    assert err == (
        "Qwen__Qwen3.5-27B holds 262,144 tokens and not 10,485,760; the sum is for what it holds.\n"
    )
    assert mlxarch(*asked, "256k")[2] == ""


def test_a_tower_comes_on_top_with_the_first_picture(mlxarch, tmp_path):
    folder = seeing.save(tmp_path / "eye")
    tower = sum(w.nbytes for w in mx.load(str(folder / "vision.safetensors")).values())
    said = "Its vision tower takes {} more from the first picture on."
    form = json.loads(mlxarch(folder, "--json")[1].splitlines()[0])
    assert form["vision"] == tower
    assert said.format(size(tower)) in mlxarch(folder)[1]
    assert fitting.look(str(folder)).vision == fitting.look(str(folder / "config.json")).vision > 0
    (folder / "vision.safetensors").unlink()
    assert "tower" not in mlxarch(folder)[1]
    # Of the largest Qwen 3.5 all parameters are published.
    assert examined("Qwen__Qwen3.5-397B-A17B").vision.parameters == 456_010_480
    # The published tensors in bfloat16 are these and all but experts and biases of routers.
    kimi = examined("moonshotai__Kimi-K2.5")
    assert kimi.vision.parameters == 471_143_920
    assert kimi.total.parameters + 471_143_920 - 1_014_686_023_680 - 60 * 384 == 12_193_329_648


def test_a_repository_that_nobody_knows_here_is_said_with_what_helps(mlxarch):
    code, out, err = mlxarch("somebody/something", "--offline")
    assert (code, out) == (6, "")
    assert "give its config.json" in err
    assert mlxarch("no repository's name")[0] == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "The hub cannot be reached, so Qwen/Qwen3.5-27B was not looked at"),
        (["--offline"], "mlxarch is offline, so nobody was asked about Qwen/Qwen3.5-27B."),
    ],
)
def test_where_the_hub_was_not_asked_the_catalogue_answers_and_says_so(mlxarch, options, reason):
    code, out, err = mlxarch("Qwen/Qwen3.5-27B", "--memory", "1TB", *options)
    assert code == 0
    assert "Qwen 3.5 27B" in out
    assert err.startswith(reason)
    assert err.endswith("What follows is from the catalogue within mlxarch.\n")
    told = mlxarch("Qwen/Qwen3.5-27B", "--memory", "1TB", "--json", *options)
    assert told[2] == err
    for form in map(json.loads, told[1].splitlines()):
        assert form["source"] == "catalogue"
        assert form["reason"].startswith(reason)


def test_json_says_what_is_from_headers_and_what_from_a_config_alone(mlxarch, tmp_path):
    folder = tiny.save(tmp_path / "here")
    for path, source in ((folder, "headers"), (folder / "config.json", "config")):
        code, out, err = mlxarch(path, "--json")
        assert (code, err) == (0, "")
        for form in map(json.loads, out.splitlines()):
            assert (form["source"], form["reason"]) == (source, "")


def test_headers_of_a_repository_are_enough(monkeypatch, tmp_path):
    folder = tiny.save(tmp_path / "afar", hidden_size=64, intermediate_size=128, head_dim=16)
    monkeypatch.setattr(inventory, "look_afar", lambda repo, revision: inventory.look(folder))
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    afar, near = (fitting.look(name).forms for name in ("some/body", str(folder)))
    # What is there can be had there; what would have to be made of it cannot.
    assert [form.repo for form in afar] == ["some/body", ""]
    assert [replace(form, repo="") for form in afar] == list(near)

    def gone(repo, revision):
        raise HubError("no network")

    monkeypatch.setattr(inventory, "look_afar", gone)
    known = fitting.look("arcee-ai/Trinity-Mini")
    assert (known.name, known.reason) == ("Trinity Mini", "no network")
    with pytest.raises(HubError, match="no network"):
        fitting.look("some/body")


def test_without_a_model_all_are_listed_in_80_columns(mlxarch):
    code, out, _ = mlxarch("--memory", "16GB")
    assert code == 0
    assert "mlxarch guide" in out
    assert "To be fetched" in out
    assert all(sign in out for sign in "●○")
    assert max(map(len, out.splitlines())) <= 80
    lines = [json.loads(line) for line in mlxarch("--json")[1].splitlines()]
    here, afar = ([line for line in lines if line["here"] is there] for there in (True, False))
    assert [line["model"] for line in here] == ["mlxarch guide"]
    assert (Path(here[0]["folder"]) / "config.json").is_file()
    assert len(afar) == sum(len(entry.model.forms) for entry in catalogue.entries())


@pytest.mark.parametrize("columns", ["40", "60", "80"])
def test_names_are_whole_however_narrow_it_is(mlxarch, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = mlxarch("--memory", "16GB")
    assert "…" not in out
    assert "<" in out
    assert max(map(len, out.splitlines())) <= int(columns)


@pytest.mark.usefixtures("mlxarch")
def test_without_utf_8_verdicts_are_told_apart():
    result = CliRunner(charset="latin-1").invoke(cli, ["fit", "--memory", "16GB"])
    assert result.exit_code == 0
    assert "+ fits  ~ tight  - too large" in result.output
    assert {line[0] for line in result.output.splitlines()[3:-1]} == {" ", "+", "-"}


def test_folders_here_and_lm_studio_s_are_found(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "LM_STUDIO", tmp_path / "studio")
    tiny.save(tmp_path / "mine")
    tiny.save(tmp_path / "studio" / "some" / "body")
    (tmp_path / "empty").mkdir()
    (tmp_path / "studio" / "some" / "damaged").mkdir()
    (tmp_path / "studio" / "some" / "damaged" / "config.json").write_text("{")
    found = {model.name: model for model in fitting.here()}
    assert set(found) == {"mlxarch guide", "mine", "some/body"}
    assert found["mine"].folder == str(tmp_path / "mine")
    # What it could be made into is not here.
    assert [len(model.forms) for model in found.values()] == [1, 1, 1]


@pytest.mark.parametrize("name", ["~nobodyatall", "x" * 300])
def test_a_name_that_no_folder_can_have_is_no_models(mlxarch, name):
    code, out, err = mlxarch(name)
    assert code == 3
    assert out == ""
    assert "is no folder here and no repository's name" in err
