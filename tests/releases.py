"""The formats that checkpoints are released in, as config.json names them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from packings import (
    Packed,
    awq,
    bytes_by_row,
    fp8_by_row,
    fp8_by_tensor,
    fp8_in_blocks,
    gptq,
    integers,
    modelopt,
    mxfp4,
    mxfp4_blocks,
    mxfp8,
    nvfp4,
)


def _compressed(format_: str, **weights: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": format_, "config_groups": groups}


@dataclass(frozen=True)
class Packing:
    """A format, as config.json names it, and what a weight is in it."""

    config: dict[str, Any]
    pack: Callable[[np.ndarray], Packed]
    columns: int = 1  # a row is a multiple of
    rows: int = 1
    stays: bool = False  # as MLX has it
    floats: mx.Dtype = mx.bfloat16  # where it does not

    def suits(self, shape: tuple[int, ...]) -> bool:
        return shape[-1] % self.columns == 0 and shape[-2] % self.rows == 0


BLOCK = [16, 24]
PACKINGS = {
    "fp8 block": Packing(
        {"quant_method": "fp8", "weight_block_size": BLOCK}, lambda w: fp8_in_blocks(w, BLOCK)
    ),
    "fp8 exponents": Packing(
        {"quant_method": "fp8", "weight_block_size": BLOCK, "scale_fmt": "ue8m0"},
        lambda w: fp8_in_blocks(w, BLOCK, exponents=True),
    ),
    "fp8 compressed blocks": Packing(
        _compressed(
            "float-quantized", num_bits=8, type="float", strategy="block", block_structure=BLOCK
        ),
        lambda w: fp8_in_blocks(w, BLOCK, "_scale"),
    ),
    "fp8 row": Packing(
        _compressed("float-quantized", num_bits=8, type="float", strategy="channel"), fp8_by_row
    ),
    "fp8 tensor": Packing({"quant_method": "fp8"}, fp8_by_tensor),
    "int4": Packing(
        _compressed("pack-quantized", num_bits=4, group_size=32, strategy="group", symmetric=True),
        integers,
        columns=32,
        stays=True,
    ),
    "int4 zeros": Packing(
        _compressed("pack-quantized", num_bits=4, group_size=32, strategy="group", symmetric=False),
        lambda w: integers(w, symmetric=False, dtype=mx.float32),
        columns=32,
        stays=True,
        floats=mx.float32,
    ),
    "int4 row": Packing(
        _compressed("pack-quantized", num_bits=4, strategy="channel", symmetric=True),
        lambda w: integers(w, -1),
        columns=32,
        stays=True,
    ),
    "int8": Packing(
        _compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True),
        bytes_by_row,
        columns=32,
        stays=True,
    ),
    "mxfp4": Packing(
        _compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32),
        mxfp4,
        columns=32,
        stays=True,
    ),
    "mxfp4 blocks": Packing({"quant_method": "mxfp4"}, mxfp4_blocks, columns=32, stays=True),
    "mxfp8": Packing(
        _compressed("mxfp8-quantized", num_bits=8, type="float", group_size=32),
        mxfp8,
        columns=32,
        stays=True,
    ),
    "nvfp4": Packing(
        _compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
        nvfp4,
        columns=16,
    ),
    "modelopt": Packing({"quant_method": "modelopt", "quant_algo": "NVFP4"}, modelopt, columns=16),
    "awq": Packing(
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
        awq,
        columns=32,
        rows=8,
        stays=True,
        floats=mx.float16,
    ),
    "gptq": Packing(
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False},
        gptq,
        columns=32,
        rows=8,
        stays=True,
        floats=mx.float16,
    ),
    "gptq 8 bits": Packing(
        {"quant_method": "gptq", "bits": 8, "group_size": 32, "sym": True},
        lambda w: gptq(w, bits=8, symmetric=True, order=False),
        columns=32,
        rows=8,
        stays=True,
        floats=mx.float16,
    ),
}


def packed(how: Packing, name: str, values: np.ndarray) -> Packed:
    """A weight (M, C) or a stack of experts (N, M, C) under its names, and what it stands for."""
    base = name.removesuffix("weight")
    if values.ndim == 2:
        tensors, floats = how.pack(values)
        return {f"{base}{end}": tensor for end, tensor in tensors.items()}, floats
    each = [how.pack(expert) for expert in values]
    ends = each[0][0]
    tensors = {f"{base}{end}": mx.stack([expert[0][end] for expert in each]) for end in ends}
    return tensors, np.stack([expert[1] for expert in each])


# Sizes at which the rows of every linear layer are whole groups. Many index heads: what none of few
# likes scores zero, and zeros are chosen from by chance.
WIDE = {
    "head_dim": 16,
    "hidden_size": 64,
    "index_head_dim": 32,
    "index_n_heads": 16,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "linear_value_head_dim": 32,
    "moe_intermediate_size": 32,
    "partial_rotary_factor": 0.5,
    "partial_rotary_factors": [0.5] + [1.0] * 5,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "share_expert_dim": 32,
    "shared_expert_intermediate_size": 32,
    "v_head_dim": 32,
}
