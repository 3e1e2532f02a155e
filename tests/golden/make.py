"""Make golden files: what the reference implementation says of a tiny model.

    python tests/golden/make.py [NAME ...]

Needs the dependency group "torch"; tests need only what this writes. Each folder under data/ gets
a hub-style checkpoint, config.json as transformers 4 spells it, config_tf5.json as transformers 5
does, and golden.npz. Models that see are named "seeing/NAME": see seeing.py. The same machine
writes the same bytes again.

The reference is checked before it is believed: its cache agrees with itself, every tensor and
every audited key moves the logits, no greedy choice is close, and what is written reads back.
"""

import copy
import hashlib
import importlib
import json
import math
import pkgutil
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import families
import numpy as np
import torch
import transformers
from families import ABSENT, Family
from safetensors.torch import save_file
from transformers.modeling_layers import MtpLayer

DATA = Path(__file__).parent / "data"
LIMIT = 300_000  # bytes a file
STRIDE = 3  # a layer report compares every third position

Tensors = dict[str, torch.Tensor]


def build(family: Family, changes: dict[str, Any] | None = None) -> torch.nn.Module:
    """The reference, every tensor random, in float32 but of values that `dtype` can hold."""
    raw = copy.deepcopy(dict(family.config))
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        node = raw
        for part in path:
            node = node[part]
        node[last] = value
    cls = _class(family)
    config = cls.config_class(**raw, architectures=[cls.__name__], dtype=family.dtype)
    config._attn_implementation = config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = cls(config).float().eval()
    for name, tensor in _tensors(model).items():
        tensor.copy_(_random(family, name, tensor).to(getattr(torch, family.dtype)))
    return model


def _class(family: Family) -> Any:
    module, _, name = family.reference.rpartition(".")
    return getattr(importlib.import_module(module) if module else transformers, name)


def _tensors(model: torch.nn.Module) -> Tensors:
    """All numbers that are saved, a tied tensor once."""
    seen, tensors = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors


