"""Ling 2.5 in plain torch: what golden files are made with, since transformers has no such class.

A transcription of the publisher's modeling_bailing_moe_v2_5.py (inclusionAI/Ling-V2.5) into its
mathematics: one token of a recurrence at a time, whole prompts only, no kernels. It shares nothing
with mlxarch.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedConfig


class LingConfig(PreTrainedConfig):
    """Any keys: the released config.json's."""

    model_type = "bailing_hybrid"


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class GroupRMSNorm(RMSNorm):
    def __init__(self, width, groups, eps):
        super().__init__(width, eps)
        self.groups = groups

    def forward(self, x):
        runs = x.unflatten(-1, (self.groups, -1))
        runs = runs * torch.rsqrt(runs.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * runs.flatten(-2)


def rotate(x, base, dims, interleaved):
    """x (B, H, L, E) with its first dims turned by position."""
    angles = torch.arange(x.shape[2])[:, None] * base ** (-torch.arange(0, dims, 2) / dims)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    turned, rest = x[..., :dims], x[..., dims:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return torch.cat([turned, rest], dim=-1)


class Lightning(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        width = c.num_attention_heads * c.head_dim
        self.c, self.layer = c, layer
        self.query_key_value = nn.Linear(c.hidden_size, 3 * width, bias=False)
        self.query_layernorm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.key_layernorm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.g_proj = nn.Linear(c.hidden_size, width, bias=False)
        self.g_norm = GroupRMSNorm(width, c.group_norm_size, c.rms_norm_eps)
        self.dense = nn.Linear(width, c.hidden_size, bias=False)

    def forward(self, x):
        c, heads = self.c, self.c.num_attention_heads
        dims = int(c.head_dim * c.partial_rotary_factor)
        q, k, v = self.query_key_value(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        q = rotate(self.query_layernorm(q), c.rope_theta, dims, interleaved=False)
        k = rotate(self.key_layernorm(k), c.rope_theta, dims, interleaved=False)
        # Heads are a power of two here; the publisher counts layers from one less than their index.
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        pace = 1 - (self.layer - 1) / (c.num_hidden_layers - 1) + 1e-5
        keep = torch.exp(-slopes * pace).to(x.dtype)[:, None, None]
        state = x.new_zeros(x.shape[0], heads, c.head_dim, c.head_dim)
        out = []
        for t in range(x.shape[1]):
            state = keep * state + k[:, :, t, :, None] * v[:, :, t, None, :]
            out.append(torch.einsum("bhe,bhef->bhf", q[:, :, t] * c.head_dim**-0.5, state))
        out = torch.stack(out, dim=1).flatten(-2)
        return self.dense(self.g_norm(out) * self.g_proj(x).sigmoid())


class Latent(nn.Module):
    def __init__(self, c):
        super().__init__()
        heads, self.c = c.num_attention_heads, c
        both = c.qk_nope_head_dim + c.qk_rope_head_dim
        self.q_a_proj = nn.Linear(c.hidden_size, c.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
        self.q_b_proj = nn.Linear(c.q_lora_rank, heads * both, bias=False)
        joined = c.kv_lora_rank + c.qk_rope_head_dim
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, joined, bias=False)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.rms_norm_eps)
        expanded = heads * (c.qk_nope_head_dim + c.v_head_dim)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, expanded, bias=False)
        self.dense = nn.Linear(heads * c.v_head_dim, c.hidden_size, bias=False)

    def forward(self, x):
        c, heads, length = self.c, self.c.num_attention_heads, x.shape[1]
        nope, turned = c.qk_nope_head_dim, c.qk_rope_head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.unflatten(-1, (heads, -1)).transpose(1, 2)
        latent, k_turned = self.kv_a_proj_with_mqa(x).split([c.kv_lora_rank, turned], dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = kv.split([nope, c.v_head_dim], dim=-1)
        q_turned = rotate(q[..., nope:], c.rope_theta, turned, interleaved=True)
        k_turned = rotate(k_turned[:, None], c.rope_theta, turned, interleaved=True)
        scores = q[..., :nope] @ k.transpose(-1, -2) + q_turned @ k_turned.transpose(-1, -2)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (scores * (nope + turned) ** -0.5).masked_fill(future, -torch.inf)
        return self.dense((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.weight = nn.Parameter(torch.zeros(c.num_experts, c.hidden_size))
        self.expert_bias = nn.Parameter(torch.zeros(c.num_experts))

    def forward(self, x):
        c, scores = self.c, F.linear(x, self.weight).sigmoid()
        ranked = scores + self.expert_bias
        grouped = ranked.unflatten(-1, (c.n_group, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(c.topk_group, dim=-1).indices
        barred = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
        ranked = grouped.masked_fill(barred[..., None], -torch.inf).flatten(-2)
        chosen = ranked.topk(c.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * c.routed_scaling_factor


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden = c.moe_intermediate_size
        self.gate = Gate(c)
        self.experts = nn.ModuleList(MLP(c.hidden_size, hidden) for _ in range(c.num_experts))
        self.shared_experts = MLP(c.hidden_size, hidden * c.num_shared_experts)

    def forward(self, x):
        chosen, weights = self.gate(x)
        out = self.shared_experts(x)
        for e, expert in enumerate(self.experts):
            share = (weights * (chosen == e)).sum(-1, keepdim=True)
            out = out + share * expert(x)
        return out


class Block(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        latent = (layer + 1) % c.layer_group_size == 0
        latent = latent or layer >= c.num_hidden_layers // c.layer_group_size * c.layer_group_size
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.attention = Latent(c) if latent else Lightning(c, layer)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        dense = layer < c.first_k_dense_replace
        self.mlp = MLP(c.hidden_size, c.intermediate_size) if dense else MoE(c)

    def forward(self, x):
        x = x + self.attention(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c, i) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, ids):
        x = self.word_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class BailingMoeV2_5ForCausalLM(nn.Module):  # noqa: N801
    """The whole, with transformers' way of being called; its cache is the tokens themselves."""

    config_class = LingConfig

    def __init__(self, config):
        super().__init__()
        self.config, self.model = config, Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids, use_cache=False, past_key_values=None):
        past = ids[:, :0] if past_key_values is None else past_key_values
        ids = torch.cat([past, ids], dim=1)
        logits = self.lm_head(self.model(ids))[:, past.shape[1] :]
        return SimpleNamespace(logits=logits, past_key_values=ids)
