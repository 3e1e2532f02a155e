"""Folders made to deceive: nothing crashes, hangs, is read outside or is run; each is refused."""

import json
import os
import shutil
import signal
import sys

import mlx.core as mx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

import mlxarch
from mlxarch import ConfigError, FormatError, MlxarchError, checkpoint, shards
from mlxarch.convert import inventory, plan, write
from mlxarch.convert.verify import verify
from mlxarch.files import open_file, read_json
from mlxarch.quantize import quality
from mlxarch.sampling import generation_config
from mlxarch.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def patience():
    """What hangs fails."""

    def end(*_):
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def folder(model, tmp_path):
    """A checkpoint that a test may spoil."""
    return shutil.copytree(model, tmp_path / "model")


def tried(read, *arguments):
    """What is read, or the error of ours instead."""
    try:
        return read(*arguments), None
    except MlxarchError as error:
        return None, error


def hub_cache(model, root):
    """The same checkpoint as the hub's cache keeps it."""
    repository = root / "models--me--mine"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, repository / "blobs" / f"{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    return snapshot


def test_the_hub_s_own_links_are_followed(model, tmp_path):
    snapshot = hub_cache(model, tmp_path)
    mlxarch.load(snapshot)
    Tokenizer(snapshot)
    write.write(plan.make(inventory.look(snapshot)), tmp_path / "out")
    report = verify(tmp_path / "out", snapshot)
    assert report.findings == []
    (tmp_path / "linked").symlink_to(snapshot)
    mlxarch.load(tmp_path / "linked")


def test_a_link_to_another_repository_is_refused(model, tmp_path):
    snapshot = hub_cache(model, tmp_path)
    other = tmp_path / "models--you--yours"
    shutil.copytree(tmp_path / "models--me--mine", other, symlinks=True)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "snapshots" / "abc" / "config.json")
    with pytest.raises(ConfigError, match="outside of the checkpoint"):
        mlxarch.load(snapshot)


READERS = {
    "load": mlxarch.load,
    "look": inventory.look,
    "tokens": Tokenizer,
    "text": quality.read_text,
    "generation": generation_config,
}
WHO_READS = [
    ("model.safetensors", "load"),
    ("model.safetensors", "look"),
    ("config.json", "load"),
    ("config.json", "look"),
    ("tokenizer.json", "look"),
    ("tokenizer.json", "tokens"),
    ("tokenizer.json", "text"),
    ("tokenizer_config.json", "tokens"),
    ("generation_config.json", "generation"),
    ("chat_template.jinja", "look"),
    ("chat_template.jinja", "tokens"),
    ("LICENSE", "look"),
    (shards.INDEX, "load"),
    ("mtp.safetensors", "load"),
]


@pytest.mark.parametrize(("name", "reader"), WHO_READS)
def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path, name, reader):
    secret = tmp_path / "secret"
    if (folder / name).exists():
        (folder / name).rename(secret)
    else:
        secret.write_text('{"secret": 1}')
    (folder / name).symlink_to("../secret")
    with pytest.raises(MlxarchError, match=f"{name} is a link to {secret}, outside of the"):
        READERS[reader](folder)


def test_a_folder_of_templates_that_lies_elsewhere_is_not_followed(folder, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "letter.jinja").write_text("dear")
    (folder / "additional_chat_templates").symlink_to(tmp_path / "private")
    for reader in (inventory.look, Tokenizer):
        with pytest.raises(FormatError, match="outside of the checkpoint"):
            reader(folder)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing", "itself", "device"])
@pytest.mark.parametrize(
    ("name", "reader"),
    [pair for pair in WHO_READS if pair[0] not in ("LICENSE", "chat_template.jinja")],
)
def test_what_is_no_file_is_not_read(folder, name, reader, kind):
    """A pipe that nobody writes to would keep us waiting for ever."""
    file = folder / name
    file.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "nothing":
            file.symlink_to("gone")
        case "itself":
            file.symlink_to(name)
        case "device":
            file.symlink_to("/dev/zero")
    _, error = tried(READERS[reader], folder)
    # What need not be there may as well be ignored.
    assert error is not None or name in MAY_LACK


MAY_LACK = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def test_a_readme_may_be_anything(folder):
    os.mkfifo(folder / "README.md")
    assert inventory.look(folder).card == {}
    (folder / "README.md").unlink()
    laughs = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    (folder / "README.md").write_text(
        f"---\nlicense: mit\nl0: &l0 ha\n{laughs}language: *l11\n---\n"
    )
    assert inventory.look(folder).card == {"license": "mit", "l0": "ha", "l1": ["ha"] * 9}
    assert "language" not in plan.make(inventory.look(folder)).readme