def _random(family: Family, name: str, tensor: torch.Tensor, salt: str = "") -> torch.Tensor:
    digest = hashlib.sha256(f"{family.seed} {name} {salt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))
    noise = torch.randn(tensor.shape, generator=generator)
    gain = next((g for pattern, g in family.gain.items() if re.search(pattern, name)), 1.0)
    if tensor.ndim < 2:
        return 0.5 * gain * noise + (1.0 if tensor.mean() == 1 else 0.0)
    return noise * gain / math.sqrt(tensor.shape[-1])


def ask(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """Logits of rows of tokens, without a cache."""
    return model(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()


def decode(model: torch.nn.Module, ids: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens after one row, and their logits, by the reference's own cache."""
    fed, cache, tokens, logits = torch.from_numpy(ids).long(), None, [], []
    for _ in range(steps):
        out = model(fed, use_cache=True, past_key_values=cache)
        cache = out.past_key_values
        logits.append(out.logits[0, -1].numpy())
        fed = out.logits[:, -1:].argmax(-1)
        tokens.append(fed.item())
    return np.array(tokens), np.stack(logits)


def trace(family: Family, model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What each module of the family's trace gives for the first row, by our path of it."""
    modules, found, hooks = dict(model.named_modules()), {}, []
    for ours, theirs in _spelled_out(family, modules):

        def keep(module, given, out, ours=ours):
            out = out[0] if isinstance(out, tuple) else out
            found[ours] = out[0, ::STRIDE].numpy()

        hooks.append(modules[theirs].register_forward_hook(keep))
    ask(model, ids)
    for hook in hooks:
        hook.remove()
    return found


def _spelled_out(family: Family, modules: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for ours, theirs in family.trace.items():
        for name in modules:
            if (match := re.fullmatch(theirs, name)) is not None:
                layer = match.group(1) if match.groups() else ""
                found.append((ours.replace("{i}", layer), name))
    return found


class Heads(torch.nn.Module):
    """Heads for further tokens, of the reference's own parts: see its MtpModel."""

    def __init__(self, family: Family, model: torch.nn.Module):
        super().__init__()
        decoder = model.get_decoder()
        layer, norm = type(decoder.layers[family.head_like]), type(decoder.norm)
        place = family.head_like % len(decoder.layers)
        layers = [MtpLayer(decoder.config, layer, norm, place) for _ in range(family.heads)]
        self.mtp = torch.nn.ModuleList(layers).float().eval()
        for name, tensor in _tensors(self).items():
            tensor.copy_(_random(family, name, tensor).to(getattr(torch, family.dtype)))

    def ask(self, family: Family, model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Each head's states and logits for the first tokens of a row."""
        decoder, length = model.get_decoder(), ids.shape[1] - family.heads
        tokens, positions = torch.from_numpy(ids).long(), torch.arange(length)[None]
        kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"]
        kind = kinds[family.head_like]
        window = decoder.config.sliding_window if kind == "sliding_attention" else length
        apart = positions.T - positions
        seen = (apart >= 0) & (apart < window)
        mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float).min)
        rope = {"layer_type": kind} if "full_attention" in decoder.config.rope_parameters else {}
        hidden = decoder(tokens[:, :length], use_cache=False).last_hidden_state
        found = {}
        for j, head in enumerate(self.mtp):
            embedded = decoder.embed_tokens(tokens[:, j + 1 : j + 1 + length])
            joined = torch.cat([head.enorm(embedded), head.hnorm(hidden)], dim=-1)
            hidden = head.mtp_block(
                head.eh_proj(joined),
                attention_mask=mask,
                position_embeddings=decoder.rotary_emb(embedded, positions, **rope),
                position_ids=positions,
            )
            hidden = head.post_norm(hidden[0] if isinstance(hidden, tuple) else hidden)
            found[f"mtp.{j}.hidden"] = hidden.numpy()
            found[f"mtp.{j}.logits"] = model.lm_head(hidden).numpy()
        return found


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error of a position, relative to the length of what was wanted there."""
    error = np.linalg.norm(np.subtract(got, wanted, dtype=np.float64), axis=-1)
    return float(np.max(error / np.linalg.norm(wanted, axis=-1)))


def check(family: Family, model: torch.nn.Module, golden: dict[str, np.ndarray]) -> dict[str, Any]:
    """Refuse a reference that proves little; say how good it is."""
    long, logits = golden["long.ids"], golden["long.logits"]
    cached = []
    fed, cache = torch.from_numpy(long).long(), None
    for start, stop in ((0, 4), (4, 5), (5, 20), (20, 21), (21, long.shape[1])):
        out = model(fed[:, start:stop], use_cache=True, past_key_values=cache)
        cache = out.past_key_values
        cached.append(out.logits.numpy())
    cache_noise = relative(np.concatenate(cached, axis=1), logits)
    assert cache_noise < 1e-5, f"the reference's cache is off by {cache_noise:.1e}"

    moved = {}
    for name, tensor in _tensors(model).items():
        if re.search(family.aside, name):
            continue
        kept = tensor.clone()
        tensor.copy_(_random(family, name, tensor, salt="again"))
        moved[name] = relative(ask(model, long), logits)
        tensor.copy_(kept)
    for key, value in family.audit.items():
        moved[key] = relative(ask(build(family, {key: value}), long), logits)
    least = min(moved, key=lambda name: moved[name])
    assert moved[least] > 1e-2, f"{least} moves the logits by only {moved[least]:.1e}"

    ordered = np.sort(golden["greedy.logits"], axis=-1)
    margin = float((ordered[:, -1] - ordered[:, -2]).min())
    distinct = len(set(golden["greedy.tokens"].tolist()))
    assert margin > 1e-2, f"a greedy choice is as close as {margin:.1e}; take another seed"
    assert distinct > 8, f"greedy gives only {distinct} tokens; take another seed"
    return {
        "float32_noise": relative(logits, ask(copy.deepcopy(model).double(), long)),
        "cache_noise": cache_noise,
        "least_moved_by": {least: moved[least]},
        "greedy_margin": margin,
        "logits_std": float(logits.std()),
    }


def configs(family: Family, model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """config.json in both spellings."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        five = json.loads((Path(folder) / "config.json").read_bytes())
    four = {k: v for k, v in five.items() if k not in ("transformers_version", "rope_parameters")}
    four["torch_dtype"] = four.pop("dtype")
    if rope := five.get("rope_parameters"):
        four["rope_theta"] = rope["rope_theta"]
        scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
        four["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
    four |= family.hub_config
    four = {key: value for key, value in sorted(four.items()) if value is not ABSENT}
    return {"config.json": four, "config_tf5.json": five}


def save(
    folder: Path,
    family: Family,
    spellings: dict[str, dict[str, Any]],
    tensors: Tensors,
    golden: dict[str, Any],
) -> None:
    """Write the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, raw in spellings.items():
        (folder / name).write_text(json.dumps(raw, indent=1) + "\n")

    dtype = getattr(torch, family.dtype)
    tensors = family.hub_weights({k: v.to(dtype).clone() for k, v in tensors.items()})
    names = sorted(tensors)
    # A cut at a number of tensors, not at a layer: layers straddle files, as they do on the hub.
    per_file = math.ceil(len(names) / family.shards)
    weight_map = {}
    for n in range(family.shards):
        last = f"-{n + 1:05}-of-{family.shards:05}" if family.shards > 1 else ""
        file = f"model{last}.safetensors"
        part = {name: tensors[name] for name in names[n * per_file : (n + 1) * per_file]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if family.shards > 1:
        total = sum(t.nbytes for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=1) + "\n"
        (folder / "model.safetensors.index.json").write_text(text)
    np.savez_compressed(folder / "golden.npz", **golden)
    for file in folder.iterdir():
        assert file.stat().st_size < LIMIT, f"{file} has {file.stat().st_size:,} bytes"


def reread(folder: Path, family: Family, golden: dict[str, np.ndarray]) -> None:
    """Refuse a folder that the reference itself does not read back, in either spelling."""
    cls = _class(family)
    for name in family.reads:
        config = cls.config_class.from_json_file(folder / name)
        model = cls.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
        )
        error = relative(ask(model, golden["long.ids"]), golden["long.logits"])
        assert error == 0, f"with {name} the reference reads back something else: {error:.1e}"


@torch.no_grad()
def make(family: Family) -> None:
    """One family's folder."""
    model = build(family)
    random, vocab = np.random.default_rng(family.seed), model.config.get_text_config().vocab_size

    def ids(rows: int, length: int) -> np.ndarray:
        # The first three are padding, start and end, which some architectures treat apart.
        return random.integers(3, vocab, (rows, length), dtype=np.int32)

    golden = {}
    for kind, rows, length in (("long", 1, family.long), ("short", 1, family.short)):
        golden[f"{kind}.ids"] = ids(rows, length)
    golden["batch.ids"] = ids(2, family.batch)
    for kind in ("long", "short", "batch"):
        golden[f"{kind}.logits"] = ask(model, golden[f"{kind}.ids"])
    tokens, logits = decode(model, golden["short.ids"], family.greedy)
    golden |= {"greedy.tokens": tokens.astype(np.int32), "greedy.logits": logits}
    tensors = _tensors(model)
    if family.heads:
        heads = Heads(family, model)
        golden |= heads.ask(family, model, golden["long.ids"])
        tensors |= _tensors(heads)
    for path, out in trace(family, model, golden["long.ids"]).items():
        golden[f"trace.{path}"] = out
    meta = {
        "reference": family.reference,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seed": family.seed,
        "stride": STRIDE,
        **check(family, model, golden),
    }
    golden |= {"meta": np.array(json.dumps(meta))}
    save(DATA / family.name, family, configs(family, model), tensors, golden)
    reread(DATA / family.name, family, golden)
    size = sum(file.stat().st_size for file in (DATA / family.name).iterdir())
    print(f"{family.name}: {size:,} bytes; {json.dumps(meta)}")


def main(wanted: list[str]) -> None:
    """Make the families that were asked for; all if none was."""
    import seeing  # which is made of what is here

    torch.set_num_threads(1)
    known: dict[str, Family] = {}
    for module in pkgutil.iter_modules(families.__path__, "families."):
        for family in getattr(importlib.import_module(module.name), "FAMILIES", []):
            known[family.name] = family
    seen = {f"seeing/{family.name}" for family in seeing.FAMILIES}
    if unknown := set(wanted) - known.keys() - seen:
        sys.exit(f"{', '.join(sorted(unknown))}: no such family; there are {', '.join(known)}.")
    for name in [each for each in wanted if each not in seen] if wanted else known:
        make(known[name])
    for family in seeing.FAMILIES:
        if not wanted or f"seeing/{family.name}" in wanted:
            seeing.produce(family)


if __name__ == "__main__":
    main(sys.argv[1:])
