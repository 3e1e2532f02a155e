"""`mlxarch show` and `mlxarch compare`: what they draw, count, and say when they cannot."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from click.testing import CliRunner

from mlxarch import anatomy, checkpoint, registry
from mlxarch.app.anatomy import period, plan
from mlxarch.app.cli import cli
from mlxarch.names import rules
from mlxarch.words import many, size

CONFIGS = Path(__file__).parent / "configs"
QWEN = {
    "model_type": "qwen3_next",
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "rope_theta": 10000,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "max_position_embeddings": 4096,
}


def released(name):
    return str(CONFIGS / f"{name}.json")


def invoke(*arguments, **environment):
    """The command in a pipe of 80 columns."""
    environment = {"COLUMNS": "80", "FORCE_COLOR": None, "NO_COLOR": None, **environment}
    return CliRunner().invoke(cli, arguments, env=environment)


def shown(*arguments, width=80):
    """What stands on stdout, less spaces at the ends of lines."""
    result = invoke(*arguments, COLUMNS=str(width))
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= width
    return "\n".join(lines) + "\n"


def write(folder, raw, *, heads=False, bits=None):
    """A checkpoint of `raw` in mlx-lm's spelling; its weights are all zero."""
    architecture = registry.find(raw)
    config = architecture.model.Config.from_hub(raw)
    model = architecture.model.build(config)
    if heads:
        model.mtp = architecture.model.build_mtp(config, {"mtp.0"})
    model.apply(mx.zeros_like)
    if bits:
        nn.quantize(model, group_size=64, bits=bits)
        raw = {**raw, "quantization": {"group_size": 64, "bits": bits}}
    table = rules.inverse(architecture.names.table(config))
    theirs = rules.translate(table, checkpoint.parameters(model))
    (folder / "config.json").write_text(json.dumps(raw))
    mx.save_safetensors(str(folder / "model.safetensors"), theirs)


TRINITY = """\
arcee-ai__Trinity-Large-Base
Trinity (afmoe) · 399B parameters, 12.8B active
60 layers of width 3,072 · vocabulary 200,192 · context 262,144

   0  WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF WWWF
      dddd ddee eeee eeee eeee eeee eeee eeee eeee eeee eeee eeee eeee eeee eeee

 W  window   45 x  4,096 tokens in view, RoPE, 48/8 heads of 128
 F  full     15 x  no position, 48/8 heads of 128
 d  dense     6 x  12,288 wide
 e  experts  54 x  4 of 256, 3,072 wide, and a shared one of 3,072
   3 x window, 1 x full, 15 times
   6 x dense, then 54 x experts

weights                     parameters      bf16     4-bit
  total                398,635,286,016    797 GB    224 GB
  active, per token     12,756,696,576   25.5 GB   7.24 GB

cache in bf16           fixed   + per token        8k       32k      128k
  one sequence         755 MB       61.4 kB   1.26 GB   2.77 GB   8.81 GB
"""

GLM = """\
zai-org__GLM-5-FP8
GLM-5 (glm_moe_dsa) · 744B parameters, 40.8B active
78 layers of width 6,144 · vocabulary 154,880 · context 202,752

   0  SSSSSSSSSS SSSSSSSSSS SSSSSSSSSS SSSSSSSSSS
      dddeeeeeee eeeeeeeeee eeeeeeeeee eeeeeeeeee

  40  SSSSSSSSSS SSSSSSSSSS SSSSSSSSSS SSSSSSSS
      eeeeeeeeee eeeeeeeeee eeeeeeeeee eeeeeeee

 S  sparse MLA  78 x  2,048 tokens in view, RoPE, 64 heads of 256
 d  dense        3 x  12,288 wide
 e  experts     75 x  8 of 256, 2,048 wide, and a shared one of 2,048
   78 x sparse MLA
   3 x dense, then 75 x experts

weights                     parameters       bf16     4-bit
  total                743,911,218,432   1,488 GB    419 GB
  with 1 MTP head      753,864,139,008   1,508 GB    424 GB
  active, per token     40,833,146,112    81.7 GB   23.1 GB

cache in bf16          fixed   + per token       8k       32k      128k
  one sequence           0 B        110 kB   900 MB   3.60 GB   14.4 GB

  packed as fp8
"""

