"""Safetensors files made to deceive, or damaged anyhow: huggingface's own library is the judge.

Nothing crashes, hangs or is believed; what we accept is what safetensors and MLX find, to the byte.
"""

import json
import struct

import mlx.core as mx
import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from mlxarch import CheckpointError, FormatError, MlxarchError, checkpoint, shards

TENSORS = {
    "a": mx.arange(6).reshape(2, 3),
    "b.c": mx.ones(5, dtype=mx.bfloat16),
    "d": mx.zeros((0, 4)),
    "e": mx.array(1.5),
}
ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A shard that each example of a property writes anew, and its bytes."""
    file = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    mx.save_safetensors(str(file), TENSORS, metadata={"format": "mlx"})
    return file, file.read_bytes()


def put(file, header, body=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return file


def tried(read, *arguments):
    """What is read, or the error of ours instead."""
    try:
        return read(*arguments), None
    except MlxarchError as error:
        return None, error


def judged(file):
    """Read a file with both readers: what we accept is what safetensors finds, to the byte.

    We may refuse more: names that a terminal should not see, shapes that MLX cannot hold, and
    types that nobody stores weights in.
    """
    raw = file.read_bytes()
    infos, error = tried(shards.read_headers, [file])
    if error is not None:
        assert str(file) in str(error)
        return None
    theirs = dict(safetensors.deserialize(raw))
    assert {name: (i.dtype, list(i.shape)) for name, i in infos.items()} == {
        name: (tensor["dtype"], tensor["shape"]) for name, tensor in theirs.items()
    }
    for name, info in infos.items():
        assert raw[info.start : info.start + info.bytes] == bytes(theirs[name]["data"])
    return infos


def read_by_mlx(file, infos):
    """MLX finds the same, or we say in our words that it cannot."""
    weights, error = tried(checkpoint.read, file.parent)
    if error is not None:
        assert "cannot be read by MLX" in str(error)
        return
    raw = file.read_bytes()
    assert weights.keys() == infos.keys()
    for name, info in infos.items():
        assert weights[name].shape == info.shape
        stored = bytes(np.array(weights[name].reshape(-1).view(mx.uint8)))
        assert stored == raw[info.start : info.start + info.bytes]


def test_what_is_sound_is_read_by_all_three(sound):
    file, whole = sound
    file.write_bytes(whole)
    read_by_mlx(file, judged(file))


@given(data=st.data())
def test_any_change_of_a_sound_file_is_judged_as_safetensors_does(sound, data):
    file, whole = sound
    raw = bytearray(whole)
    length = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(raw), length + 4) - 1))
        match data.draw(st.sampled_from(["set", "digit", "insert", "delete", "repeat", "cut"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "digit":
                raw[at] = data.draw(st.sampled_from(b'0123456789-.e"[]{}:, '))
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del raw[at : at + data.draw(st.integers(1, 4))]
            case "repeat":
                raw[at:at] = raw[at : at + data.draw(st.integers(1, 60))]
            case "cut":
                del raw[max(9, at) :]
    if data.draw(st.booleans()):
        # The header's length is right again, so that more than that is tested.
        change = len(raw) - len(whole)
        raw[:8] = struct.pack("<Q", max(0, length - 8 + change))
    file.write_bytes(raw)
    if (infos := judged(file)) is not None:
        read_by_mlx(file, infos)


ODD = st.sampled_from(
    [0, 1, 2, 4, 16, -1, -0.0, 4.0, 1e3, True, None, "4", 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "BOOL", "F8_E4M3", "F4", "F64", "f32", 7]),
        "shape": st.lists(ODD | st.integers(0, 4), max_size=4) | ODD,
        "data_offsets": st.lists(ODD | st.integers(0, 16), min_size=1, max_size=3) | ODD,
    },
    optional={"extra": ODD | st.lists(ODD, max_size=2)},
)
NAMES = st.text(max_size=4) | st.sampled_from(
    ["__metadata__", "a", "../a", "a\0", "\x1b[2J", "a\n"]
)
METADATA = st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3) | ODD) | ODD


@given(
    entries=st.lists(st.tuples(NAMES, ENTRIES | ODD | st.just([])), max_size=3),
    metadata=st.just({}) | METADATA,
    body=st.integers(0, 40),
    ends=st.sampled_from(
        [("", ""), ("", "   "), (" ", ""), ("", "\n"), ("\ufeff", ""), ("", "{}")]
    ),
)
def test_any_header_is_judged_as_safetensors_does(sound, entries, metadata, body, ends):
    """Names may stand twice, which json.dumps would not write."""
    file, _ = sound
    pairs = [*entries, ("__metadata__", metadata)]
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in pairs)
    put(file, f"{ends[0]}{{{text}}}{ends[1]}".encode(), bytes(body))
    if (infos := judged(file)) is not None:
        read_by_mlx(file, infos)


@given(
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    moves=st.lists(st.tuples(st.integers(0, 4), st.integers(-4, 4)), max_size=2),
)
def test_any_layout_of_bytes_is_judged_as_safetensors_does(sound, cuts, moves):
    """Tensors of so many bytes one behind the other, some moved so that they may overlap."""
    file, _ = sound
    entries, end = {}, 0
    for i, size in enumerate(cuts):
        entries[f"t{i}"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    for i, by in moves:
        if f"t{i}" in entries:
            spans = entries[f"t{i}"]["data_offsets"]
            entries[f"t{i}"]["data_offsets"] = [spans[0] + by, spans[1] + by]
    put(file, entries, bytes(end))
    infos = judged(file)
    if all(by == 0 or f"t{i}" not in entries for i, by in moves):
        assert infos is not None


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"a": ENTRY | {"shape": [2**31 - 1] * 3 + [0], "data_offsets": [0, 0]}}, "the shape"),
        ({"a": ENTRY | {"shape": [2**31, 0], "data_offsets": [0, 0]}}, "the shape"),
        ({"a": ENTRY | {"shape": [4] + [1] * 8}}, "a shape of 9 sizes"),
        ({"a" * 501: ENTRY}, "501 characters"),
        ({"": ENTRY}, "a tensor is called ''"),
        ({"../../a": ENTRY}, "a tensor is called"),
        ({"a\\b": ENTRY}, "a tensor is called"),
        ({"a\0": ENTRY}, "a tensor is called"),
        ({"\u202egpj": ENTRY}, "a tensor is called"),
        ({"__metadata__": {"a": 1}, "b": ENTRY}, "__metadata__ is not texts"),
        ({"__metadata__": [], "b": ENTRY}, "__metadata__ is not texts"),
        ({"__metadata__": {"a": "\ud800"}, "b": ENTRY}, "UnicodeEncodeError"),
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [-0, 16]}}', "the number -0"),
        (b'{"a": {"dtype": "F32", "shape": [4e0], "data_offsets": [0, 16]}}', "the number 4e0"),
        (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}', "the number NaN"),
        (json.dumps({"a": ENTRY}).encode("utf-16"), "UnicodeDecodeError"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}", "the number 9999"),
        ({"a": ENTRY | {"dtype": "F" * 10**6}}, "KeyError"),
    ],
)
def test_what_no_checkpoint_has_is_named(tmp_path, header, told):
    file = put(tmp_path / "model.safetensors", header, bytes(16))
    with pytest.raises(FormatError, match=told) as error:
        shards.read_headers([file])
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 17])
def test_a_length_is_not_believed(tmp_path, length):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(14))
    with pytest.raises(FormatError, match=f"header alone would be {length:,}"):
        shards.read_headers([file])


def test_a_header_beyond_the_format_s_limit_is_not_read(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 100_000_001))
        stream.truncate(10**12)  # a hole, which takes no room
    with pytest.raises(FormatError, match="header alone"):
        shards.read_headers([file])


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "model-2.safetensors", "b": "model-2.safetensors"},
        {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"},
        {"a": "model-2.safetensors", "b": "model-1.safetensors"},
    ],
    ids=["another shard", "absent", "exchanged"],
)
def test_an_index_that_lies_is_refused(tmp_path, weight_map):
    put(tmp_path / "model-1.safetensors", {"a": ENTRY}, bytes(16))
    put(tmp_path / "model-2.safetensors", {"b": ENTRY}, bytes(16))
    index = tmp_path / shards.INDEX
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"^[ac] is in model-\d\.safetensors according to"):
        shards.read_headers(shards.find(tmp_path))
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    assert shards.read_headers(shards.find(tmp_path)).keys() == {"a", "b"}


def test_an_index_of_a_million_shards_is_answered_in_a_line(tmp_path):
    names = {f"t{i}": f"model-{i}.safetensors" for i in range(10**5)}
    (tmp_path / shards.INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match="and 99992 more of the 100000 shards") as error:
        shards.find(tmp_path)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("change", [{"shape": [-4]}, {"shape": [5]}, {"data_offsets": [16, 0]}, {}])
def test_entries_that_another_reader_found_are_checked_as_well(tmp_path, change):
    """The hub sends headers before files."""
    file = tmp_path / "model.safetensors"
    header = {"a": {**ENTRY, **change}}
    if not change:
        assert shards.read_entries(header, file)["a"].shape == (4,)
        return
    with pytest.raises(FormatError, match=r"model\.safetensors has a damaged header"):
        shards.read_entries(header, file)
