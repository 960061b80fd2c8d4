"""int8 rows: A and B go in by name, int8 and a scale a row come out, and the other way round.

Absmax quantisation by row (as LLM.int8, Dettmers et al., 2022, has it for vectors): a row of A, or
a column of B, is q s with q = round(x / s) in -127..127 and s = max |x| / 127.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # behind the name of the tensor that it belongs to


def quantise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor in int8 and its scales (R,), in float32.

    Args:
        tensors: A (R, I) and B (O, R) by name; a name that ends with `lora_B.weight` is B.
    """
    parts = {}
    for name, tensor in tensors.items():
        values = tensor.float()
        axis = _axis(name)
        # A row of zeros: any scale does.
        scale = values.abs().amax(axis, keepdim=True).clamp(min=1e-30) / 127  # (R, 1) or (1, R)
        parts[name] = (values / scale).round().to(torch.int8)
        parts[name + SCALE] = scale.flatten()  # (R,)
    return parts


def dequantise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in float32 where they have scales beside them; others stay as they are."""
    whole = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    for name in whole:
        if name + SCALE in tensors:
            scale = tensors[name + SCALE].unsqueeze(_axis(name))  # (R, 1) or (1, R)
            whole[name] = whole[name] * scale
    return whole


def _axis(name: str) -> int:
    return 0 if name.endswith("lora_B.weight") else 1
