"""`mlxarch bench`: who takes turns, what is counted, and weights that are made up."""

import json

import mlx.core as mx
import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from goldens import Golden
from mlx_lm.utils import load_model

import mlxarch
from mlxarch import anatomy, checkpoint
from mlxarch.app.bench.measure import Spread, measure
from mlxarch.app.bench.runners import Ours, Run, Theirs
from mlxarch.app.cli import cli
from mlxarch.errors import ConfigError
from mlxarch.quantize import synthetic
from mlxarch.quantize.recipes import Recipe, candidate

PROMPT = list(range(1, 25))
# What mlx-lm loads too, and how their logits may differ: it decays Ling's states otherwise.
SHARED = (
    "cohere2_period3",
    "glm5",
    "kimi_k25",
    "llama_tied",
    "minimax_m25",
    "nanbeige41",
    "qwen3_next",
    "step35",
    "trinity",
)
ALONE = ("glm5_shared", "ling25", "qwen35_dense", "qwen35_moe")


def bench(*arguments):
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)], env={"COLUMNS": "100"})


class Scripted:
    """Reads a thousand tokens a second, or another number."""

    def __init__(self, name, rate=1000, log=None):
        self.name, self.ours, self.rate, self.log = name, True, rate, log

    def run(self, prompt, tokens, limit):
        if self.log is not None:
            self.log.append((self.name, len(prompt), tokens))
        return Run(len(prompt), len(prompt) / self.rate, [0.5] + [0.1] * (tokens - 1), 10, 5)


def test_all_take_turns_and_nobody_always_comes_first():
    log = []
    runners = [Scripted(name, log=log) for name in "abc"]
    (rows,) = measure(runners, [PROMPT], tokens=4, rounds=3, limit=60)
    assert [row.runner.name for row in rows] == ["a", "b", "c"]
    assert "".join(name for name, _, tokens in log if tokens == 4) == "abccabbca"
    assert all(len(row.runs) == 3 for row in rows)
    assert rows[0].decode.median == pytest.approx(10)
    assert rows[0].prefill.median == pytest.approx(23 / 0.024)


def test_who_is_slow_reads_less():
    quick, slow, slower = Scripted("quick"), Scripted("slow", 10), Scripted("slower", 0.1)
    prompts = [list(range(40)), list(range(900))]
    short, long = measure([quick, slow, slower], prompts, tokens=2, rounds=1, limit=10)
    assert [row.prompt for row in short] == [40, 40, 8]
    assert [row.prompt for row in long] == [900, 32, 8]
    assert [row.context for row in long] == [900] * 3


def test_spread_and_what_cannot_be_known():
    assert Spread.of([3.0, 1.0, None, 8.0]) == Spread(3, 1, 8)
    assert Spread.of([None]) is None
    assert Run(9, 2.0, [0.1], 0, 0).decode is None
    assert Run(9, 2.0, [0.1, 0.25, 0.25], 0, 0).decode == 4.0
    assert Run(9, 2.0, [], 0, 0).prefill == 4


def test_one_run_has_no_spread(tmp_path):
    shown = bench(tiny.save(tmp_path), "--tokens", 3, "--rounds", 1, "--context", "40").stdout
    assert "tokens a second: one run" in shown
    assert "(" not in shown.splitlines()[-1]


def test_ours_and_theirs_say_what_they_count(tmp_path):
    folder = tiny.save(tmp_path, rms_norm_eps=1e-5)
    model = mlxarch.load(folder)
    ours = Ours("plain", model).run(PROMPT, 5, 60)
    theirs = Theirs("mlx-lm", load_model(folder)[0]).run(PROMPT, 5, 60)
    for run in (ours, theirs):
        assert (run.prompt, len(run.seconds), run.guessed) == (24, 5, 0)
        assert run.prefill_seconds > 0
        assert min(run.seconds) > 0
        assert run.memory > run.cache > 0
    assert ours.cache == theirs.cache
    heads = Ours("lookup", model, draft="lookup").run(PROMPT[:6] * 4, 5, 60)
    assert 0 <= heads.right <= heads.guessed > 0
    assert len(Ours("plain", model).run(PROMPT, 50, 1e-9).seconds) == 1
    assert len(Theirs("mlx-lm", load_model(folder)[0]).run(PROMPT, 50, 1e-9).seconds) == 1


