"""What lies in a converted folder: shards, index, files that travel; and what a plan promises."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
import tiny
from safetensors import safe_open

import mlxarch
from mlxarch.convert import inventory, plan
from mlxarch.convert.write import write
from mlxarch.quantize.recipes import candidate

IDS = mx.array([[(7 * i * i + 3) % 256 for i in range(40)]])
EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source")


def logits(folder: Path) -> mx.array:
    return mlxarch.load(folder)(IDS)


def test_shards_are_small_and_the_index_knows_them(source, tmp_path):
    planned = plan.make(inventory.look(source), shard_bytes=40_000)
    write(planned, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    count = len(planned.shards)
    assert count > 2
    assert [s.name for s in shards] == [
        f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
    ]
    assert all(shard.stat().st_size <= 40_000 for shard in shards)
    assert sum(shard.stat().st_size for shard in shards) == planned.bytes_out
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    held = {}
    for shard in shards:
        with safe_open(shard, "numpy") as file:  # the format's own reader
            assert file.metadata() == {"format": "mlx"}
            held |= dict.fromkeys(file.keys(), shard.name)
    assert index["weight_map"] == dict(sorted(held.items()))
    assert mx.array_equal(logits(tmp_path / "out"), logits(source))


def test_a_tensor_larger_than_a_shard_has_one_to_itself(source, tmp_path):
    planned = plan.make(inventory.look(source), shard_bytes=1_000)
    assert {len(shard.outputs) for shard in planned.shards} <= {1, 2, 3}
    write(planned, tmp_path / "out")
    assert mx.array_equal(logits(tmp_path / "out"), logits(source))


def test_layers_are_written_in_their_order(tmp_path):
    source = tiny.save(tmp_path / "source", num_hidden_layers=12)
    names = [o.name for o in plan.make(inventory.look(source)).outputs if "q_proj" in o.name]
    assert names == [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(12)]


def test_tokenizer_template_and_licence_travel_and_code_does_not(source, tmp_path):
    along = {
        "generation_config.json": '{"eos_token_id": [1, 2]}',
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
        "special_tokens_map.json": "{}",
        "merges.txt": "a b",
        "tokenizer.model": "pieces",
        "LICENSE": "as you like",
    }
    left = {
        "modeling_llama.py": "import os",
        "chat_template.py": "import os",
        "pytorch_model.bin": "x",
        "original/params.json": "{}",
        "notes.json": "{}",
        "additional_chat_templates/evil.py": "import os",
    }
    for name, text in (along | left).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    # The hub's cache is made of links.
    (source / "merges.txt").rename(source / "blob")
    (source / "merges.txt").symlink_to("blob")

    out = tmp_path / "out"
    write(plan.make(inventory.look(source)), out)
    files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if not p.is_dir()}
    own = {"config.json", "README.md", "model.safetensors", "model.safetensors.index.json"}
    own |= {"mlxarch.json"}
    assert files.keys() == own | along.keys() | {"tokenizer.json", "tokenizer_config.json"}
    assert not any(path.is_symlink() for path in files.values())
    assert {name: files[name].read_text() for name in along} == along
    assert files["tokenizer.json"].read_bytes() == (source / "tokenizer.json").read_bytes()


def test_the_card_keeps_the_licence_and_says_where_it_comes_from(source, tmp_path):
    from huggingface_hub import ModelCard

    (source / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\nlanguage: [de, ja]\nextra_gated_prompt: no\n---\n# Theirs\n"
    )
    write(
        plan.make(inventory.look(source, "them/theirs"), recipe=candidate("4g32")), tmp_path / "out"
    )
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "base_model": "them/theirs",
        "language": ["de", "ja"],
        "library_name": "mlx",
        "license": "cc-by-nc-4.0",
        "pipeline_tag": "text-generation",
        "tags": ["mlx"],
    }
    assert "4-bit affine, groups of 32" in card.text
    assert mlxarch.__version__ in card.text
    # Whoever converts the result again still knows the origin.
    assert inventory.look(tmp_path / "out").repo == "them/theirs"


@pytest.mark.parametrize("head", ["---\n- a\n---\n", "---\na: [\n---\n", "", "\udcff"])
def test_a_card_that_cannot_be_read_is_no_obstacle(source, head):
    (source / "README.md").write_text(head, errors="surrogateescape")
    assert inventory.look(source).card == {}


def test_the_plan_knows_every_byte(tmp_path, monkeypatch):
    source = tiny.save(tmp_path / "source", **EVEN)
    before = mx.load(str(source / "model.safetensors"))
    with monkeypatch.context() as patched:
        patched.setattr(mx, "load", None)
        patched.setattr(mx, "eval", None)
        planned = plan.make(inventory.look(source), recipe=candidate("4g32"), shard_bytes=20_000)
    assert planned.bytes_in == sum(w.nbytes for w in before.values())
    write(planned, tmp_path / "out")
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert planned.bytes_out == sum(file.stat().st_size for file in files)
    weights = [w for file in files for w in mx.load(str(file)).values()]
    count = sum(w.size for w in before.values())
    assert planned.parameters == count
    assert planned.bits_per_weight == sum(w.nbytes for w in weights) * 8 / count


def test_a_plan_from_headers_costs_no_memory(tmp_path):
    folder = tmp_path / "huge"
    tiny.save(folder)
    raw = {**tiny.CONFIGS["llama"], "vocab_size": 1 << 24}
    (folder / "config.json").write_text(json.dumps(raw))
    small = mx.load(str(folder / "model.safetensors"))
    shapes = {n: [1 << 24, 32] if w.shape[0] == 264 else list(w.shape) for n, w in small.items()}
    entries, end = {}, 0
    for name, shape in shapes.items():
        count = 4 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + count]}
        end += count
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)  # sparse: 4 GB of nothing
    mx.reset_peak_memory()
    planned = plan.make(inventory.look(folder), recipe=candidate("4g32"))
    assert planned.bytes_in == end > 4e9
    assert mx.get_peak_memory() - mx.get_active_memory() < 10e6
