"""Divergence at equal size, ours beside mlx-lm's, on the built-in guide or any small checkpoint.

    python tests/benchmarks/quality.py [SOURCE] [--work FOLDER]

SOURCE is a checkpoint in floats with a tokenizer; without it, the guide that ships with mlxarch,
brought back from its 8 bits to floats. All methods see the same calibration text, and all outputs
are measured on the same other text: mean KL(original || quantized), in float32. mlx-lm's own
methods are called through their Python functions, because their commands fetch data from the
network; what one cannot do is said in its row.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlxarch.convert import inventory, plan, target
from mlxarch.convert.safetensors import MLX
from mlxarch.convert.write import write
from mlxarch.quantize import calibrate, quality
from mlxarch.quantize.calibrate import Calibrated
from mlxarch.quantize.recipes import Recipe
from mlxarch.quantize.scheme import Scheme
from mlxarch.quantize.stream import Stream

# Rates at which DWQ learns, the first being its default, and how often it reads the text.
DWQ_RATES = (1e-6, 1e-4, 1e-3)
DWQ_EPOCHS = 1
# AWQ tries each of so many scales, on so many stretches of the text: on a CPU each takes minutes.
AWQ_SCALES, AWQ_STRETCHES = 10, 4


def ours(
    source: Path, out: Path, calibration: mx.array, *, bits: int, gptq: bool, bpw: float | None
) -> None:
    """A checkpoint by `mlxarch quantize`."""
    found, recipe = inventory.look(source), Recipe("uniform", Scheme(bits))
    if bpw is not None:
        goal = target.Target(bits_per_weight=bpw)
        some = calibration[:: calibration.shape[0] // 4, :128][:4]
        recipe, _ = target.choose(found, recipe, goal, some, calibrated=gptq)
    planned = plan.make(found, recipe=recipe)
    dtypes = {output.name: MLX[output.dtype] for output in planned.outputs}
    write(planned, out, method=Calibrated(source, calibration, dtypes) if gptq else None)


def mlx_lm_convert(source: Path, out: Path, **options) -> None:
    """A checkpoint by `mlx_lm.convert`."""
    from mlx_lm.convert import convert

    convert(str(source), str(out), quantize=True, q_group_size=64, **options)


def loaded(source: Path):
    """mlx-lm's model in float32, since on a CPU nothing else is exact, its tokenizer and config."""
    from mlx_lm.utils import load

    model, tokenizer, config = load(str(source), return_config=True)
    model.set_dtype(mx.float32)
    return model, tokenizer, config


def saved(out: Path, source: Path, model: nn.Module, tokenizer, config: dict) -> None:
    """What mlx-lm made, scales in bfloat16 as everywhere."""
    from mlx_lm.utils import save

    model.set_dtype(mx.bfloat16)
    save(str(out), str(source), model, tokenizer, config)


def mlx_lm_gptq(source: Path, out: Path, calibration: mx.array, *, bits: int) -> None:
    """mlx_lm.quant.gptq; the embedding in the same bits, so that sizes are equal."""
    from mlx_lm.quant.gptq import gptq_quantize

    model, tokenizer, config = loaded(source)
    model, config["quantization"] = gptq_quantize(model, calibration, bits, 64, bits, 64)
    saved(out, source, model, tokenizer, config)


def mlx_lm_awq(source: Path, out: Path, calibration: mx.array, *, bits: int) -> None:
    """mlx_lm.quant.awq; embedding and head in groups of 64, so that sizes are equal."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config

    model, tokenizer, config = loaded(source)
    known = AWQ_MODEL_CONFIGS.get(config["model_type"])
    if known is None:
        raise LookupError(f"mlx-lm has no AWQ for {config['model_type']}")
    some = calibration[:: calibration.shape[0] // AWQ_STRETCHES]
    awq_quantize(model, some, known, 64, bits, 64, bits, AWQ_SCALES)
    saved(out, source, model, tokenizer, update_config(model, config))


def mlx_lm_dwq(source: Path, out: Path, calibration: mx.array, *, bits: int, rate: float) -> None:
    """mlx_lm.quant.dwq: scales and biases learn to imitate the original's predictions."""
    import copy

    from mlx import optimizers
    from mlx_lm.quant.dwq import dwq_quantize
    from mlx_lm.utils import quantize_model

    teacher, tokenizer, config = loaded(source)
    model = copy.deepcopy(teacher)
    model, config = quantize_model(model, config, 64, bits)
    rows = [(row, 0) for row in calibration.tolist()]
    dwq_quantize(
        model,
        lambda batch, i, split: teacher(batch),
        optimizers.Adam(learning_rate=rate, bias_correction=True),
        rows * DWQ_EPOCHS,
        rows[:4],
        batch_size=4,
        max_seq_length=calibration.shape[1] + 1,
        seed=0,
        dtype=mx.float32,
    )
    saved(out, source, model, tokenizer, config)