@pytest.mark.parametrize("name", SHARED + ALONE)
def test_made_up_weights_are_a_checkpoint_for_everybody(tmp_path, name):
    raw = synthetic.shortened(Golden(name).config(), None)
    synthetic.write(raw, tmp_path, Recipe())
    model = mlxarch.load(tmp_path)
    assert not model.mtp
    tokens = mx.array([PROMPT])
    ours = model(tokens)
    assert 0.3 < float(ours.std()) < 3
    if name in SHARED:
        other, _ = load_model(tmp_path)
        other.set_dtype(mx.float32)
        np.testing.assert_allclose(np.array(ours), np.array(other(tokens)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("word", ["8g32", "mxfp4", "nvfp4", "mxfp8"])
def test_made_up_weights_have_the_format_that_is_asked_for(tmp_path, word):
    recipe = candidate(f"uniform:{word}")
    raw = {**tiny.CONFIGS["llama"], "hidden_size": 64, "intermediate_size": 96}
    synthetic.write(raw, tmp_path, recipe)
    stored = json.loads((tmp_path / "config.json").read_text())["quantization"]
    scheme = recipe.base
    found = (stored["bits"], stored["group_size"], stored["mode"])
    assert found == (scheme.bits, scheme.group_size, scheme.mode)
    assert 0.3 < float(mlxarch.load(tmp_path)(mx.array([PROMPT])).std()) < 3


def test_a_config_is_cut_to_its_first_layers():
    raw = Golden("step35").config()
    cut = synthetic.shortened(raw, 2)
    assert cut["layer_types"] == raw["layer_types"][:2]
    assert (cut["num_hidden_layers"], cut["num_nextn_predict_layers"]) == (2, 0)
    assert anatomy.examine(cut).heads == 0
    nested = synthetic.shortened({"text_config": raw, "other": [1]}, 2)
    assert nested == {"text_config": cut, "other": [1]}
    with pytest.raises(ConfigError, match=r"has \d+ layers; --layers 99"):
        synthetic.shortened(raw, 99)
    with pytest.raises(ConfigError, match="no num_hidden_layers"):
        synthetic.shortened({"model_type": "llama"}, 2)


def test_bytes_read_are_those_of_active_weights():
    dense = tiny.model("llama")
    weights = checkpoint.parameters(dense)
    everything = sum(w.nbytes for w in weights.values())
    assert anatomy.bytes_read(dense) == everything - weights["embed.weight"].nbytes
    golden = Golden("qwen3_next")
    model = mlxarch.load(golden.folder)
    assert anatomy.bytes_read(model) == 4 * anatomy.examine(golden.config()).active.parameters


def test_the_table_and_its_json(tmp_path):
    folder = tiny.save(tmp_path, rms_norm_eps=1e-5, head_dim=32)
    options = [folder, "--tokens", 4, "--rounds", 2, "--draft", "lookup", "--against", "mlx-lm"]
    options += ["--kv-bits", 8]
    result = bench(*options, "--context", "70,500,1k")
    assert result.exit_code == 0, result.output
    assert "tokens a second: median of 2" in result.stdout
    titles = [line for line in result.stdout.splitlines() if "tokens of prompt" in line]
    assert len(titles) == 2  # 1k is beyond its context
    for name in (
        "plain",
        "lookup",
        "8-bit cache",
        "  of plain",
        "mlx-lm",
        "mlx-lm, float32",
        "  plain is",
    ):
        assert sum(line.startswith(name) for line in result.stdout.splitlines()) >= 2
    result = bench(*options, "--context", "100", "--json")
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert (found["device"], found["tokens"], found["rounds"]) == ("CPU", 4, 2)
    assert found["bandwidth"] > 1e6
    names = [row["runner"] for row in found["rows"]]
    assert names == ["plain", "lookup", "8-bit cache", "mlx-lm", "mlx-lm, float32"]
    plain, packed = found["rows"][0], found["rows"][2]
    assert packed["runs"][0]["cache"] < 0.4 * plain["runs"][0]["cache"]
    assert plain["context"] == plain["prompt"] <= 100
    assert plain["bytes_per_token"] == found["weights_read"] + plain["runs"][0]["cache"]
    share = plain["bytes_per_token"] * plain["decode"]["median"] / found["bandwidth"]
    assert plain["bandwidth_share"] == pytest.approx(share)
    assert len(plain["runs"]) == 2


def test_a_config_is_enough(tmp_path):
    config = tmp_path / "toy.json"
    config.write_text(json.dumps(Golden("qwen3_next").config()))
    options = ["--layers", 2, "--context", 16, "--tokens", 3, "--rounds", 1, "--json"]
    result = bench("--config", config, *options)
    assert result.exit_code == 0, result.output
    assert "Making 0.00 GB of random weights" in result.stderr
    found = json.loads(result.stdout)
    assert (found["model"], found["rows"][0]["prompt"]) == ("toy", 16)
    assert sorted(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--layers", "2"], 2, "give it"),
        (["--format", "4"], 2, "give it"),
        (["--context", "1"], 2, "'1' is no length of two tokens or more"),
        (["--context", "8,k"], 2, "'k' is no length"),
        (["--format", "5.5", "--config", "CONFIG"], 2, "is no format"),
        (["--context", "1000k"], 2, "context holds 2,048 tokens"),
        (["x", "--config", "CONFIG"], 2, "give one of them"),
        (["--config", "CONFIG", "--layers", "9"], 3, "--layers 9 is not one of them"),
    ],
)
def test_what_cannot_be_measured_is_said(tmp_path, arguments, code, words):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny.CONFIGS["llama"]))
    result = bench(*(config if word == "CONFIG" else word for word in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_a_shape_that_does_not_fit_is_refused_with_its_arithmetic(tmp_path):
    config = tmp_path / "huge.json"
    sizes = {"hidden_size": 1 << 18, "intermediate_size": 1 << 22, "num_hidden_layers": 99}
    config.write_text(json.dumps({**tiny.CONFIGS["llama"], **sizes}))
    result = bench("--config", config)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "99 layers of huge.json take" in result.stderr


def test_what_mlx_lm_cannot_load_is_said(tmp_path):
    golden = Golden("glm5_shared")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(golden.config()))
    result = bench("--config", config, "--context", 8, "--against", "mlx-lm")
    assert result.exit_code == 1
    assert "mlx-lm cannot load" in result.stderr
    assert "Leave --against out." in result.stderr
