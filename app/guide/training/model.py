"""A compact Step 3.5 in torch, all dense, whose weights carry the hub's names.

Letters: B batch, L tokens, H query heads, K key/value heads, E head size.
Source: stepfun-ai/Step-3.5-Flash; transformers, models/step3p7/modeling_step3p7.py.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, kw_only=True)
class Config:
    """The guide's shape, in the hub's words."""

    vocab_size: int = 3072
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 8
    num_nextn_predict_layers: int = 3
    num_attention_heads: int = 4
    num_attention_groups: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 2048


ROPE_BASE = 10000.0


def rotations(config: Config) -> tuple[Tensor, Tensor]:
    """Cosines and sines (max L, E), half-split."""
    steps = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), ROPE_BASE**-steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, L, E) -> the same, rotated by its positions."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Norm(nn.Module):
    """RMS norm that keeps its weight less one, as the hub does."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], 1 + self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        heads, groups = c.num_attention_heads, c.num_attention_groups
        self.q_proj = nn.Linear(c.hidden_size, heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, groups * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, groups * c.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * c.head_dim, c.hidden_size, bias=False)
        self.g_proj = nn.Linear(c.hidden_size, heads, bias=False)
        self.q_norm, self.k_norm = (Norm(c.head_dim, c.rms_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        size, length, _ = x.shape
        q, k, v = (
            project(x).view(size, length, -1, self.config.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k, v = (t.transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeats = self.config.num_attention_heads // self.config.num_attention_groups
        k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
        out = out.transpose(1, 2) * self.g_proj(x).sigmoid()[..., None]
        return self.o_proj(out.reshape(size, length, -1))


class MLP(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.input_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Head(Layer):
    """Normed states (B, L, D) and the embeddings that follow them -> the states after those."""

    def __init__(self, c: Config):
        super().__init__(c)
        self.enorm, self.hnorm, norm = (Norm(c.hidden_size, c.rms_norm_eps) for _ in range(3))
        self.eh_proj = nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False)
        output = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        shared = nn.ModuleDict({"norm": norm, "output": output})
        self.transformer = nn.ModuleDict({"shared_head": shared})

    def forward(self, states: Tensor, embedded: Tensor, *around: Tensor) -> Tensor:
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(states)], dim=-1))
        return self.transformer["shared_head"]["norm"](super().forward(x, *around))

    @property
    def output(self) -> nn.Linear:
        """The head's own vocabulary matrix."""
        return self.transformer["shared_head"]["output"]


class Backbone(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        layers = [Layer(c) for _ in range(c.num_hidden_layers)]
        heads = [Head(c) for _ in range(c.num_nextn_predict_layers)]
        self.layers = nn.ModuleList([*layers, *heads])
        self.norm = Norm(c.hidden_size, c.rms_norm_eps)


class Step(nn.Module):
    """tokens (B, L), mask (B, 1, L, L) of who sees whom -> hidden states (B, L, D)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        cos, sin = rotations(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._reset)

    def _reset(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers that are no heads."""
        return list(self.model.layers[: self.config.num_hidden_layers])

    @property
    def heads(self) -> list[nn.Module]:
        """The heads, which come after the last layer."""
        return list(self.model.layers[self.config.num_hidden_layers :])

    @torch.no_grad()
    def begin_heads(self) -> None:
        """Let each head begin as the last layer, the last norm and the vocabulary matrix."""
        for head in self.heads:
            head.load_state_dict(self.layers[-1].state_dict(), strict=False)
            shared = head.transformer["shared_head"]
            shared["norm"].load_state_dict(self.model.norm.state_dict())
            shared["output"].load_state_dict(self.lm_head.state_dict())
            nn.init.normal_(head.eh_proj.weight, std=0.02)
            head.eh_proj.weight[:, self.config.hidden_size :].fill_diagonal_(1.0)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def ahead(self, states: Tensor, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """States (B, L, D) of each head, which saw one token more than the one before.

        The last rows of head j lack tokens that follow: its last j + 1 states mean nothing.
        """
        found, embedded = [], self.model.embed_tokens(tokens)
        around = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]], mask
        for head in self.heads:
            embedded = embedded.roll(-1, dims=1)
            states = head(states, embedded, *around)
            found.append(states)
        return found


def hub_config(config: Config, end: int, pad: int) -> dict:
    """config.json as the hub has it."""
    listed = config.num_hidden_layers + config.num_nextn_predict_layers
    return {
        "architectures": ["Step3p5ForCausalLM"],
        "model_type": "step3p5",
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "layer_types": ["full_attention"] * listed,
        "rope_theta": [ROPE_BASE] * listed,
        "partial_rotary_factors": [1.0] * listed,
        "sliding_window": 512,
        "use_qk_norm": True,
        "use_head_wise_attn_gate": True,
        "tie_word_embeddings": False,
        # No layer has experts: the first that would is past the last.
        "moe_layers_enum": str(listed),
        "moe_num_experts": 1,
        "moe_top_k": 1,
        "moe_intermediate_size": config.intermediate_size,
        "share_expert_dim": config.intermediate_size,
        "moe_router_scaling_factor": 1.0,
        "torch_dtype": "bfloat16",
        **asdict(config),
    }


def save(model: Step, folder: Path, end: int, pad: int) -> None:
    """Write config.json and model.safetensors, in bfloat16, as a hub checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    config = hub_config(model.config, end, pad)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: t.detach().cpu().to(torch.bfloat16) for name, t in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path) -> Step:
    """Read what `save` wrote."""
    raw = json.loads((folder / "config.json").read_text())
    model = Step(Config(**{key: raw[key] for key in asdict(Config())}))
    model.load_state_dict(
        {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    )
    return model.eval()
