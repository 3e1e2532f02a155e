"""What is measured of a quantized model, against numpy over all logits at once."""

import json
from importlib.resources import files

import mlx.core as mx
import numpy as np
import pytest
import tiny
from goldens import Golden
from ports import NAMES
from tiny_configs import CONFIGS, VOCAB, saved

import mlxarch
from mlxarch.convert import inventory, measure, plan
from mlxarch.convert.write import write
from mlxarch.errors import CheckpointError, FormatError
from mlxarch.quantize import quality
from mlxarch.quantize.quality import Text
from mlxarch.quantize.recipes import candidate
from mlxarch.quantize.stream import Stream

EVEN = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
WIDE = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32}
OURS = "the text that comes with mlxarch"


def text(vocab=264, rows=3, columns=40) -> Text:
    return Text("numbers", mx.random.randint(0, vocab, (rows, columns), key=mx.random.key(5)))


def planned(source, word):
    return plan.make(inventory.look(source), recipe=candidate(word))


def quantized(source, out, word):
    write(planned(source, word), out)
    return out


def copied(source, out):
    # In float32, since a norm's weight plus one is rounded in fewer bits.
    write(plan.make(inventory.look(source), dtype="float32"), out)
    return out


def compared(source, out, text, progress=lambda done, total: None):
    return quality.compare(Stream(source, text.tokens), Stream(out, text.tokens), text, progress)


def whole(folder, tokens):
    """Log probabilities (N, L, V) in float64, and what each layer leaves."""
    model = mlxarch.load(folder, mx.float32)
    logits = np.array(model(tokens), np.float64)
    logits -= logits.max(-1, keepdims=True)
    layers, left = list(model.layers), []
    for depth in range(1, len(layers) + 1):
        model.layers = layers[:depth]
        left.append(np.array(model.hidden(tokens), np.float64))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), left


@pytest.mark.parametrize(("family", "word"), [("llama", "3"), ("cohere2", "4g32")])
def test_all_figures_by_their_definitions(tmp_path, family, word):
    source = tiny.save(tmp_path / "source", family, **EVEN)
    out, read = quantized(source, tmp_path / "out", word), text()
    found = compared(source, out, read)
    (p, before), (q, after) = (whole(folder, read.tokens) for folder in (source, out))

    p, q = p[:, :-1].reshape(-1, 264), q[:, :-1].reshape(-1, 264)
    following = np.array(read.tokens)[:, 1:].reshape(-1)
    n = len(following)
    assert (
        (found.tokens, found.positions, found.text) == (120, 117, "numbers") == (120, n, read.name)
    )

    nll_p, nll_q = (-x[np.arange(n), following] for x in (p, q))
    assert found.original_perplexity == pytest.approx(np.exp(nll_p.mean()), rel=1e-4)
    assert found.perplexity == pytest.approx(np.exp(nll_q.mean()), rel=1e-4)
    ratio = np.exp(nll_q.mean() - nll_p.mean())
    assert found.perplexity_ratio == pytest.approx(ratio, rel=1e-4)
    # By the variances of both and their covariance, as llama.cpp has it.
    (a, ab), (_, b) = np.cov(nll_q, nll_p) / n
    error = ratio * np.sqrt(a + b - 2 * ab)
    assert found.perplexity_ratio_standard_error == pytest.approx(error, rel=1e-3)

    kl = (np.exp(p) * (p - q)).sum(-1)
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-4)
    assert found.mean_kl_standard_error == pytest.approx(kl.std(ddof=1) / np.sqrt(n), rel=1e-4)
    shares = np.quantile(kl, np.linspace(0, 1, 101))
    assert found.kl_percentiles == pytest.approx(list(shares), rel=1e-3, abs=1e-6)
    assert found.kl_percentiles[50::40] == (found.median_kl, found.kl_90)
    assert found.kl_percentiles[99:] == (found.kl_99, found.max_kl)

    agreed = (p.argmax(-1) == q.argmax(-1)).mean()
    assert 0 < agreed < 1
    assert found.top1_agreement == pytest.approx(agreed)
    error = np.sqrt(agreed * (1 - agreed) / (n - 1))
    assert found.top1_agreement_standard_error == pytest.approx(error)

    moved = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(before, after, strict=True)]
    assert found.layer_errors == pytest.approx(moved, rel=1e-4)