COMPARED = """\
Qwen__Qwen3.5-0.8B
   0  DDDF DDDF DDDF DDDF DDDF DDDF
      dddd dddd dddd dddd dddd dddd

Nanbeige__Nanbeige4.1-3B
   0  FFFFFFFFFF FFFFFFFFFF FFFFFFFFFF FF
      dddddddddd dddddddddd dddddddddd dd

 F  full   D  DeltaNet   d  dense

"""


@pytest.mark.parametrize("expected", [TRINITY, GLM], ids=["Trinity", "GLM-5"])
def test_show_tells_a_model_in_one_glance(expected):
    name = expected.splitlines()[0]
    assert shown("show", released(name)) == expected


def test_compare_sets_models_side_by_side_and_marks_what_differs():
    models = ("Qwen__Qwen3.5-0.8B", "Nanbeige__Nanbeige4.1-3B")
    text = shown("compare", *map(released, models))
    assert text.startswith(COMPARED)
    rows = text.removeprefix(COMPARED).splitlines()
    assert rows[0].split() == list(models)
    assert "≠  layers        24                              32" in rows
    assert "   context       262,144                         262,144" in rows
    assert "≠  + per token   12.3 kB                         65.5 kB" in rows
    unmarked = shown("compare", released(models[0]), released(models[0]))
    assert "≠" not in unmarked


def test_a_narrow_terminal_gets_more_lines_and_a_wide_one_fewer():
    name = released("arcee-ai__Trinity-Large-Base")
    strips = {
        width: [line for line in shown("show", name, width=width).splitlines() if "WWWF" in line]
        for width in (79, 80, 200)
    }
    assert [len(lines) for lines in strips.values()] == [2, 1, 1]
    # Balanced, and each line begins with the number of its first layer.
    assert [line.split()[0] for line in strips[79]] == ["0", "32"]


