"""Everything that is borrowed from mlx-lm, one line each, and nothing of our own.

mlx-lm's insides move without notice, so it is pinned, and this is the only file that imports it.
"""

from mlx_lm import server
from mlx_lm.generate import generate_step
from mlx_lm.models.base import create_attention_mask as causal_mask
from mlx_lm.models.base import scaled_dot_product_attention as attend
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.models.mla import MultiLinear, QuantizedMultiLinear
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear
from mlx_lm.tokenizer_utils import load as load_tokenizer
from mlx_lm.tool_parsers import json_tools
from mlx_lm.utils import get_total_parameters as count_parameters
from mlx_lm.utils import load_model
from transformers import PreTrainedConfig

__all__ = [
    "ArraysCache",
    "CacheList",
    "KVCache",
    "MultiLinear",
    "PreTrainedConfig",
    "QuantizedMultiLinear",
    "QuantizedSwitchLinear",
    "RotatingKVCache",
    "SwitchGLU",
    "SwitchLinear",
    "attend",
    "causal_mask",
    "count_parameters",
    "generate_step",
    "json_tools",
    "load_model",
    "load_tokenizer",
    "make_prompt_cache",
    "server",
]