def test_standard_errors_are_what_repeating_shows():
    # Many texts of 400 positions each: their means spread as one text says that they do.
    rng = np.random.default_rng(0)
    before = rng.normal(size=(60, 401, 7)).astype(np.float32)
    after = before + rng.normal(scale=0.5, size=before.shape).astype(np.float32)
    found = []
    for p, q in zip(before, after, strict=True):
        tokens = mx.array(rng.integers(0, 7, (1, 401)))
        positions = quality._Positions(tokens)
        positions.add(mx.array(p), mx.array(q))
        found.append(positions.quality(Text("numbers", tokens), []))
    for name in ("perplexity_ratio", "mean_kl", "top1_agreement"):
        spread = np.std([getattr(one, name) for one in found], ddof=1)
        told = np.mean([getattr(one, f"{name}_standard_error") for one in found])
        # 60 texts give a spread that is itself 9 per cent off.
        assert spread == pytest.approx(told, rel=0.3)


def test_divergence_counts_what_the_original_finds_likely():
    # Two tokens at 1/2 each become 3/4 and 1/4: KL is ln(2/sqrt(3)), the other way it differs.
    even, uneven = mx.zeros((4, 2)), mx.broadcast_to(mx.log(mx.array([[0.75, 0.25]])), (4, 2))
    tokens = mx.array([[0, 0, 1, 1]])

    def measured(p, q):
        positions = quality._Positions(tokens)
        positions.add(p, q)
        return positions.quality(Text("numbers", tokens), [])

    found = measured(even, uneven)
    assert found.mean_kl == pytest.approx(np.log(2 / np.sqrt(3)))
    assert found.mean_kl_standard_error == 0
    # What follows is 0, 1, 1.
    assert found.perplexity == pytest.approx((0.75 * 0.25 * 0.25) ** (-1 / 3))
    assert found.original_perplexity == pytest.approx(2)
    assert measured(uneven, even).mean_kl == pytest.approx(0.1308, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_any_architecture_costs_nothing(tmp_path, name):
    golden = Golden(name).folder
    config = json.loads((golden / "config.json").read_text())
    vocab = (config.get("text_config") or config)["vocab_size"]
    out, read, steps = copied(golden, tmp_path / "out"), text(vocab, 2, 21), []
    found = compared(golden, out, read, lambda done, total: steps.append((done, total)))
    assert found.mean_kl == found.max_kl == found.perplexity_ratio_standard_error == 0
    assert found.perplexity_ratio == found.top1_agreement == 1
    assert set(found.layer_errors) == {0.0}
    total = len(found.layer_errors) + 1
    assert steps[-1] == (total, total)
    assert [done for done, _ in steps] == list(range(total + 1))
    expected = whole(golden, read.tokens)[0][:, :-1].reshape(-1, vocab)
    following = np.array(read.tokens)[:, 1:].reshape(-1)
    nll = -expected[np.arange(len(following)), following]
    assert found.perplexity == pytest.approx(np.exp(nll.mean()), rel=1e-4)


def measured_both_ways(source, out, word, vocab):
    """What a plan is said to cost before it is carried out, and after."""
    made, read = planned(source, word), text(vocab, 2, 30)
    before = measure.unwritten(made, read)
    write(made, out)
    return before, measure.written(made, out, read)


@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_not_written_measures_as_what_is(tmp_path, family):
    source = tmp_path / "source"
    source.mkdir()
    raw, weights = saved(family, **WIDE)
    (source / "config.json").write_text(json.dumps(raw))
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    before, after = measured_both_ways(source, tmp_path / "out", "mixed:3g32", VOCAB)
    del after["files"]
    assert before == after
    assert before["mean_kl"] > 0


@pytest.mark.parametrize("name", ["qwen35_moe_unfused", "step35", "trinity"])
def test_nor_do_spelling_and_type_of_the_source_matter(tmp_path, name):
    # Of the hub, in bfloat16, with experts that are not stacked yet.
    before, after = measured_both_ways(Golden(name).folder, tmp_path / "out", "mxfp4", 131)
    del after["files"]
    assert before == after
    assert before["mean_kl"] > 0


def test_more_bits_cost_less(tmp_path):
    source, read = tiny.save(tmp_path / "source", **EVEN), text()
    found = [measure.unwritten(planned(source, word), read) for word in ("2", "3", "4", "6", "8")]
    for key in ("mean_kl", "kl_99", "max_kl"):
        costs = [one[key] for one in found]
        assert costs == sorted(costs, reverse=True)
    assert found[-1]["mean_kl"] < 0.1 < found[0]["mean_kl"]
    agreement = [one["top1_agreement"] for one in found]
    assert agreement == sorted(agreement)
    assert [one["layers"][-1]["relative_error"] for one in found] == sorted(
        (one["layers"][-1]["relative_error"] for one in found), reverse=True
    )


@pytest.mark.parametrize("word", [None, "8"])
def test_one_layer_of_each_is_in_memory(tmp_path, word):
    source = tiny.save(tmp_path / "source", hidden_size=256, num_hidden_layers=40)
    size = (source / "model.safetensors").stat().st_size
    out = tmp_path / "out"
    out = quantized(source, out, word) if word else copied(source, out)
    read = text(rows=1, columns=8)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    compared(source, out, read)
    assert mx.get_peak_memory() - before < size / 5


def test_unwritten_weights_are_forgotten_as_they_are_measured(tmp_path):
    source = tiny.save(tmp_path / "source", hidden_size=256, num_hidden_layers=40)
    size = (source / "model.safetensors").stat().st_size
    made, read = planned(source, "8"), text(rows=1, columns=8)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    measure.unwritten(made, read)
    assert mx.get_peak_memory() - before < size / 5


def test_a_damaged_weight_is_no_figure(tmp_path):
    source = tiny.save(tmp_path / "source")
    weights = mx.load(str(source / "model.safetensors"))
    damaged = weights | {"model.norm.weight": weights["model.norm.weight"] * mx.array(float("nan"))}
    out = tiny.save(tmp_path / "out")
    mx.save_safetensors(str(out / "model.safetensors"), damaged)
    with pytest.raises(CheckpointError, match=r"After 0 positions a model's logits are no numbers"):
        compared(source, out, text())


def test_the_text_is_cut_into_stretches_that_each_begin_as_a_text_does(tmp_path):
    source = tiny.save(tmp_path / "source")
    read = quality.read_text(source)
    assert (read.name, read.tokens.shape) == (OURS, (4, 512))
    rows = np.array(read.tokens)
    assert set(rows[:, 0]) == {tiny.BOS}
    sample = files("mlxarch.quantize").joinpath("sample.txt").read_bytes()
    joined = bytes_of(source, rows[:, 1:].reshape(-1))
    assert joined == sample[: 4 * 511].decode(errors="replace").encode()


def bytes_of(folder, tokens) -> bytes:
    """What the tokens of tiny.py's tokenizer stand for."""
    from tokenizers import Tokenizer, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = "".join(letters[token] for token in tokens)
    return Tokenizer.from_file(str(folder / "tokenizer.json")).decoder.decode([text]).encode()


def test_a_text_of_one_s_own(tmp_path):
    source, file = tiny.save(tmp_path / "source"), tmp_path / "mine.txt"
    file.write_text("Whatever people care about. " * 10)
    read = quality.read_text(source, file)
    assert (read.name, read.tokens.shape) == ("mine.txt", (1, 281))
    file.write_text("Whatever people care about. " * 100)
    assert quality.read_text(source, file).tokens.shape == (4, 512)
    file.write_text("Too short.")
    with pytest.raises(FormatError, match=r"mine.txt has 10 tokens; 100 are needed"):
        quality.read_text(source, file)


def test_without_a_tokenizer_random_tokens_are_read_and_it_is_said(tmp_path):
    source = tiny.save(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").unlink()
    first, second = quality.read_text(source), quality.read_text(source)
    assert mx.array_equal(first.tokens, second.tokens)
    assert first.tokens.shape == (4, 512)
    assert first.name == second.name
    assert first.name.startswith("noise, since no tokenizer can be loaded")


def test_a_tokenizer_that_is_too_large_for_the_model_is_not_used(tmp_path):
    read = quality.read_text(tiny.save(tmp_path / "source", vocab_size=200))
    assert read.name == "noise, since the tokenizer has more tokens than the model"
    assert int(read.tokens.max()) < 200


def test_code_of_a_tokenizer_is_not_run(tmp_path):
    source = tiny.save(tmp_path / "source")
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    (source / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "T"})
    )
    quality.read_text(source)
    assert not (tmp_path / "ran").exists()


def test_the_sample_has_prose_code_tables_and_other_scripts():
    sample = files("mlxarch.quantize").joinpath("sample.txt").read_text(encoding="utf-8")
    assert 1600 <= len(sample.split()) <= 2000
    for part in ("lighthouse", "def visible_from", "SELECT", "1. twelve", "| flour", "Nebel"):
        assert part in sample
    for part in ("灯台", "الضوء", "Маяк", "반죽", "रोटी", '"estimate": [400, 650]', "Q: When"):
        assert part in sample


def test_nothing_is_measured_on_what_is_calibrated_on():
    def runs(name):
        text = files("mlxarch.quantize").joinpath(name).read_text(encoding="utf-8").split()
        return {tuple(text[i : i + 5]) for i in range(len(text) - 4)}

    assert not runs("sample.txt") & runs("calibration.txt")