def test_colour_is_for_terminals_that_want_it():
    name = released("Nanbeige__Nanbeige4.1-3B")
    assert "\x1b" not in invoke("show", name).stdout
    assert "\x1b[" in invoke("show", name, FORCE_COLOR="1", TERM="xterm-256color").stdout
    coloured = invoke("show", name, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[1;38" not in coloured


def test_json_holds_the_layers_and_the_exact_bytes():
    result = invoke("show", released("stepfun-ai__Step-3.5-Flash"), "--json")
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["model"] == "stepfun-ai__Step-3.5-Flash"
    assert found["total"] == {
        "parameters": 196_956_130_368,
        "bf16": 2 * 196_956_130_368,
        "bits4": found["total"]["bits4"],
    }
    assert found["heads"] == 3
    assert [layer["mixer"]["heads"] for layer in found["layers"][:5]] == [64, 96, 96, 96, 64]
    full, local = 2 * 2 * 8 * 128 * 12, 2 * 2 * 8 * 128 * 33 * 512
    assert found["cache"] == {
        "fixed": local,
        "per_token": full,
        "8192": local + full * 8192,
        "32768": local + full * 32768,
        "131072": local + full * 131072,
    }
    lines = invoke("compare", *[released("Nanbeige__Nanbeige4.1-3B")] * 2, "--json").stdout
    assert [json.loads(line)["model"] for line in lines.splitlines()] == [
        "Nanbeige__Nanbeige4.1-3B"
    ] * 2


def test_layers_that_share_an_indexer_have_a_letter_of_their_own(tmp_path):
    raw = json.loads(Path(released("zai-org__GLM-5")).read_text())
    raw["index_topk_pattern"] = ("F" + 2 * "S") * 26
    (tmp_path / "config.json").write_text(json.dumps(raw))
    text = shown("show", str(tmp_path / "config.json"))
    assert "0  Sss Sss Sss" in text
    assert "1 x sparse MLA, 2 x shared sparse MLA, 26 times" in text


def test_a_linked_config_is_called_after_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "Trinity"
    folder.mkdir()
    shutil.copy(released("arcee-ai__Trinity-Nano-Preview"), folder / "nano.json")
    (folder / "config.json").symlink_to("nano.json")
    monkeypatch.chdir(folder)
    for model in (str(folder), str(folder / "config.json"), "config.json", "."):
        assert shown("show", model).startswith("Trinity\n")


def test_of_a_repository_only_the_config_is_wanted(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--arcee-ai--Trinity-Mini" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copy(released("arcee-ai__Trinity-Mini"), snapshot.parent.parent / "blob")
    (snapshot / "config.json").symlink_to("../../blob")
    asked = []

    def fetch_config(repo, **how):
        asked.append((repo, how))
        return snapshot / "config.json"

    monkeypatch.setattr("mlxarch.convert.hub.fetch_config", fetch_config)
    text = shown("show", "arcee-ai/Trinity-Mini", "--revision", "main", "--offline")
    assert text.startswith("arcee-ai/Trinity-Mini\n")
    assert asked == [("arcee-ai/Trinity-Mini", {"revision": "main", "offline": True})]
    assert invoke("show", str(snapshot), "--revision", "main").exit_code == 2


def test_weights_beside_the_config_say_what_is_on_disk_and_which_heads(tmp_path):
    write(tmp_path, QWEN, heads=True)
    file = tmp_path / "model.safetensors"
    text = shown("show", str(tmp_path))
    assert "with 1 MTP head" in text
    assert f"on disk {size(sum(anatomy.examine(QWEN, tmp_path).stored.bytes.values()))}" in text
    assert "in 1 file (F32" in text
    # The config alone does not announce the head.
    assert "MTP" not in shown("show", str(tmp_path / "config.json"))
    file.unlink()
    assert "on disk" not in shown("show", str(tmp_path))


def test_quantized_weights_count_as_what_they_were(tmp_path):
    raw = json.loads(Path(released("Nanbeige__Nanbeige4.1-3B")).read_text())
    raw |= {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    write(tmp_path, raw, bits=8)
    found = anatomy.examine(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    assert found.total == anatomy.examine(raw).total
    assert found.stored.bytes["U32"] > found.stored.bytes["F32"]
    assert "packed as 8-bit affine, groups of 64" in shown("show", str(tmp_path))


def test_weights_that_are_not_whole_are_reported_and_left_out(tmp_path):
    write(tmp_path, QWEN)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    result = invoke("show", str(tmp_path))
    assert result.exit_code == 0
    assert "Shown from config.json alone. FormatError" in result.stderr
    assert "truncated" in result.stderr
    assert "on disk" not in result.stdout


def test_what_cannot_be_shown_is_said_in_one_line(tmp_path):
    def refused(raw):
        (tmp_path / "config.json").write_text(json.dumps(raw))
        result = invoke("show", str(tmp_path))
        assert (result.exit_code, result.stdout) == (3, "")
        return result.stderr

    assert "model_type is 'gpt2'" in refused({"model_type": "gpt2"})
    assert "lacks num_experts_per_tok" in refused(
        {key: value for key, value in QWEN.items() if key != "num_experts_per_tok"}
    )
    assert "4 query heads cannot share 3" in refused({**QWEN, "num_key_value_heads": 3})
    result = invoke("show", str(tmp_path / "nowhere"))
    assert result.exit_code == 3
    assert "nowhere' is n" in result.stderr
    (tmp_path / "config.json").unlink()
    assert "has no config.json" in invoke("show", str(tmp_path)).stderr
    assert invoke("compare", str(tmp_path)).exit_code == 2


@pytest.mark.parametrize(
    ("letters", "text", "repeats"),
    [
        ("MMM", "3 x M", 0),
        ("WWWFWWWF", "3 x W, 1 x F, 2 times", 4),
        ("FWWWFWWWF", "1 x F, 3 x W, 2 times, then 1 x F", 4),
        ("dddeeeee", "3 x d, then 5 x e", 0),
        ("abab", "1 x a, 1 x b, 2 times", 2),
        ("aabacadd", "4 x a, 1 x b, 1 x c, 2 x d, as drawn", 0),
    ],
)
def test_a_plan_says_what_repeats(letters, text, repeats):
    assert plan(letters) == text
    assert period(letters) == repeats


def test_figures_have_three_digits():
    counts = (0, 999, 11_520, 754_974_720, 44_880_000_000, 2_024_462_000_000)
    assert [size(count) for count in counts] == [
        "0 B",
        "999 B",
        "11.5 kB",
        "755 MB",
        "44.9 GB",
        "2,024 GB",
    ]
    assert [many(count) for count in (752_393_024, 3_349_227_520)] == ["752M", "3.35B"]
