"""What a conversion wrote is proven, and whatever is done to it afterwards is found."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import tiny
from commandline import run
from hypothesis import given
from hypothesis import strategies as st
from releases import WIDE
from tiny_configs import CONFIGS, saved

from mlxarch import CheckpointError, FormatError, shards
from mlxarch.convert import inventory, manifest, plan, write
from mlxarch.convert.against import Side
from mlxarch.convert.verify import VerificationFailed, verify
from mlxarch.quantize.recipes import candidate

EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64}
UP = "model.layers.1.mlp.up_proj.weight"
GATE = "model.layers.1.mlp.gate_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def convert(source, out, recipe=None, dtype=None, **options):
    made = plan.make(
        inventory.look(source), recipe=candidate(recipe) if recipe else None, dtype=dtype, **options
    )
    write.write(made, out)
    return out


def found(*arguments, **options):
    """Where each finding is, and what."""
    return [(f.where, f.what) for f in verify(*arguments, **options).findings]


@pytest.fixture(autouse=True)
def short_prompt(monkeypatch):
    monkeypatch.setattr("mlxarch.convert.verify._TOKENS", 16)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("verify") / "source", **EVEN)


@pytest.fixture(scope="module")
def outputs(source):
    """Conversions of one source, by their recipe; nobody writes into them."""
    folder = source.parent
    return {
        None: convert(source, folder / "plain", shard_bytes=200_000),
        "4": convert(source, folder / "four", "4", "bfloat16"),
        "mxfp4": convert(source, folder / "mxfp4", "mxfp4"),
        "nvfp4": convert(source, folder / "nvfp4", "nvfp4"),
    }


@pytest.fixture
def copied(outputs, tmp_path):
    """A conversion that a test may damage, with its manifest or without."""

    def copy(recipe=None, *, known=True):
        out = shutil.copytree(outputs[recipe], tmp_path / "out")
        if not known:
            (out / manifest.NAME).unlink()
        return out

    return copy


def rewrite(out, change):
    """Change the tensors of a conversion of one shard, as who knows nothing of a manifest."""
    file = out / "model.safetensors"
    weights = dict(mx.load(str(file)))
    change(weights)
    mx.eval(weights)
    mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})


def seldom(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("recipe", ["default", *seldom(None, "8", "mixed", "mxfp4")])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_converted_is_well(name, recipe, tmp_path):
    sizes = {key: size for key, size in WIDE.items() if key in CONFIGS[name]}
    raw, weights = saved(name, **sizes)
    (tmp_path / "source").mkdir()
    mx.save_safetensors(str(tmp_path / "source" / "model.safetensors"), weights)
    (tmp_path / "source" / "config.json").write_text(json.dumps(raw))
    out = convert(tmp_path / "source", tmp_path / "out", recipe, "bfloat16" if recipe else None)
    report = verify(out, tmp_path / "source")
    assert report.findings == []
    assert report.layers is not None
    assert len(report.layers.errors) == raw["num_hidden_layers"]
    packed = [tensor for tensor in report.compared if tensor.scheme]
    assert bool(packed) == bool(recipe)
    assert all(0 < tensor.relative_error <= tensor.limit for tensor in packed)
    if recipe is None:
        assert report.layers.errors[-1] == report.layers.mean_kl == 0


@pytest.mark.parametrize("recipe", ["4", "mxfp4", "nvfp4"])
def test_the_error_is_that_of_numpy_and_the_limit_that_of_the_manifest(recipe, source, outputs):
    report = verify(outputs[recipe], source)
    entry = manifest.read(outputs[recipe]).tensors[UP]
    ours = next(tensor for tensor in report.compared if tensor.name == UP)
    packed = mx.load(str(outputs[recipe] / "model.safetensors"))
    parts = [packed.get(UP.replace("weight", end)) for end in ("scales", "biases")]
    scales = [
        part if part is None or part.dtype == mx.uint8 else part.astype(mx.float32)
        for part in parts
    ]
    layout = (entry.group_size, entry.bits, entry.mode)
    kept = np.array(mx.dequantize(packed[UP], *scales, *layout, dtype=mx.float32), np.float64)
    exact = mx.load(str(source / "model.safetensors"))[UP]
    exact = exact.astype(mx.bfloat16).astype(mx.float32) if recipe == "4" else exact
    wanted = np.linalg.norm(kept - np.array(exact)) / np.linalg.norm(np.array(exact))
    assert ours.relative_error == pytest.approx(wanted, rel=1e-5)
    assert entry.relative_error == pytest.approx(wanted, rel=1e-4)
    assert ours.limit == pytest.approx(1.01 * entry.relative_error, rel=1e-4)


def test_without_a_manifest_the_limit_is_three_times_that_of_rounding(copied, source):
    out = copied("4", known=False)
    report = verify(out, source)
    assert report.written is None
    assert report.findings == []
    for tensor in report.compared:
        assert tensor.limit == pytest.approx(3 * tensor.relative_error, rel=1e-3)


def test_a_threshold_is_for_what_is_quantized(outputs, source):
    report = verify(outputs["4"], source, threshold=0.01)
    assert {f.where for f in report.findings} == {t.name for t in report.compared if t.scheme}
    assert "wanted is at most 0.01." in report.findings[0].what
    assert report.layers is None
    assert report.unmeasured == "layers are compared when all else is well"
    assert found(outputs[None], source, threshold=0.0) == []


@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_found(outputs, tmp_path_factory, data):
    out = outputs[data.draw(st.sampled_from([None, "4"]))]
    files = sorted(file for file in out.iterdir() if file.is_file())
    file = data.draw(st.sampled_from(files), label="file")
    raw = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1), label="bit")
    damaged = tmp_path_factory.mktemp("bit") / "out"
    shutil.copytree(out, damaged)
    raw[bit // 8] ^= 1 << bit % 8
    (damaged / file.name).write_bytes(raw)
    assert file.name in {where for where, _ in found(damaged)}


@given(data=st.data())
def test_a_flipped_bit_of_a_tensor_is_found_in_it(outputs, tmp_path_factory, data):
    out = outputs["4"]
    file = out / "model.safetensors"
    infos = shards.read_header(file)
    name = data.draw(st.sampled_from(sorted(infos)))
    info = infos[name]
    bit = data.draw(st.integers(0, 8 * info.bytes - 1))
    raw = bytearray(file.read_bytes())
    raw[info.start + bit // 8] ^= 1 << bit % 8
    damaged = tmp_path_factory.mktemp("bit") / "out"
    shutil.copytree(out, damaged)
    (damaged / file.name).write_bytes(raw)
    told = dict(found(damaged))[file.name]
    assert told == (
        f"is not as it was written: {name} changed since. Copy it again, or convert again."
    )


@pytest.mark.parametrize("known", [True, False])
def test_tensors_that_were_exchanged_are_found(known, copied, source):
    out = copied("4", known=known)
    if not known:
        # Bytes cannot tell: both are tensors of this model.
        assert found(exchanged(out)) == []
    else:
        exchanged(out)
    names = {where for where, _ in found(out, source)} - {"model.safetensors"}
    assert names == {UP, GATE}


def exchanged(out):
    def change(weights):
        for end in ("weight", "scales", "biases"):
            a, b = (name.replace("weight", end) for name in (UP, GATE))
            weights[a], weights[b] = weights[b], weights[a]

    rewrite(out, change)
    return out


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("recipe", "name"),
    [("4", NORM), ("4", UP.replace("weight", "scales")), ("4", UP.replace("weight", "biases"))],
)
def test_what_is_no_number_is_found(known, value, recipe, name, copied):
    out = copied(recipe, known=known)

    def change(weights):
        weights[name] = weights[name].at[..., -1].add(value)

    rewrite(out, change)
    count = mx.load(str(out / "model.safetensors"))[name].shape
    bad = 1 if len(count) == 1 else count[0]
    told = dict(found(out))
    assert told[name] == f"in model.safetensors has {bad} values that are NaN or infinite."
    assert ("model.safetensors" in told) == known


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_found_in_each_type(source, tmp_path, dtype, value):
    out = convert(source, tmp_path / "out", dtype=dtype)
    (out / manifest.NAME).unlink()
    largest = mx.finfo(getattr(mx, dtype)).max
    rewrite(out, lambda weights: weights.update({NORM: mx.full_like(weights[NORM], largest)}))
    assert found(out) == []
    rewrite(out, lambda weights: weights.update({NORM: weights[NORM].at[5].add(value)}))
    assert found(out) == [(NORM, "in model.safetensors has 1 values that are NaN or infinite.")]


@pytest.mark.parametrize(("recipe", "byte"), [("mxfp4", 0xFF), ("nvfp4", 0x7F), ("nvfp4", 0xFF)])
def test_a_scale_of_eight_bits_can_be_no_number(recipe, byte, copied):
    out = copied(recipe, known=False)
    name = UP.replace("weight", "scales")
    assert found(out) == []

    def change(weights):
        scales = np.array(weights[name])
        scales[3, 0] = byte
        weights[name] = mx.array(scales)

    rewrite(out, change)
    assert found(out) == [(name, "in model.safetensors has 1 values that are NaN or infinite.")]


@pytest.mark.parametrize("known", [True, False])
def test_a_shard_that_was_cut_short_is_found(known, copied, source):
    out = copied(known=known)
    shard = sorted(out.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    told = found(out, source)
    assert any(shard.name in f"{where} {what}" for where, what in told)
    if known:
        size = f"{shard.stat().st_size:,} bytes; {shard.stat().st_size + 100:,} were written"
        assert any(where == shard.name and size in what for where, what in told)


@pytest.mark.parametrize("known", [True, False])
def test_a_shard_that_is_not_there_is_found(known, copied, source):
    out = copied(known=known)
    shard = sorted(out.glob("model-*.safetensors"))[0]
    shard.unlink()
    told = found(out, source)
    assert any(shard.name in f"{where} {what}" for where, what in told)
    if known:
        assert (shard.name, "is missing; convert again, or copy it again.") in told


@pytest.mark.parametrize("known", [True, False])
def test_a_config_of_another_model_is_found(known, copied):
    out = copied(known=known)
    file = out / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"intermediate_size": 96}))
    told = found(out)
    assert ("config.json" in dict(told)) == known
    assert "has shape [64, 64]; config.json makes it" in dict(told)["out"]


@pytest.mark.parametrize("known", [True, False])
def test_a_config_that_is_no_config_is_a_finding(known, copied, source):
    out = copied(known=known)
    (out / "config.json").write_text("{")
    assert "config.json cannot be read as JSON" in dict(found(out, source))["out"]


def test_a_tensor_of_another_type_than_was_asked_for_is_found(copied):
    out = copied("4")
    rewrite(out, lambda weights: weights.update({NORM: weights[NORM].astype(mx.float16)}))
    assert (NORM, "is F16; all of it was written as BF16.") in found(out)


def test_files_that_nobody_wrote_are_found(copied):
    out = copied()
    shutil.copy(next(out.glob("model-00001*")), out / "model-extra.safetensors")
    (out / "chat_template.jinja").write_text("{{ 'evil' }}")
    (out / "my notes.md").write_text("harmless")
    strangers = {where for where, what in found(out) if "would be read; remove it" in what}
    assert strangers == {"model-extra.safetensors", "chat_template.jinja"}


def test_a_manifest_that_leads_out_is_damage(copied):
    out = copied()
    whole = manifest.read(out)
    entry = whole.files["config.json"]
    for name in ("../secret", "/etc/passwd", "a/../../b", ""):
        manifest._store(out, replace(whole, files={**whole.files, name: entry}))
        told = dict(found(out))
        assert "cannot be read" in told[manifest.NAME]
        with pytest.raises(FormatError, match=r"mlxarch\.json is damaged: .*the file"):
            manifest.read(out)


def test_a_link_out_of_the_folder_is_found(copied, tmp_path):
    out = copied()
    shutil.move(out / "tokenizer.json", tmp_path / "elsewhere.json")
    (out / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    assert "outside of the checkpoint" in dict(found(out))["tokenizer.json"]


def test_a_source_that_is_quantized_itself_was_not_the_source(outputs):
    told = dict(found(outputs[None], outputs["4"]))
    assert told[UP].endswith("wanted is the same numbers.")


@pytest.mark.parametrize("recipe", [None, "4"])
def test_the_source_of_another_model_is_none(recipe, outputs, tmp_path):
    other = tiny.save(tmp_path / "other", seed=3, **EVEN)
    report = verify(outputs[recipe], other)
    # Norms are random as well, so that nothing is as it was.
    assert {f.where for f in report.findings} == {t.name for t in report.compared}
    if recipe:
        errors = [tensor.relative_error for tensor in report.compared if tensor.scheme]
        assert min(errors) > 1.3


def test_a_source_of_another_size_is_none(outputs, tmp_path):
    other = tiny.save(tmp_path / "other", **EVEN | {"intermediate_size": 128})
    told = dict(found(outputs[None], other))
    assert told[UP] == "cannot be compared: it has shape [64, 64], and [128, 64] in the source."
    assert NORM not in told


def test_a_source_with_more_or_fewer_layers_is_none(outputs, tmp_path):
    other = tiny.save(tmp_path / "other", **EVEN, num_hidden_layers=3)
    names = {where for where, what in found(outputs[None], other) if "not in the source" in what}
    assert names
    assert all(name.startswith("model.layers.3.") for name in names)


def test_a_source_that_cannot_be_read_is_its_own_error(outputs, tmp_path):
    with pytest.raises(CheckpointError, match="no model"):
        verify(outputs[None], tmp_path)


def test_layers_are_left_out_where_they_do_not_fit(outputs, source, monkeypatch):
    monkeypatch.setattr("mlxarch.backend.memory_limit", lambda: 300_000)
    report = verify(outputs[None], source)
    assert report.layers is None
    assert report.findings == []
    assert report.unmeasured == (
        "a layer of both models at once needs 0.0 GB; this machine has 0.0 GB for a model"
    )


def test_nothing_is_held_that_is_larger_than_a_piece(outputs, source, monkeypatch):
    """However large a tensor, a few rows of it are read at once."""
    monkeypatch.setattr("mlxarch.convert.against._PIECE", 1000)
    read, sizes = Side._read, []

    def watched(*arguments):
        sizes.append((rows := read(*arguments)).size)
        return rows

    monkeypatch.setattr(Side, "_read", watched)
    assert verify(outputs["4"], source).findings == []
    assert max(sizes) == 1000 // 64 * 64


def test_renewed_entries_are_well(copied):
    out = copied()
    (out / "README.md").write_text("mine")
    (out / "quality.json").write_text("{}")
    assert [where for where, _ in found(out)] == ["README.md"]
    manifest.renew(out, ["README.md", "quality.json"])
    assert found(out) == []
    assert "quality.json" in manifest.read(out).files
    (out / "quality.json").unlink()
    manifest.renew(out, ["quality.json"])
    assert found(out) == []


def test_the_first_finding_is_the_error(copied, tmp_path):
    out = copied()
    report = verify(out)
    report.check(out)
    (out / "tokenizer.json").unlink()
    with pytest.raises(
        VerificationFailed, match=r"tokenizer\.json is missing; .* copy it again\.$"
    ):
        verify(out).check(out)


def test_the_command_says_what_is_well(outputs, source, monkeypatch, capsys):
    assert run(monkeypatch, "verify", outputs["4"], source) == 0
    told = capsys.readouterr()
    rows = told.out.splitlines()
    assert rows[0] == "files            6 held against mlxarch.json"
    assert rows[1] == "tensors          99"
    assert rows[2] == "as the source    9 of 39"
    assert rows[3] == "relative error     limit  tensor"
    assert rows[-1].startswith("top-1 agreement  ")
    assert told.err == ""


def test_the_command_without_a_manifest_says_so(copied, monkeypatch, capsys):
    assert run(monkeypatch, "verify", copied(known=False)) == 0
    assert "no mlxarch.json, so hashes were not checked" in capsys.readouterr().out


def test_the_command_ends_with_5(copied, source, monkeypatch, capsys):
    out = copied("4")
    (out / "config.json").write_text("[]")
    assert run(monkeypatch, "verify", out, source) == 5
    told = capsys.readouterr()
    assert "wrong            config.json has 2 bytes" in told.out
    assert told.err.startswith(f"VerificationFailed: {out} is not as it should be: ")
    assert told.err.count("\n") == 1


def test_the_command_in_json(copied, source, monkeypatch, capsys):
    out = copied("4")
    assert run(monkeypatch, "verify", out, source, "--json", "--threshold", "0.01") == 5
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = {event["event"] for event in events}
    assert kinds == {"tensor", "finding", "done"}
    up = next(event for event in events if event.get("name") == UP)
    assert (up["bits"], up["mode"], up["limit"]) == (4, "affine", 0.01)
    assert events[-1]["findings"] == sum(event["event"] == "finding" for event in events)


def test_the_command_wants_what_is_here(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "verify", tmp_path / "nowhere") == 3
    assert run(monkeypatch, "verify", tmp_path, "--threshold", "0.1") == 2