def in_floats(work: Path) -> Path:
    """The built-in guide, dequantized."""
    from importlib.resources import files

    from mlx_lm.convert import convert

    convert(str(files("mlxarch.app.guide") / "model"), str(work / "float"), dequantize=True)
    return work / "float"


def rows(calibration: mx.array) -> dict[str, Callable[[Path, Path], None]]:
    """What makes a checkpoint of each row of the table."""
    own = partial(ours, calibration=calibration)
    found: dict[str, Callable[[Path, Path], None]] = {}
    for bits in (4, 3):
        size = bits + 0.5
        found |= {
            f"mlx_lm.convert, {bits} bits": partial(mlx_lm_convert, q_bits=bits),
            f"mlx_lm awq, {bits} bits": partial(mlx_lm_awq, calibration=calibration, bits=bits),
            f"mlx_lm gptq, {bits} bits": partial(mlx_lm_gptq, calibration=calibration, bits=bits),
        }
        for rate in DWQ_RATES:
            dwq = partial(mlx_lm_dwq, calibration=calibration, bits=bits, rate=rate)
            found[f"mlx_lm dwq, {bits} bits, rate {rate:g}"] = dwq
        for bpw in (None, size):
            for gptq in (False, True):
                word = f"ours, {'gptq' if gptq else 'round'}, {bits} bits"
                word += "" if bpw is None else f", target {bpw}"
                found[word] = partial(own, bits=bits, gptq=gptq, bpw=bpw)
    for recipe in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"):
        found[f"mlx_lm.convert, {recipe}"] = partial(mlx_lm_convert, quant_predicate=recipe)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        source = options.source or in_floats(work)
        calibration = quality.read_text(source, None, calibrate.TEXT, calibrate.STRETCHES).tokens
        text = quality.read_text(source)
        found = {name: make for name, make in rows(calibration).items() if options.only in name}
        mixed: list[tuple[str, float]] = []
        print("| method | bits per weight | bytes | mean KL | top-1 | seconds |")
        print("|---|---|---|---|---|---|")

        def show(name: str, make: Callable[[Path, Path], None]) -> float | None:
            out, started = work / "out", time.monotonic()
            shutil.rmtree(out, ignore_errors=True)
            try:
                make(source, out)
            except Exception as error:
                print(f"| {name} | does not run: {type(error).__name__}: {error} |", flush=True)
                return None
            seconds = time.monotonic() - started
            streams = Stream(source, text.tokens), Stream(out, text.tokens)
            loss = quality.compare(*streams, text)
            planned = plan.make(inventory.look(out))
            print(
                f"| {name} | {planned.bits_per_weight:.2f} | {planned.bytes_out:,} "
                f"| {loss.mean_kl:.4f} ± {loss.mean_kl_standard_error:.4f} "
                f"| {loss.top1_agreement:.1%} | {seconds:.0f} |",
                flush=True,
            )
            return planned.bits_per_weight

        for name, make in sorted(found.items(), key=lambda row: "wq" in row[0]):
            size = show(name, make)
            if "mixed_" in name and size is not None:
                mixed.append((name, size))
        for name, size in mixed:
            goal = partial(ours, calibration=calibration, bits=4, gptq=True, bpw=size)
            show(f"ours, gptq, the size of {name.split()[-1]}", goal)


if __name__ == "__main__":
    sys.exit(main())
