"""Weights as other projects store them, written from their layouts: the inverses of our decoders.

Each takes floats (M, C) and gives the tensors that stand for a module's weight, by the ends of
their names, and the floats that these stand for.
"""

import mlx.core as mx
import numpy as np

Packed = tuple[dict[str, mx.array], np.ndarray]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FP4 = np.concatenate([E2M1, -E2M1])


def e4m3() -> np.ndarray:
    """What each of the 256 bytes stands for: a sign, four bits of exponent, three of fraction."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, byte & 7
    value = np.where(exponent > 0, (8 + fraction) * 2.0 ** (exponent - 10), fraction * 2.0**-9)
    value[byte & 127 == 127] = np.nan
    return np.where(byte < 128, value, -value)


FP8 = e4m3()


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The index of what is closest in a table to each value."""
    order = np.argsort(table)[: np.isfinite(table).sum()]
    middles = (table[order][1:] + table[order][:-1]) / 2
    return order[np.searchsorted(middles, values)].astype(np.uint8)


def round_to(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Values as another type of floats has them."""
    return np.array(mx.array(values.astype(np.float32)).astype(dtype).astype(mx.float32))


def short(values: np.ndarray) -> np.ndarray:
    """Scales of five bits, so that a product with few others loses none."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.ceil(fraction * 32) / 32, exponent)


def stream(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers (M, C) as rows of 32-bit words, which are one stream of bits, lowest first."""
    each = (numbers[..., None] >> np.arange(bits) & 1).reshape(*numbers.shape[:-1], -1)
    padding = [(0, 0)] * (numbers.ndim - 1) + [(0, -each.shape[-1] % 32)]
    bytes_ = np.packbits(np.pad(each, padding).astype(np.uint8), axis=-1, bitorder="little")
    return bytes_.view(np.int32)


def fp8_in_blocks(values: np.ndarray, block, end="_scale_inv", exponents=False) -> Packed:
    """FP8 with a scale a block, the last ones cut off; `exponents`: powers of two, as bytes."""
    (rows, columns), (tall, wide) = values.shape, block
    grid = -(-rows // tall), -(-columns // wide)
    whole = np.zeros((grid[0] * tall, grid[1] * wide))
    whole[:rows, :columns] = values
    cut = whole.reshape(grid[0], tall, grid[1], wide)
    scales = np.maximum(np.abs(cut).max(axis=(1, 3)), 1e-6) / 448
    if exponents:
        scales = 2.0 ** np.ceil(np.log2(scales))
    scales = scales.astype(np.float32)
    bytes_ = nearest(cut / scales[:, None, :, None], FP8)
    floats = FP8[bytes_].astype(np.float32) * scales[:, None, :, None]
    stored = (np.log2(scales) + 127).astype(np.uint8) if exponents else scales
    tensors = {
        "weight": mx.array(bytes_.reshape(whole.shape)[:rows, :columns]),
        f"weight{end}": mx.array(stored),
    }
    return tensors, round_to(floats.reshape(whole.shape)[:rows, :columns], mx.bfloat16)


def fp8_by_row(values: np.ndarray) -> Packed:
    tensors, floats = fp8_in_blocks(values, (1, values.shape[1]), "_scale")
    scales = tensors["weight_scale"].astype(mx.bfloat16)
    table = FP8[np.array(tensors["weight"])].astype(np.float32)
    floats = table * np.array(scales.astype(mx.float32))
    return tensors | {"weight_scale": scales}, round_to(floats, mx.bfloat16)


def fp8_by_tensor(values: np.ndarray) -> Packed:
    tensors, floats = fp8_in_blocks(values, values.shape, "_scale")
    one = {"weight_scale": tensors["weight_scale"].reshape(()), "input_scale": mx.ones(())}
    return tensors | one, floats


def _numbers(values: np.ndarray, group: int, bits: int, symmetric: bool):
    """Whole numbers from 0 on (M, C), scales (M, G) and zeros (M, G)."""
    groups = values.reshape(len(values), -1, group)
    most = (1 << bits) - 1
    if symmetric:
        scales = short(np.abs(groups).max(axis=-1) / (most // 2) + 1e-6)
        zeros = np.full(scales.shape, 1 << (bits - 1))
    else:
        low, high = np.minimum(groups.min(axis=-1), 0), np.maximum(groups.max(axis=-1), 0)
        scales = short((high - low) / most + 1e-6)
        zeros = np.clip(np.round(-low / scales), 0, most).astype(int)
    numbers = np.round(groups / scales[..., None]).astype(int) + zeros[..., None]
    return np.clip(numbers, 0, most).reshape(values.shape), scales.astype(np.float32), zeros


def _floats(numbers: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    groups = numbers.reshape(*scales.shape, -1) - zeros[..., None]
    return (groups * scales[..., None]).reshape(numbers.shape).astype(np.float32)


def integers(
    values: np.ndarray, group=32, bits=4, symmetric=True, dtype: mx.Dtype = mx.bfloat16
) -> Packed:
    """compressed-tensors, pack-quantized; a group of -1 is a row."""
    group = values.shape[1] if group < 0 else group
    numbers, scales, zeros = _numbers(values, group, bits, symmetric)
    tensors = {
        "weight_packed": mx.array(stream(numbers, bits)),
        "weight_scale": mx.array(scales).astype(dtype),
        "weight_shape": mx.array(np.array(values.shape)),
    }
    if not symmetric:
        tensors["weight_zero_point"] = mx.array(stream(zeros.T, bits).T)
    return tensors, _floats(numbers, scales, zeros)


def bytes_by_row(values: np.ndarray) -> Packed:
    """compressed-tensors, int-quantized."""
    numbers, scales, zeros = _numbers(values, values.shape[1], 8, symmetric=True)
    tensors = {
        "weight": mx.array((numbers - 128).astype(np.int8)),
        "weight_scale": mx.array(scales).astype(mx.bfloat16),
    }
    return tensors, _floats(numbers, scales, zeros)


def _pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values as bytes of two E2M1, the first in the low half, and what they stand for."""
    codes = nearest(values, FP4)
    return codes[..., ::2] | codes[..., 1::2] << 4, FP4[codes]


def _microscaled(values: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    groups = values.reshape(*values.shape[:-1], -1, 32)
    largest = np.maximum(np.abs(groups).max(axis=-1, keepdims=True), 1e-6)
    return groups, 2.0 ** np.ceil(np.log2(largest / most))


def mxfp4(values: np.ndarray) -> Packed:
    """compressed-tensors, mxfp4-pack-quantized."""
    groups, scales = _microscaled(values, 6)
    pairs, floats = _pairs(groups / scales)
    tensors = {
        "weight_packed": mx.array(pairs.reshape(*values.shape[:-1], -1)),
        "weight_scale": mx.array((np.log2(scales[..., 0]) + 127).astype(np.uint8)),
    }
    return tensors, (floats * scales).reshape(values.shape).astype(np.float32)


def mxfp4_blocks(values: np.ndarray) -> Packed:
    """As gpt-oss is released."""
    tensors, floats = mxfp4(values)
    blocks = tensors["weight_packed"].reshape(*tensors["weight_scale"].shape, 16)
    return {"weight_blocks": blocks, "weight_scales": tensors["weight_scale"]}, floats


def mxfp8(values: np.ndarray) -> Packed:
    """compressed-tensors, mxfp8-quantized."""
    groups, scales = _microscaled(values, 448)
    codes = nearest(groups / scales, FP8)
    tensors = {
        "weight": mx.array(codes.reshape(values.shape)),
        "weight_scale": mx.array((np.log2(scales[..., 0]) + 127).astype(np.uint8)),
    }
    return tensors, (FP8[codes] * scales).reshape(values.shape).astype(np.float32)


def _nvfp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    groups = values.reshape(*values.shape[:-1], -1, 16)
    largest = np.maximum(np.abs(groups).max(axis=-1), 1e-6)
    whole = np.float32(largest.max() / (6 * 448))
    scales = np.maximum(nearest(largest / 6 / whole, FP8), 1).astype(np.uint8)
    each = (FP8[scales].astype(np.float32) * whole)[..., None]
    pairs, floats = _pairs(groups / each)
    floats = floats.astype(np.float32) * FP8[scales].astype(np.float32)[..., None]
    return pairs.reshape(*values.shape[:-1], -1), scales, whole, floats.reshape(values.shape)


def nvfp4(values: np.ndarray) -> Packed:
    """compressed-tensors, nvfp4-pack-quantized: values are divided by the tensor's own scale."""
    pairs, scales, whole, floats = _nvfp4(values)
    divisor = np.float32(1) / whole
    tensors = {
        "weight_packed": mx.array(pairs),
        "weight_scale": mx.array(scales),
        "weight_global_scale": mx.array([float(divisor)]),
        "input_global_scale": mx.ones((1,)),
    }
    return tensors, round_to(floats / divisor, mx.bfloat16)


def modelopt(values: np.ndarray) -> Packed:
    """NVFP4 as ModelOpt stores it: values are multiplied by the tensor's own scale."""
    pairs, scales, whole, floats = _nvfp4(values)
    tensors = {
        "weight": mx.array(pairs),
        "weight_scale": mx.array(scales),
        "weight_scale_2": mx.array(float(whole)),
        "input_scale": mx.ones(()),
    }
    return tensors, round_to(floats * whole, mx.bfloat16)


def _awq_words(numbers: np.ndarray) -> np.ndarray:
    """Numbers (C, M) as words (C, M / 8): the lowest four bits are column 0's, then 2's ..."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    eights = numbers.reshape(len(numbers), -1, 8)[..., order].astype(np.uint32)
    return (eights << 4 * np.arange(8, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


def awq(values: np.ndarray, group=32) -> Packed:
    numbers, scales, zeros = _numbers(values, group, 4, symmetric=False)
    tensors = {
        "qweight": mx.array(_awq_words(numbers.T)),
        "qzeros": mx.array(_awq_words(zeros.T)),
        "scales": mx.array(scales.T).astype(mx.float16),
    }
    return tensors, _floats(numbers, scales, zeros)


def gptq(
    values: np.ndarray, group=32, bits=4, symmetric=False, less_one=True, order=True
) -> Packed:
    numbers, scales, zeros = _numbers(values, group, bits, symmetric)
    less = (zeros - less_one) & ((1 << bits) - 1)
    tensors = {
        "qweight": mx.array(stream(numbers, bits).T),
        "qzeros": mx.array(stream(less.T, bits)),
        "scales": mx.array(scales.T).astype(mx.float16),
    }
    if order:
        tensors["g_idx"] = mx.arange(values.shape[1]) // group
    return tensors, _floats(numbers, scales, zeros)
