"""What is in no format that is read is refused by name, and so are tensors that do not fit."""

import json

import mlx.core as mx
import pytest

from mlxarch import formats
from mlxarch.errors import FormatError


def compressed(format_="pack-quantized", **weights):
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": format_, "config_groups": groups}


REFUSED = [
    *(
        {"quant_method": name}
        for name in (
            "aqlm",
            "auto-round",
            "bitnet",
            "bitsandbytes",
            "eetq",
            "exl2",
            "exl3",
            "fbgemm_fp8",
            "gguf",
            "higgs",
            "hqq",
            "quanto",
            "quark",
            "spqr",
            "torchao",
            "vptq",
            "unheard-of",
        )
    ),
    {"quant_method": "awq", "version": "gemv"},
    {"quant_method": "gptq", "checkpoint_format": "marlin"},
    {"quant_method": "fp8", "fmt": "e5m2"},
    {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
    {"quant_method": "compressed-tensors", "format": "float-quantized"},
    compressed("marlin-24", num_bits=4, group_size=32),
    compressed("sparse-24-bitmask", num_bits=8),
    compressed(num_bits=7, group_size=32),
    compressed(num_bits=4, group_size=32, actorder="group"),
    compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=64),
    compressed("float-quantized", num_bits=8, type="float", symmetric=False),
]


@pytest.mark.parametrize("config", REFUSED, ids=lambda config: json.dumps(config)[:60])
def test_what_is_not_read_is_refused_by_its_name(config):
    for raw in ({"quantization_config": config}, {"text_config": {"quantization_config": config}}):
        with pytest.raises(FormatError, match=config["quant_method"]) as refused:
            formats.decode(raw, {})
        assert "read are" in str(refused.value).replace("\n", " ")
        assert "tart from" in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "fp8", "weight_block_size": "128"},
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        {"quant_method": "fp8", "weight_block_size": [128]},
        {"quant_method": "compressed-tensors", "config_groups": ["x"]},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "quantized_layers": {"a": 3}},
        compressed(num_bits=4, group_size="many"),
        compressed(num_bits=8, type="float", block_structure="16by24"),
    ],
    ids=lambda config: json.dumps(config)[:60],
)
def test_a_damaged_quantization_config_is_named(config):
    with pytest.raises(FormatError, match=r"quantization_config in config\.json is damaged"):
        formats.rules({"quantization_config": config})


