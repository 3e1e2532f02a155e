"""Files that are not what they say: damage is named, whatever it is, and nothing else happens."""

import json
import struct

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxarch import CheckpointError, ConfigError, FormatError, MlxarchError, checkpoint, shards

TENSORS = {"a": mx.arange(6).reshape(2, 3), "b.c": mx.ones(5), "d": mx.zeros((0, 4))}
PLAIN = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}


@pytest.fixture
def shard(tmp_path):
    file = tmp_path / "model.safetensors"
    mx.save_safetensors(str(file), TENSORS, metadata={"format": "mlx"})
    return file


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A shard that each example of a property writes anew."""
    file = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    mx.save_safetensors(str(file), TENSORS, metadata={"format": "mlx"})
    return file, file.read_bytes()


def write(file, header, body=bytes(16)):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return file


def listed(folder, weight_map):
    (folder / shards.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def read_or_refuse(file):
    """Read all there is; an error of ours is as good."""
    try:
        weights = checkpoint.read(file.parent)
    except MlxarchError:
        return
    for weight in weights.values():
        np.array(weight.astype(mx.float32))


def test_a_sound_header_is_read(shard):
    infos = shards.read_headers([shard])
    assert {name: info.shape for name, info in infos.items()} == {
        name: w.shape for name, w in TENSORS.items()
    }
    assert (infos["a"].dtype, infos["a"].bytes, infos["a"].shard) == ("I32", 24, shard)


@given(st.data())
def test_no_truncation_goes_unnoticed(scratch, data):
    file, whole = scratch
    size = data.draw(st.integers(0, len(whole) - 1))
    file.write_bytes(whole[:size])
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        checkpoint.read(file.parent)


@given(st.binary(min_size=1, max_size=40))
def test_nothing_may_follow_the_tensors(scratch, more):
    file, whole = scratch
    file.write_bytes(whole + more)
    with pytest.raises(FormatError, match="its header promises"):
        checkpoint.read(file.parent)


@given(at=st.integers(0, 300), byte=st.integers(0, 255))
def test_a_wrong_byte_is_refused_or_harmless(scratch, at, byte):
    file, whole = scratch
    file.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    read_or_refuse(file)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(scratch, raw):
    file, _ = scratch
    file.write_bytes(raw)
    read_or_refuse(file)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner)
            | st.fixed_dictionaries(
                {
                    "dtype": st.sampled_from([*shards._BITS, "F4", 7]),
                    "shape": st.lists(st.integers(-1, 4) | inner, max_size=3),
                    "data_offsets": st.lists(st.integers(-1, 16) | inner, max_size=3),
                }
            )
        ),
    )
)
def test_any_json_is_refused_or_read(scratch, header):
    file, _ = scratch
    read_or_refuse(write(file, header))
    read_or_refuse(write(file, {"a": header}))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16.0]},
        {"dtype": "F32", "shape": [4, True], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]},
        {"dtype": "Q4_0", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4]},
        {},
        [],
        None,
    ],
)
def test_an_entry_that_contradicts_itself_is_damage(tmp_path, entry):
    file = write(tmp_path / "model.safetensors", {"a": entry})
    with pytest.raises(FormatError, match="damaged header"):
        shards.read_headers([file])


@pytest.mark.parametrize(
    ("a", "b"),
    [([0, 16], [0, 16]), ([0, 16], [12, 28]), ([0, 16], [20, 36]), ([4, 20], [20, 36])],
)
def test_gaps_and_overlaps_are_damage(tmp_path, a, b):
    spans = {"a": a, "b": b}
    header = {k: {"dtype": "F32", "shape": [4], "data_offsets": v} for k, v in spans.items()}
    file = write(tmp_path / "model.safetensors", header, bytes(b[1]))
    with pytest.raises(FormatError, match="gap or overlap"):
        shards.read_headers([file])


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 50_000,
        b"\xff\xfe{}",
        b"",
    ],
    ids=["deep lists", "deep objects", "not UTF-8", "empty"],
)
def test_a_header_that_is_no_header_is_damage(tmp_path, header):
    file = write(tmp_path / "model.safetensors", header)
    with pytest.raises(FormatError, match="damaged header"):
        shards.read_headers([file])


def test_a_name_stands_once_in_a_header(tmp_path):
    entry = json.dumps(PLAIN["a"])
    header = f'{{"a": {entry}, "a": {entry}}}'.encode()
    with pytest.raises(FormatError, match="a name stands twice"):
        shards.read_headers([write(tmp_path / "model.safetensors", header)])


def test_a_header_longer_than_the_file_is_not_believed(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(FormatError, match="truncated or no safetensors file: 10 bytes"):
        shards.read_headers([file])


def test_what_mlx_cannot_hold_is_named(tmp_path):
    entry = {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}
    write(tmp_path / "model.safetensors", {"a": entry})
    with pytest.raises(FormatError, match=r"cannot be read by MLX: .*F64"):
        checkpoint.read(tmp_path)


def test_one_tensor_in_two_shards_is_refused(tmp_path):
    for n in (1, 2):
        write(tmp_path / f"model-{n}.safetensors", PLAIN)
    with pytest.raises(CheckpointError, match=r"^a is in model-1\.safetensors and model-2\."):
        shards.read_headers(shards.find(tmp_path))


def test_the_index_says_which_shards_belong(shard, tmp_path):
    shard.rename(tmp_path / "part.safetensors")
    write(tmp_path / "model-of-another-day.safetensors", PLAIN)
    listed(tmp_path, {"a": "part.safetensors"})
    assert shards.find(tmp_path) == [tmp_path / "part.safetensors"]


def test_a_missing_shard_is_named(shard, tmp_path):
    listed(tmp_path, {"a": "model.safetensors", "b": "model-2.safetensors"})
    with pytest.raises(CheckpointError, match=r"lacks model-2\.safetensors of the 2 shards"):
        shards.find(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../m.safetensors", "/m.safetensors", "sub/m.safetensors", "..", ".", "", 7, "\0", "\x1b[2J"],
)
def test_shards_lie_in_the_folder(shard, tmp_path, name):
    listed(tmp_path, {"a": name})
    with pytest.raises(FormatError, match="must lie in the same folder"):
        shards.find(tmp_path)


@pytest.mark.parametrize("name", ["sub", "n" * 300])
def test_what_is_no_file_is_missing(tmp_path, name):
    (tmp_path / "sub").mkdir()
    listed(tmp_path, {"a": name})
    with pytest.raises(CheckpointError, match="of the 1 shards"):
        shards.find(tmp_path)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": []}}', "[" * 50_000]
)
def test_an_index_that_is_no_index_is_refused(shard, tmp_path, index):
    (tmp_path / shards.INDEX).write_text(index)
    with pytest.raises(FormatError, match=r"index\.json (is no index|cannot be read|holds a)"):
        shards.find(tmp_path)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model\*\.safetensors"):
        shards.find(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 50_000])
def test_a_config_that_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        shards.read_config(tmp_path)


def test_a_config_must_be_there_and_be_an_object(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        shards.read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="holds a list; an object is wanted"):
        shards.read_config(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json"):
        shards.read_config(tmp_path / "config.json")
