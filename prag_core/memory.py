"""Memory: tell an exception that says "out of memory" from the others."""

from __future__ import annotations

import torch

SIGNS = ("can't allocate memory", "not enough memory", "out of memory")  # of torch on the CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the exception means that memory, of a device or of the host, ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