FP8 = {"quant_method": "fp8", "weight_block_size": [4, 4]}
INT4 = compressed(num_bits=4, group_size=32)
ZEROS = compressed(num_bits=4, group_size=32, symmetric=False)
INT8 = compressed("int-quantized", num_bits=8, strategy="channel")
NVFP4 = compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16)
MXFP4 = compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32)
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
BLOCKS, AWQ, GPTQ = ({"quant_method": name} for name in ("mxfp4", "awq", "gptq"))
U8, I8, I32, F16 = mx.uint8, mx.int8, mx.int32, mx.float16
SHAPES = {
    "fp8 scales": (FP8, {"weight": (U8, 9, 8), "weight_scale_inv": (F16, 2, 2)}, "do not make"),
    "fp8 vector": (FP8, {"weight": (U8, 9), "weight_scale_inv": (F16, 2)}, "do not make"),
    "fp8 without blocks": (
        {"quant_method": "fp8"},
        {"weight": (U8, 9, 8), "weight_scale": (F16, 3, 2)},
        "rows or tensors as blocks do not make",
    ),
    "fp8 stack": (
        FP8,
        {"weight": (U8, 3, 8, 8), "weight_scale_inv": (F16, 2, 2, 2)},
        r"shape \[2, 2, 2\]",
    ),
    "fp8 in floats": (
        FP8,
        {"weight": (F16, 8, 8), "weight_scale_inv": (F16, 2, 2)},
        r"a\.weight holds float16; .* wants uint8",
    ),
    "int4 without scales": (INT4, {"weight_packed": (I32, 2, 4)}, "no a.weight_scale beside"),
    "int4 groups": (
        INT4,
        {"weight_packed": (I32, 2, 4), "weight_scale": (F16, 2, 3)},
        "4 bits in groups of 32",
    ),
    "int4 rows": (
        INT4,
        {"weight_packed": (I32, 2, 4), "weight_scale": (F16, 3, 1)},
        "does not suit a.weight_packed",
    ),
    "int4 in bytes": (
        INT4,
        {"weight_packed": (U8, 2, 4), "weight_scale": (F16, 2, 1)},
        r"holds uint8; .* wants int32",
    ),
    "int4 without zeros": (
        ZEROS,
        {"weight_packed": (I32, 2, 4), "weight_scale": (F16, 2, 1)},
        "no a.weight_zero_point beside",
    ),
    "int8 in bytes that count from 0": (
        INT8,
        {"weight": (U8, 2, 32), "weight_scale": (F16, 2, 1)},
        r"holds uint8; .* wants int8",
    ),
    "nvfp4 without the tensor's scale": (
        NVFP4,
        {"weight_packed": (U8, 2, 16), "weight_scale": (U8, 2, 2)},
        "no a.weight_global_scale beside",
    ),
    "nvfp4 groups": (
        MODELOPT,
        {"weight": (U8, 2, 16), "weight_scale": (U8, 2, 1), "weight_scale_2": (F16,)},
        "a scale for every 8 bytes",
    ),
    "nvfp4 scales": (
        MODELOPT,
        {"weight": (U8, 2, 16), "weight_scale": (U8, 2, 2), "weight_scale_2": (F16, 2)},
        "one number is wanted",
    ),
    "mxfp4 groups": (
        MXFP4,
        {"weight_packed": (U8, 2, 16), "weight_scale": (U8, 2, 2)},
        "a scale for every 16 bytes",
    ),
    "mxfp4 blocks": (
        BLOCKS,
        {"w_blocks": (U8, 2, 3, 16), "w_scales": (U8, 2, 2)},
        "a scale for every 16 bytes",
    ),
    "mxfp4 without scales": (BLOCKS, {"w_blocks": (U8, 2, 3, 16)}, "no a.w_scales beside"),
    "awq rows": (
        AWQ,
        {"qweight": (I32, 64, 2), "qzeros": (I32, 2, 1), "scales": (F16, 2, 8)},
        "make no rows",
    ),
    "awq in 8 bits": (
        AWQ,
        {"qweight": (I32, 64, 2), "qzeros": (I32, 2, 2), "scales": (F16, 2, 8)},
        "make no rows",
    ),
    "gptq groups": (
        GPTQ,
        {"qweight": (I32, 8, 8), "qzeros": (I32, 3, 1), "scales": (F16, 3, 8)},
        "make no rows",
    ),
    "gptq in 3 bits": (
        GPTQ,
        {"qweight": (I32, 6, 32), "qzeros": (I32, 2, 3), "scales": (F16, 2, 32)},
        "make no rows",
    ),
    "gptq without a shape": (
        GPTQ,
        {"qweight": (I32,), "qzeros": (I32, 0), "scales": (F16, 0, 0)},
        "make no rows",
    ),
    "gptq without zeros": (
        GPTQ,
        {"qweight": (I32, 8, 8), "scales": (F16, 2, 8)},
        "no a.qzeros beside",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_tensors_that_do_not_suit_each_other_are_named(case):
    config, tensors, message = SHAPES[case]
    source = {f"a.{end}": mx.zeros(shape, dtype) for end, (dtype, *shape) in tensors.items()}
    with pytest.raises(FormatError, match=message):
        formats.decode({"quantization_config": config}, source)


def test_mlx_s_own_that_do_not_suit_config_json_are_named():
    source = {"a.kv_b_proj.weight": mx.zeros((4, 8), mx.uint32)}
    source |= {f"a.kv_b_proj.{end}": mx.zeros((4, 2)) for end in ("scales", "biases")}
    with pytest.raises(FormatError, match=r"a\.kv_b_proj\.scales has shape \[4, 2\], which does"):
        formats.decode({"quantization": {"bits": 4, "group_size": 64}}, source)
