"""Train the guide and write it as a hub checkpoint.

    python -m mlxarch.app.guide.training.train OUT [--grow DIR | --start DIR] [--heads] [--long]

Without a folder it begins from nothing; with --grow from a llama (see grow.py), with --start from
what this wrote before. First all but the heads for further tokens is trained, then with --heads
these alone.

A row of fixed length holds several conversations, which do not see each other. The loss counts
answers fully and questions a little. What tells one answer from another stands at its beginning,
so most last answers are cut off there and more questions fit into the same time. Heads learn to
say what the model itself says next: of its answers alone, and of whole ones.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from . import model as step
from . import tokens
from .corpus import Corpus, Message
from .grow import grow
from .muon import Muon

TOKENIZER_SAMPLE = 30_000  # conversations
QUESTION_SHARE = 0.15  # of the questions' tokens count in the loss
OTHERS = 0.04  # of the questions' tokens are replaced, so that no single word decides
SPLIT = 0.1  # chance that BPE skips a merge in a question, so that typos look familiar
CUT = 0.65  # of the last answers are cut off
STAGES = ((0.94, 20, 320), (0.06, 5, 1280))  # share of the steps, rows, tokens of a row
LONG = ((1.0, 5, 1280),)  # with --long


class Rows:
    """Rows of (tokens, whether each counts, the conversation of each).

    Args:
        cut: Share of the last answers that are cut off.
        asked: Share of the questions' tokens that count.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, seed: int, cut: float, asked: float):
        self.rng, self.cut, self.asked = random.Random(seed), cut, asked
        self.exact, self.split = tokenizer, Tokenizer.from_str(tokenizer.to_str())
        self.split.model.dropout = SPLIT
        self.stream = map(self.encode, corpus.conversations())

    def encode(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """Ids of one conversation, and whether each counts in the loss."""
        ids, counts = [], []
        for role, text in tokens.render(messages):
            encoded = (self.split if role == "user" else self.exact).encode(text).ids
            if role == "user":
                encoded = [self._blurred(token) for token in encoded]
            ids += encoded
            if role == "user":
                counts += [self.rng.random() < self.asked for _ in encoded]
            else:
                counts += [role == "assistant"] * len(encoded)
        if self.rng.random() < self.cut:
            last = len(self.exact.encode(messages[-1]["content"]).ids)
            keep = len(ids) - last + min(last, self.rng.randint(6, 24))
            ids, counts = ids[:keep], counts[:keep]
        return ids, counts

    def _blurred(self, token: int) -> int:
        vocab = self.exact.get_vocab_size()
        change = token >= 3 and self.rng.random() < OTHERS  # marks stay
        return self.rng.randrange(3, vocab) if change else token

    def batches(self, rows: int, length: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Tensors (rows, length) of what `Rows` holds."""
        while True:
            made = [self._row(length) for _ in range(rows)]
            ids, counts, owner = (torch.tensor(part) for part in zip(*made, strict=True))
            yield ids, counts, owner

    def _row(self, length: int) -> tuple[list[int], list[bool], list[int]]:
        ids, counts, owner = [], [], []
        while len(ids) < length:
            new, their = next(self.stream)
            owner += [len(ids)] * len(new)
            counts += [False, *their[1:]]
            ids += new
        return ids[:length], counts[:length], owner[:length]


def sight(owner: Tensor) -> Tensor:
    """Who sees whom (B, 1, L, L): each token those of its conversation up to itself."""
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    return (owner[:, None, :, None] == owner[:, None, None, :]) & causal


def loss_of(model: step.Step, ids: Tensor, owner: Tensor, places: Tensor) -> Tensor:
    """Mean loss of predicting the tokens at `places` of the flattened rows."""
    hidden = model(ids, sight(owner)).flatten(0, 1)[places - 1]
    return F.cross_entropy(model.lm_head(hidden).float(), ids.flatten()[places])


def loss_ahead(model: step.Step, ids: Tensor, owner: Tensor, places: list[Tensor]) -> Tensor:
    """Mean loss of each head's predicting what the model itself says at its `places`."""
    mask = sight(owner)
    with torch.no_grad():
        states = model(ids, mask)
        said = model.lm_head(states.flatten(0, 1)).argmax(-1)
    losses = [
        F.cross_entropy(head.output(found.flatten(0, 1)[at - j - 2]).float(), said[at - 1])
        for j, (head, found, at) in enumerate(
            zip(model.heads, model.ahead(states, ids, mask), places, strict=True)
        )
    ]
    return torch.stack(losses).mean()


def optimizers(
    layers: Iterable[nn.Module], others: Iterable[nn.Parameter], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest."""
    inside = [(name, p) for layer in layers for name, p in layer.named_parameters()]
    matrices = [p for name, p in inside if p.ndim == 2 and "output" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in chain((p for _, p in inside), others) if id(p) not in chosen]
    return [
        Muon(matrices, lr=rate, decay=0.1),
        torch.optim.AdamW(rest, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def begin(
    config: step.Config, seed: int, grown_from: Path | None, start_from: Path | None
) -> tuple[step.Step, Tokenizer]:
    """The model as it is before training, and its tokenizer."""
    earlier = grown_from or start_from
    if earlier is None:
        sample = islice(Corpus(seed).conversations(), TOKENIZER_SAMPLE)
        texts = ("".join(text for _, text in tokens.render(messages)) for messages in sample)
        return step.Step(config), tokens.train(texts, config.vocab_size)
    tokenizer = Tokenizer.from_file(str(earlier / "tokenizer.json"))
    if start_from is not None:
        return step.load(start_from).train(), tokenizer
    rows = Rows(Corpus(seed), tokenizer, seed, CUT, QUESTION_SHARE)
    ids, _, owner = next(rows.batches(20, 320))
    return grow(earlier, config, ids, sight(owner)), tokenizer


def train(
    out: Path,
    config: step.Config,
    steps: int,
    seed: int,
    rate: float,
    *,
    heads: bool,
    long: bool,
    grown_from: Path | None,
    start_from: Path | None,
) -> None:
    """Train and write `out`; progress goes to stdout and the facts to training.json."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = begin(config, seed, grown_from, start_from)
    model = model.to(device)
    tokens.save(tokenizer, out, config.max_position_embeddings)
    cut, asked = (0.0, 0.0) if heads else (CUT, QUESTION_SHARE)
    rows = Rows(Corpus(seed + 1, long), tokenizer, seed, cut, asked)
    loss_by = loss_ahead if heads else loss_of
    if heads:
        if (_facts(start_from) or {}).get("trained") != "heads":
            model.begin_heads()
        model.requires_grad_(False)
        for head in model.heads:
            head.requires_grad_(True)
        both = optimizers(model.heads, [], rate)
    else:
        others = [model.model.embed_tokens.weight, model.model.norm.weight, model.lm_head.weight]
        both = optimizers(model.layers, others, rate)
    start, seen, shown = time.time(), 0, []
    for number, (ids, counts, owner) in enumerate(_stages(rows, steps, long), start=1):
        level = min(1.0, number / 50, (steps - number + 1) / (0.7 * steps))
        ids, counts, owner = ids.to(device), counts.to(device), owner.to(device)
        places = (
            [_ahead(counts, owner, j) for j in range(len(model.heads))] if heads else _at(counts)
        )
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_by(model, ids, owner, places)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = rate * level
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        shown.append(loss.item())
        if number % 25 == 0:
            mean, seconds = sum(shown) / len(shown), time.time() - start
            print(f"step {number} loss {mean:.4f} {seen / seconds:.0f} tokens/s", flush=True)
            shown.clear()
        if number % 100 == 0:
            write(model, tokenizer, out)
    write(model, tokenizer, out)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": "heads" if heads else "all but the heads",
        "steps": steps,
        "start": _facts(start_from),
        "tokens": seen,
        "seed": seed,
        "seconds": round(time.time() - start),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(facts)


def _at(counts: Tensor) -> Tensor:
    return counts.flatten().nonzero().squeeze(1)


def _ahead(counts: Tensor, owner: Tensor, j: int) -> Tensor:
    """Places that count whose conversation began j + 2 tokens before, or earlier."""
    before = torch.full_like(owner, -1)
    before[:, j + 2 :] = owner[:, : -(j + 2)]
    return _at(counts & (owner == before))


def _facts(folder: Path | None) -> dict | None:
    return None if folder is None else json.loads((folder / "training.json").read_text())


def _stages(rows: Rows, steps: int, long: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for share, height, length in LONG if long else STAGES:
        yield from islice(rows.batches(height, length), round(steps * share))


def write(model: step.Step, tokenizer: Tokenizer, out: Path) -> None:
    """Save the weights so far."""
    step.save(model, out, tokenizer.token_to_id(tokens.END), tokenizer.token_to_id(tokens.PAD))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--heads", action="store_true", help="train the heads, and nothing else")
    parser.add_argument("--long", action="store_true", help="long rows of long conversations")
    before = parser.add_mutually_exclusive_group()
    before.add_argument("--grow", type=Path, help="a llama in floats to begin with")
    before.add_argument("--start", type=Path, help="take an earlier training further")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(
        args.out,
        step.Config(),
        args.steps,
        args.seed,
        args.rate,
        heads=args.heads,
        long=args.long,
        grown_from=args.grow,
        start_from=args.start,
    )


if __name__ == "__main__":
    main()
