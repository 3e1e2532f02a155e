"""A deeper Step 3.5 that begins near what a shallow llama knows.

Its layers are spread over the new ones, in order. Each layer in between begins as the one before
it, but adds nothing yet. Gates begin half open, so what they scale is doubled; queries and keys
are normed here and are not there, so norms begin with the size that they have on the corpus.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .model import Config, Step


def grow(folder: Path, config: Config, tokens: Tensor, mask: Tensor) -> Step:
    """The model to train further.

    Args:
        folder: A llama of the same widths in floats, as a hub checkpoint.
        tokens: (B, L) of the corpus, to measure queries and keys on; with a mask (B, 1, L, L).
    """
    old = {
        name: tensor.float() - 1 if "norm" in name else tensor.float()
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    kept = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    model, before = Step(config), None
    model.load_state_dict({k: t for k, t in old.items() if ".layers." not in k}, strict=False)
    for i, layer in enumerate(model.layers):
        source = i * kept // config.num_hidden_layers
        prefix = f"model.layers.{source}."
        own = {k.removeprefix(prefix): t for k, t in old.items() if k.startswith(prefix)}
        layer.load_state_dict(own, strict=False)
        adds = source != before
        with torch.no_grad():
            layer.self_attn.g_proj.weight.zero_()
            layer.self_attn.o_proj.weight.mul_(2 * adds)
            layer.mlp.down_proj.weight.mul_(adds)
        before = source
    measure(model, tokens, mask)
    return model


@torch.no_grad()
def measure(model: Step, tokens: Tensor, mask: Tensor) -> None:
    """Let the norms of queries and keys give back the size that these have."""
    hooks = []
    for layer in model.layers:
        attention = layer.self_attn
        for norm in (attention.q_norm, attention.k_norm):

            def fit(norm, given):
                norm.weight.fill_(given[0].float().square().mean(-1).sqrt().mean() - 1)

            hooks.append(norm.register_forward_pre_hook(fit))
    model(tokens, mask)
    for hook in hooks:
        hook.remove()