def test_a_config_that_is_too_large_or_too_deep_is_refused(folder):
    file = folder / "config.json"
    with file.open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(ConfigError, match="more than 16,000,000 bytes"):
        mlxarch.load(folder)
    for depth in (70, 900):
        file.write_text('{"a":' * depth + "1" + "}" * depth)
        with pytest.raises(ConfigError, match="nested more than 64 deep"):
            mlxarch.load(folder)
    file.write_text('{"a":' * 60 + "1" + "}" * 60)
    assert read_json(file)


def test_sizes_that_no_model_has_are_not_tried(folder):
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "head_dim"):
        for value in (2**31, 2**63, 10**40):
            file.write_text(json.dumps(raw | {key: value}))
            with pytest.raises(ConfigError, match=rf"^{key} is {value} in config.json; a whole"):
                mlxarch.load(folder)
    file.write_text(json.dumps(raw | {"head_dim": 2**30}))
    with pytest.raises(ConfigError, match="RoPE is to rotate 1073741824 features"):
        mlxarch.load(folder)


ANY = st.sampled_from(
    [0, -1, 1, 3, 2**31, 2**63, 1e300, 0.5, True, None, "", "x", [], [1], {}, {"a": 1}, [[]]]
)


@given(changes=st.dictionaries(st.sampled_from(sorted(tiny.CONFIGS["llama"])), ANY, min_size=1))
def test_any_config_builds_a_model_or_is_refused(model, changes):
    raw = tiny.CONFIGS["llama"] | changes
    _, error = tried(checkpoint.assemble, raw, checkpoint.read(model))
    assert "\n" not in str(error)


@given(
    entry=st.fixed_dictionaries(
        {},
        optional={
            "bits": ANY | st.sampled_from([4, 8]),
            "group_size": ANY | st.sampled_from([32, 64]),
            "mode": ANY | st.sampled_from(["affine", "mxfp4", "nvfp4"]),
            "model.layers.0.mlp.up_proj": ANY | st.just({"bits": 4, "group_size": 0}),
        },
    )
)
def test_any_quantization_is_read_or_refused(packed, entry):
    """Groups of 0 would end the process: MLX divides by them."""
    raw, weights = packed
    _, error = tried(checkpoint.assemble, raw | {"quantization": entry}, weights)
    assert error is None or any(word in str(error) for word in ("quantization", "tensors", "shape"))


@pytest.fixture(scope="module")
def packed(model):
    """A config.json and tensors of which one module is quantized."""
    weights = checkpoint.read(model)
    up = "model.layers.0.mlp.up_proj"
    parts = mx.quantize(weights[f"{up}.weight"], group_size=32, bits=4)
    named = zip(("weight", "scales", "biases"), parts, strict=True)
    return tiny.CONFIGS["llama"], weights | {f"{up}.{end}": part for end, part in named}


EVIL = "import pathlib\npathlib.Path({marker!r}).write_text('run')\nclass Evil: pass\n"


def test_code_in_a_checkpoint_is_never_run(folder, tmp_path, monkeypatch, capsys):
    marker = tmp_path / "marker"
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py", "setup.py"):
        (folder / name).write_text(EVIL.format(marker=str(marker)))
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        raw = json.loads((folder / name).read_text())
        module = "configuration_evil.Evil"
        classes = {
            "AutoConfig": module,
            "AutoModelForCausalLM": "modeling_evil.Evil",
            "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
        }
        more = {"auto_map": classes, "model_file": "modeling_evil.py", "tokenizer_file": "setup.py"}
        (folder / name).write_text(json.dumps(raw | more))
        assert key in classes
    monkeypatch.chdir(folder)
    mlxarch.load(folder)
    Tokenizer(folder)
    quality.read_text(folder)
    out = tmp_path / "out"
    write.write(plan.make(inventory.look(folder)), out)
    assert verify(out, folder).findings == []
    assert not list(out.rglob("*.py"))
    written = json.loads((out / "config.json").read_text())
    assert "auto_map" not in written
    assert "model_file" not in written
    Tokenizer(out)
    assert not marker.exists()
    assert not [name for name in sys.modules if "evil" in name]


def test_an_open_file_is_a_file(folder, tmp_path):
    with open_file(folder / "config.json") as file:
        assert json.load(file)
    (folder / "inner.json").symlink_to("config.json")
    assert read_json(folder / "inner.json")
    with pytest.raises(FileNotFoundError):
        open_file(folder / "gone")
