"""Loading is strict: exactly the model's tensors, or an error that names them as the hub does."""

import contextlib
import json
import shutil

import mlx.core as mx
import pytest
from goldens import NAMES, Golden
from hypothesis import given
from hypothesis import strategies as st

import mlxarch
from mlxarch import CheckpointError, ConfigError, FormatError, MlxarchError, checkpoint

NORM = "model.layers.1.input_layernorm.weight"
# Qwen 3.5 is named as it lies beside its vision tower, even if it comes without.
INSIDE = r"(?:language_model\.)?"
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture
def write(tmp_path):
    """Writes a checkpoint with some tensors (None takes one away) and config keys changed."""

    def written(name, tensors=None, **keys):
        golden = Golden(name)
        weights = checkpoint.read(golden.folder) | (tensors or {})
        weights = {name: w for name, w in weights.items() if w is not None}
        mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
        (tmp_path / "config.json").write_text(json.dumps(golden.config() | keys))
        return tmp_path

    return written


def packed(weight, **recipe):
    """A tensor's quantized parts under its name's ends."""
    parts = mx.quantize(weight.astype(mx.float32), **recipe)
    return dict(zip(("weight", "scales", "biases"), parts, strict=False))


def quantized_up(**recipe):
    """One layer's up_proj, quantized."""
    weight = checkpoint.read(Golden("llama_tied").folder)[f"{UP}.weight"]
    return {f"{UP}.{end}": part for end, part in packed(weight, **recipe).items()}


def test_a_missing_tensor_is_named_as_on_the_hub(write, golden):
    with pytest.raises(CheckpointError, match=rf"^1 tensors are missing: {INSIDE}{NORM}\.$"):
        mlxarch.load(write(golden.name, {NORM: None}))


def test_many_missing_tensors_are_counted(write):
    names = checkpoint.read(Golden("tiny_aya").folder)
    with pytest.raises(CheckpointError, match=r"^41 tensors are missing: .* and 33 more\.$"):
        mlxarch.load(write("tiny_aya", dict.fromkeys(sorted(names)[: 5 * 8 + 1])))


@pytest.mark.parametrize("left", ["model.new.weight", "model.layers.0.mlp.new.weight"])
def test_a_left_over_tensor_is_named_as_on_the_hub(write, golden, left):
    with pytest.raises(CheckpointError, match=rf"^1 tensors have no place: {INSIDE}{left}\. "):
        mlxarch.load(write(golden.name, {left: mx.zeros(3)}))


@pytest.mark.parametrize("name", ["nanbeige41", "tiny_aya", "trinity"])
def test_a_layer_past_the_last_is_left_over_where_there_are_no_heads(write, name):
    left = "model.layers.9.mlp.up_proj.weight"
    with pytest.raises(CheckpointError, match=rf"^1 tensors have no place: {left}\. "):
        mlxarch.load(write(name, {left: mx.zeros(3)}))


@pytest.mark.parametrize(
    ("name", "said"),
    [("glm5", "missing"), ("step35", "lists 2 heads for further tokens; 3 are here")],
)
def test_a_head_that_is_not_whole_is_refused(write, name, said):
    with pytest.raises(MlxarchError, match=said):
        mlxarch.load(write(name, {"model.layers.9.mlp.up_proj.weight": mx.zeros(3)}))


def test_a_misshapen_tensor_is_named_with_both_shapes(write, golden):
    dim = golden.config()["hidden_size"]
    said = rf"^{INSIDE}{NORM} has shape \[3\]; .* makes it \[{dim}\]"
    with pytest.raises(CheckpointError, match=said):
        mlxarch.load(write(golden.name, {NORM: mx.zeros(3)}))


def test_numbers_of_the_wrong_kind_are_named(write):
    name = f"{UP}.weight"
    whole = mx.zeros(checkpoint.read(Golden("nanbeige41").folder)[name].shape, dtype=mx.uint8)
    with pytest.raises(CheckpointError, match=rf"^{name} holds uint8; .*float"):
        mlxarch.load(write("nanbeige41", {name: whole}))


def test_a_tensor_under_two_names_is_refused(write, golden):
    dim = golden.config()["hidden_size"]
    with pytest.raises(CheckpointError, match=r"^norm\.weight is .* under two names"):
        mlxarch.load(write(golden.name, {"norm.weight": mx.ones(dim)}))


@pytest.mark.parametrize("name", ["llama_tied", "tiny_aya", "qwen35_dense"])
def test_the_head_of_a_tied_model_is_dropped(write, name):
    raw = Golden(name).config()
    head = mx.zeros((raw["vocab_size"], raw["hidden_size"]))
    model = mlxarch.load(write(name, {"lm_head.weight": head}))
    assert model.head is None
    assert mx.abs(model(mx.array([[3]]))).max() > 0.1


@pytest.mark.parametrize("name", ["nanbeige41", "glm5", "qwen35_moe", "step35", "trinity"])
def test_the_head_of_an_untied_model_is_needed(write, name):
    with pytest.raises(CheckpointError, match=rf"missing: {INSIDE}lm_head\.weight\.$"):
        mlxarch.load(write(name, {"lm_head.weight": None}))


def test_stored_rope_frequencies_are_dropped(write, golden):
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": mx.zeros(8) for i in range(2)}
    mlxarch.load(write(golden.name, extra))


