"""Train the guide from nothing and write it as a hub checkpoint.

    python -m mlxarch.app.guide.training.train OUT [--steps N] [--seed N] [--start FOLDER]

A row of fixed length holds several conversations, which do not see each other. The loss counts
answers fully and questions a little. What tells one answer from another stands at its beginning,
so most last answers are cut off there and more questions fit into the same time.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import model as llama
from . import tokens
from .corpus import Corpus, Message
from .muon import Muon

TOKENIZER_SAMPLE = 30_000  # conversations
QUESTION_SHARE = 0.15  # of the questions' tokens count in the loss
SPLIT = 0.1  # chance that BPE skips a merge in a question, so that typos look familiar
CUT = 0.65  # of the last answers are cut off
STAGES = ((0.94, 20, 320), (0.06, 5, 1280))  # share of the steps, rows, tokens of a row


class Rows:
    """Rows of (tokens, whether each counts, the conversation of each)."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, seed: int):
        self.rng = random.Random(seed)
        self.exact, self.split = tokenizer, Tokenizer.from_str(tokenizer.to_str())
        self.split.model.dropout = SPLIT
        self.stream = map(self.encode, corpus.conversations())

    def encode(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """Ids of one conversation, and whether each counts in the loss."""
        ids, counts = [], []
        for role, text in tokens.render(messages):
            encoded = (self.split if role == "user" else self.exact).encode(text).ids
            ids += encoded
            if role == "user":
                counts += [self.rng.random() < QUESTION_SHARE for _ in encoded]
            else:
                counts += [role == "assistant"] * len(encoded)
        if self.rng.random() < CUT:
            last = len(self.exact.encode(messages[-1]["content"]).ids)
            keep = len(ids) - last + min(last, self.rng.randint(6, 24))
            ids, counts = ids[:keep], counts[:keep]
        return ids, counts

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


def loss_of(model: llama.Llama, ids: Tensor, owner: Tensor, places: Tensor) -> Tensor:
    """Mean loss of predicting the tokens at `places` of the flattened rows."""
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    mask = (owner[:, None, :, None] == owner[:, None, None, :]) & causal
    hidden = model(ids, mask).flatten(0, 1)[places - 1]
    return F.cross_entropy(model.lm_head(hidden).float(), ids.flatten()[places])


def optimizers(model: llama.Llama, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding, the head and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, lr=rate, decay=0.1),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def train(
    out: Path, config: llama.Config, steps: int, seed: int, rate: float, start_from: Path | None
) -> None:
    """Train and write `out`; progress goes to stdout and the facts to training.json.

    With `start_from` the weights and the tokenizer of an earlier training are taken further.
    """
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if start_from is None:
        model = llama.Llama(config).to(device)
        sample = islice(Corpus(seed).conversations(), TOKENIZER_SAMPLE)
        texts = ("".join(text for _, text in tokens.render(messages)) for messages in sample)
        tokenizer = tokens.train(texts, config.vocab_size)
    else:
        model = llama.load(start_from).train().to(device)
        tokenizer = Tokenizer.from_file(str(start_from / "tokenizer.json"))
    count = sum(p.numel() for p in model.parameters())
    tokens.save(tokenizer, out, config.max_position_embeddings)
    rows = Rows(Corpus(seed + 1), tokenizer, seed)
    compiled = torch.compile(loss_of, dynamic=True)
    both = optimizers(model, rate)
    start, seen, shown = time.time(), 0, []
    for step, (ids, counts, owner) in enumerate(_stages(rows, steps), start=1):
        level = min(1.0, step / 50, (steps - step + 1) / (0.7 * steps))
        places = counts.flatten().nonzero().squeeze(1)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = compiled(model, ids.to(device), owner.to(device), places.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = rate * level
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        shown.append(loss.item())
        if step % 25 == 0:
            mean, seconds = sum(shown) / len(shown), time.time() - start
            print(f"step {step} loss {mean:.4f} {seen / seconds:.0f} tokens/s", flush=True)
            shown.clear()
        if step % 250 == 0:
            write(model, tokenizer, out)
    write(model, tokenizer, out)
    facts = {
        "parameters": count,
        "steps": steps,
        "start": start_from and json.loads((start_from / "training.json").read_text()),
        "tokens": seen,
        "seed": seed,
        "seconds": round(time.time() - start),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(facts)


def _stages(rows: Rows, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for share, height, length in STAGES:
        yield from islice(rows.batches(height, length), round(steps * share))


def write(model: llama.Llama, tokenizer: Tokenizer, out: Path) -> None:
    """Save the weights so far."""
    llama.save(model, out, tokenizer.token_to_id(tokens.END), tokenizer.token_to_id(tokens.PAD))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--start", type=Path, help="take an earlier training further")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.out, llama.Config(), args.steps, args.seed, args.rate, args.start)


if __name__ == "__main__":
    main()
