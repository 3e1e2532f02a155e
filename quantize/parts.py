"""The kinds of tensors of each architecture: what is fragile, what is worth more bits, and why.

Patterns are searched for in mlx-lm's spelling of the names.

Source: mlx-lm, `quant_predicate` of its models, for `theirs`; llama.cpp, src/llama-quant.cpp, for
values and heads; of early layers, what the guide of this project loses part by part.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from .scheme import BITS, Scheme


def keep(base: Scheme) -> None:
    """It stays as it is."""


def eight(base: Scheme) -> Scheme:
    """8 bits."""
    return base if base.bits == 8 else Scheme(8, base.group_size if base.affine else 64)


def more(base: Scheme) -> Scheme:
    """Two bits more, or the next number that MLX has; 8 are enough."""
    bits = next((bits for bits in BITS if bits >= base.bits + 2), 8)
    return eight(base) if bits == 8 else replace(eight(base), bits=bits)


def same(base: Scheme) -> Scheme:
    """What most get."""
    return base


def eight_by_64(base: Scheme) -> Scheme:
    """8 bits in groups of 64, whatever the rest gets."""
    return Scheme(8, 64)


@dataclass(frozen=True)
class Part:
    """A kind of tensor, and what it gets instead of the scheme that most get."""

    kind: str
    pattern: str
    gets: Callable[[Scheme], Scheme | None]
    why: str
    theirs: Callable[[Scheme], Scheme | None] = same  # what mlx-lm gives it
    early: bool = False  # only in the first eighth of the layers
    fixed: bool = False  # mlx-lm has no quantized form of it

    def has(self, name: str, depth: int) -> bool:
        """Whether a tensor of a model with so many layers is of this kind."""
        if re.search(self.pattern, name) is None:
            return False
        return not self.early or _is_early(name, depth)


_ERRS = "one that errs sends a token to the wrong experts"
_EVERY_HEAD = "every head repeats their errors"
_STATE = "a handful of rows, whose errors a state gathers over all tokens"

ROUTER = Part("router", r"\.(gate|router)(\.gate(_proj)?)?\.weight$", keep, _ERRS, eight_by_64)
PLAIN_ROUTER = replace(ROUTER, fixed=True)
ONE_ROW = Part("gate", r"\.shared_expert_gate\.", keep, "it scales a whole expert", eight_by_64)
ROW_A_HEAD = Part("gate", r"\.g_proj\.", keep, "one row scales a whole head")
OUTPUT_GATE = Part("gate", r"\.g_proj\.", eight, "it scales all that a layer remembers")
DECAY = Part("decay", r"\.in_proj_(a|b|ba)\.", keep, _STATE)
CONVOLUTION = Part("convolution", r"\.conv1d\.", keep, "a few taps a channel", fixed=True)
ABSORBED = Part("absorbed", r"\.(embed_q|unembed_out)\.", eight, _EVERY_HEAD)
FEW_ABSORBED = replace(ABSORBED, gets=keep, theirs=keep)
WEIGHER = Part("indexer", r"\.indexer\.weights_proj\.", keep, "one row weighs a whole head")
INDEXER = Part("indexer", r"\.indexer\.", eight, "what it overlooks is not attended to at all")
TOWER = Part("vision", r"^vision\.", keep, "mlx-lm does not know it", fixed=True)
GUESS = Part("mtp", r"^mtp\.(?!.*\.switch_mlp\.)", eight, "wrong guesses cost time; it is small")

# What is fragile in each architecture, by its module's name; the first that has a tensor counts.
FRAGILE = {
    "glm5": (PLAIN_ROUTER, WEIGHER, INDEXER, ABSORBED, GUESS),
    "kimi_k25": (TOWER, PLAIN_ROUTER, ABSORBED, GUESS),
    "ling25": (ROUTER, FEW_ABSORBED, OUTPUT_GATE, GUESS),
    "minimax_m25": (ROUTER,),
    "nanbeige41": (),
    "qwen35": (TOWER, ROUTER, ONE_ROW, DECAY, CONVOLUTION, GUESS),
    "qwen3_next": (ROUTER, ONE_ROW, DECAY, CONVOLUTION, GUESS),
    "step35": (ROUTER, ROW_A_HEAD, GUESS),
    "tiny_aya": (),
    "trinity": (ROUTER,),
}

_FEW = "few rows, which many heads share"
_EVERY_TOKEN = "every token passes through it"
_EARLY = "what errs in the first eighth of the layers passes through all others"

VALUES = Part("values", r"\.(v_proj|kv_a_proj_with_mqa)\.", more, _FEW)
EARLY_VALUES = replace(VALUES, kind="early values", why=_EARLY, early=True)
KEYS = Part("keys", r"\.k_proj\.", more, _FEW)
ATTENTION = Part("attention", r"\.(self_attn|attention|linear_attn)\.", more, _EVERY_TOKEN)
EARLY_ATTENTION = replace(ATTENTION, kind="early attention", why=_EARLY, early=True)
HEAD = Part("head", r"\blm_head\.", more, "its errors are the logits'")
SHARED = Part("shared expert", r"\.shared?_experts?\.", more, _EVERY_TOKEN)
EARLY_MLP = Part("early mlp", r"\.mlp\.(gate|up|down)_proj\.", more, _EARLY, early=True)
EMBEDDING = Part("embedding", r"\.(embed_tokens|word_embeddings)\.", more, "all adds to its errors")
EXPERTS = Part("experts", r"\.(switch_mlp|mlp\.experts)\.", same, "nearly all bytes are theirs")
EARLY_EXPERTS = replace(EXPERTS, kind="early experts", gets=more, why=_EARLY, early=True)

# What gets more bits, in turn, as far as a recipe's room goes; what does not fit is passed over.
SPENT = (
    EARLY_VALUES,
    VALUES,
    EARLY_ATTENTION,
    KEYS,
    HEAD,
    SHARED,
    ATTENTION,
    EARLY_MLP,
    EMBEDDING,
    replace(VALUES, gets=eight),
    replace(EARLY_ATTENTION, gets=eight),
    replace(SHARED, gets=eight),
    EARLY_EXPERTS,
    replace(ATTENTION, gets=eight),
)


def _is_early(name: str, depth: int) -> bool:
    layer = re.search(r"\blayers\.(\d+)\.", name)
    return layer is not None and int(layer[1]) < max(1, depth // 8)
