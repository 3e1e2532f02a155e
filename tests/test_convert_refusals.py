"""What cannot be converted is refused before anything is written, and the source is not touched."""

import errno
import hashlib
import json
import os
import shutil

import mlx.core as mx
import numpy as np
import pytest
import tiny
from commandline import run
from safetensors.numpy import save_file

from mlxarch.convert import inventory, partial, plan
from mlxarch.convert import write as writing
from mlxarch.errors import CheckpointError, DoesNotFit, MlxarchError
from mlxarch.quantize.recipes import candidate


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source", hidden_size=64, head_dim=16)


def everything(folder) -> dict[str, str]:
    """A hash of each file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def edit(source, **changes):
    file = source / "config.json"
    raw = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in raw.items() if v != "gone"}))


def retensor(source, change):
    file = str(source / "model.safetensors")
    weights = mx.load(file)
    change(weights)
    mx.eval(weights)
    mx.save_safetensors(file, weights)


def no_shards(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def truncated(source):
    file = source / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def no_header(source):
    (source / "model.safetensors").write_bytes(b"<html>404</html>")


def shard_absent(source):
    entries = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": entries}))


def missing(source):
    retensor(source, lambda w: w.pop("model.layers.2.mlp.up_proj.weight"))


def left_over(source):
    retensor(source, lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": mx.zeros(64)}))


def misshapen(source):
    retensor(source, lambda w: w.update({"model.norm.weight": mx.zeros(63)}))


def fp8(source):
    retensor(source, lambda w: w.pop("model.norm.weight"))
    file = source / "model-fp8.safetensors"
    save_file({"x": np.zeros(64, np.uint8)}, file)
    raw = file.read_bytes().replace(b'"x"', b'"model.norm.weight"').replace(b'"U8"', b'"F8_E4M3"')
    header, body = raw[8:-64].rstrip(), raw[-64:]
    file.write_bytes(len(header).to_bytes(8, "little") + header + body)


def whole_numbers(source):
    retensor(source, lambda w: w.update({"model.norm.weight": mx.zeros(64, mx.int64)}))


W4A8 = {"quant_algo": "W4A8_AWQ"}
BAD = {
    "no folder": (shutil.rmtree, 3, "is no folder here and no repository's name"),
    "no config.json": (lambda s: (s / "config.json").unlink(), 3, "has no config.json"),
    "config.json no JSON": (lambda s: (s / "config.json").write_text("{"), 3, "cannot be read"),
    "config.json incomplete": (lambda s: edit(s, hidden_size="gone"), 3, "lacks hidden_size"),
    "unknown model_type": (
        lambda s: edit(s, model_type="gpt2"),
        3,
        "'gpt2' in config.json; ported",
    ),
    "switch not ported": (lambda s: edit(s, attention_bias=True), 3, "attention_bias is True"),
    "no safetensors": (no_shards, 1, "convert needs safetensors"),
    "truncated shard": (truncated, 1, "is truncated or damaged"),
    "no safetensors file": (no_header, 1, "truncated or no safetensors file"),
    "absent shard": (shard_absent, 1, "lacks model-00002-of-00002.safetensors of the 2 shards"),
    "missing tensor": (missing, 1, "1 tensors are missing: model.layers.2.mlp.up_proj.weight"),
    "left-over tensor": (left_over, 1, "have no place: model.layers.0.self_attn.q_proj.bias"),
    "misshapen tensor": (misshapen, 1, "model.norm.weight has shape [63]"),
    "fp8 tensor": (fp8, 1, "model.norm.weight is F8_E4M3 in model-fp8.safetensors"),
    "int64 tensor": (whole_numbers, 1, "model.norm.weight is I64"),
    "hqq": (lambda s: edit(s, quantization_config={"quant_method": "hqq"}), 1, "as 'hqq'"),
    "nested aqlm": (
        lambda s: edit(s, text_config={"quantization_config": {"quant_method": "aqlm"}}),
        1,
        "as 'aqlm', which is not read",
    ),
    "modelopt": (
        lambda s: (s / "hf_quant_config.json").write_text(json.dumps({"quantization": W4A8})),
        1,
        "as 'modelopt', quant_algo 'W4A8_AWQ', which is not read",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["", "dry-run"])
def test_a_bad_source_is_named_and_nothing_is_written(
    source, tmp_path, monkeypatch, capsys, case, dry_run
):
    spoil, code, message = BAD[case]
    spoil(source)
    before = everything(tmp_path)
    assert run(monkeypatch, "convert", source, tmp_path / "out", "--bits", 4, *dry_run) == code
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1, "one line, no traceback"
    assert told.out == ""
    assert everything(tmp_path) == before
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("command", ["convert", "quantize"])
@pytest.mark.parametrize("kind", ["folder", "file", "empty", "dangling link"])
def test_a_target_that_exists_is_left_as_it_was(
    source, tmp_path, monkeypatch, capsys, command, kind
):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "model.safetensors").write_text("earlier")
    before = everything(tmp_path)
    assert run(monkeypatch, command, source, out) == 1
    assert f"{out} exists; choose another name, or remove it." in capsys.readouterr().err
    assert everything(tmp_path) == before


def test_a_target_inside_the_source_is_refused(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "alias").symlink_to(source)
    for out in (
        source / "out",
        tmp_path / "alias" / "deep" / "out",
        source / ".." / "source" / "x",
    ):
        assert run(monkeypatch, "convert", source, out) == 1
        assert f"lies in {source}" in capsys.readouterr().err
    assert run(monkeypatch, "convert", source, source) == 1
    assert sorted(f.name for f in source.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_a_quantized_source_is_quantized_again_tensor_by_tensor(
    source, tmp_path, monkeypatch, command
):
    assert run(monkeypatch, "convert", source, tmp_path / "four", "--bits", 4) == 0
    assert run(monkeypatch, command, tmp_path / "four", tmp_path / "eight", "--bits", 8) == 0
    four, eight = (
        mx.load(str(tmp_path / f"{bits}/model.safetensors")) for bits in ("four", "eight")
    )
    name = "model.layers.0.self_attn.q_proj"
    sizes = {"four": (4, four), "eight": (8, eight)}
    floats = [
        mx.dequantize(*(w[f"{name}.{part}"] for part in ("weight", "scales", "biases")), bits=bits)
        for bits, w in sizes.values()
    ]
    assert mx.allclose(*floats, atol=0.01)


def test_nothing_to_quantize_is_said(tmp_path, monkeypatch, capsys):
    source = tiny.save(tmp_path / "narrow")
    assert run(monkeypatch, "quantize", source, tmp_path / "out", "--group-size", 128) == 1
    assert "rows of a multiple of 128; choose a smaller" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group-size", "32"], "--group-size and --override only say how"),
        (["--bits", "7"], "'7' is not one of"),
        (["--dtype", "float8"], "'float8' is not one of"),
        (["--revision", "main"], "--revision is for repositories"),
    ],
)
def test_wrong_usage_ends_with_2(source, tmp_path, monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, "convert", source, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["", "dry-run"])
def test_a_disk_without_room_is_found_out_before_the_first_byte(
    source, tmp_path, monkeypatch, capsys, dry_run
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(partial.Path, "mkdir", None)
    assert run(monkeypatch, "convert", source, tmp_path / "new" / "out", *dry_run) == 4
    told = capsys.readouterr()
    assert f"needs 0.05 GB of disk at the worst moment; {tmp_path} has 0.00 GB free" in told.err
    assert ("disk free        1.00 MB" in told.out) == bool(dry_run)


@pytest.mark.parametrize("when", ["tensors", "files"])
def test_a_disk_that_fills_up_leaves_no_half_file(source, tmp_path, monkeypatch, when):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    planned, out = plan.make(inventory.look(source)), tmp_path / "out"
    if when == "files":
        monkeypatch.setattr(shutil, "copyfile", full)
        watch = None
    else:
        watch = lambda event: full() if isinstance(event, writing.TensorWritten) else None  # noqa: E731
    before = everything(tmp_path)
    with pytest.raises(DoesNotFit, match=r"disk filled up while .*\. Make room and give"):
        writing.write(planned, out, *([watch] if watch else []))
    if when == "tensors":
        assert everything(tmp_path) == before
        assert not list(tmp_path.glob("out*"))
    else:
        assert writing.finished(planned, out) == ["model.safetensors"], "whole files stay"


def test_a_place_that_cannot_be_written_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlxarchError, match=r"out cannot be written: .*Not a directory"):
        writing.write(plan.make(inventory.look(source)), tmp_path / "file" / "out")


@pytest.mark.parametrize("change", ["dtype", "gone"])
def test_a_source_that_changes_meanwhile_is_noticed(source, tmp_path, change):
    planned = plan.make(inventory.look(source), recipe=candidate("4"))
    if change == "gone":
        retensor(source, lambda w: w.pop("model.norm.weight"))
    else:
        retensor(source, lambda w: w.update({"model.norm.weight": mx.zeros(64, mx.float16)}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed while it was"):
        writing.write(planned, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