def test_heads_with_an_output_of_their_own_use_it(write):
    """As Step 3.5 Flash is released."""
    weights, outputs = checkpoint.read(Golden("step35").folder), {}
    for j in range(2):
        layer, key = f"model.layers.{6 + j}", mx.random.key(j)
        norm = f"{layer}.shared_head.norm.weight"
        outputs[f"{layer}.transformer.shared_head.norm.weight"] = weights[norm]
        own = mx.random.normal((131, 36), key=key)
        outputs |= {norm: None, f"{layer}.transformer.shared_head.output.weight": own}
    model = mlxarch.load(write("step35", outputs))
    x = mx.random.normal((1, 2, 36))
    for j, head in enumerate(model.mtp):
        own = outputs[f"model.layers.{6 + j}.transformer.shared_head.output.weight"]
        assert mx.allclose(head.head(x), x @ own.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", [{"group_size": 32, "bits": 4}, {"group_size": 64, "bits": 8}])
def test_a_layer_that_is_quantized_otherwise_says_so_under_the_hubs_path(write, recipe):
    tensors = quantized_up(**recipe)
    common = {"group_size": 32, "bits": 3}
    model = mlxarch.load(write("llama_tied", tensors, quantization=common | {UP: recipe}))
    layer = model.layers[1].mlp.up_proj
    assert (layer.group_size, layer.bits) == (recipe["group_size"], recipe["bits"])
    assert layer.weight.dtype == mx.uint32
    assert not hasattr(model.layers[0].mlp.up_proj, "bits")


def test_scales_that_config_does_not_explain_are_left_over(write):
    tensors = quantized_up(group_size=32, bits=4)
    with pytest.raises(CheckpointError, match=rf"no place: {UP}\.biases, {UP}\.scales\. "):
        mlxarch.load(write("llama_tied", tensors))


def test_quantization_without_bits_is_refused(write):
    with pytest.raises(CheckpointError, match=r"quantization in config\.json lacks bits\."):
        mlxarch.load(write("llama_tied", quantization={"group_size": 32}))


@pytest.mark.parametrize(
    "recipe",
    [
        {"group_size": 32, "bits": 8},
        {"group_size": 64, "bits": 4},
        {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    ],
)
def test_scales_of_another_recipe_are_refused(write, recipe):
    tensors = quantized_up(group_size=32, bits=4)
    with pytest.raises(CheckpointError, match=UP):
        mlxarch.load(write("llama_tied", tensors, quantization=recipe))


@pytest.mark.parametrize(
    "recipe",
    [
        {"group_size": 31, "bits": 4},
        {"group_size": 32, "bits": 9},
        {"group_size": 32, "bits": 4, "mode": "int4"},
        {"group_size": 128, "bits": 4},
    ],
)
def test_a_recipe_that_mlx_does_not_know_is_refused(write, recipe):
    tensors = quantized_up(group_size=32, bits=4)
    with pytest.raises((CheckpointError, FormatError), match=r"quantization in config\.json"):
        mlxarch.load(write("llama_tied", tensors, quantization=recipe))


def test_sizes_that_cannot_be_built_are_a_fault_of_the_config(write):
    with pytest.raises(ConfigError, match="5 query heads cannot share 2"):
        mlxarch.load(write("nanbeige41", num_key_value_heads=2))


@given(st.data())
def test_any_value_of_any_key_loads_or_is_refused(data):
    golden = Golden(data.draw(st.sampled_from(NAMES)))
    raw = node = golden.config(data.draw(st.sampled_from(["tf4", "tf5"])))
    # Whole numbers stay small: no size is too large to describe, only to build.
    scalar = st.none() | st.booleans() | st.integers(-2, 70) | st.floats() | st.text(max_size=5)
    value = scalar | st.lists(scalar, max_size=9) | st.dictionaries(st.text(), scalar, max_size=2)
    key = data.draw(st.sampled_from(sorted(node)))
    while isinstance(node[key], dict) and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node)))
    node[key] = data.draw(value)
    with contextlib.suppress(MlxarchError):
        checkpoint.assemble(raw, checkpoint.read(golden.folder))


def test_a_truncated_shard_is_named(golden, tmp_path):
    folder = shutil.copytree(golden.folder, tmp_path / "copy")
    shard = sorted(folder.glob("model*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(FormatError, match=f"{shard.name} is truncated"):
        mlxarch.load(folder)


def dtypes(model):
    return {w.dtype for w in checkpoint.parameters(model).values()}


def test_floats_are_cast_to_what_is_asked(golden):
    assert dtypes(mlxarch.load(golden.folder, dtype=mx.bfloat16)) == {mx.bfloat16}
    assert dtypes(mlxarch.load(str(golden.folder), dtype=mx.float32)) == {mx.float32}


@pytest.mark.parametrize(("device", "wanted"), [("CPU", mx.float32), ("Metal", mx.bfloat16)])
def test_without_asking_the_device_decides(monkeypatch, device, wanted):
    monkeypatch.setattr("mlxarch.backend.device", lambda: device)
    assert dtypes(mlxarch.load(Golden("nanbeige41").folder)) == {wanted}


def test_progress_counts_every_byte_once(monkeypatch, golden):
    monkeypatch.setattr(checkpoint, "_PIECE", 20_000)
    seen = []
    model = mlxarch.load(golden.folder, progress=lambda done, total: seen.append((done, total)))
    total = sum(w.nbytes for w in checkpoint.parameters(model).values())
    done = [step for step, _ in seen]
    assert len(done) > 3
    assert done == sorted(set(done))
    assert {t for _, t in seen} == {total} == {done[-1]}
