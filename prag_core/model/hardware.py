"""Hardware: what the CPU computes fast, how its memory is used again, whether it ran out."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

SIGNS = ("can't allocate memory", "not enough memory", "out of memory")  # of torch on the CPU
PACKAGES = ("torch", "transformers", "peft")
# Read at the first product: of ideep, which is torch's way to oneDNN, and of oneDNN itself.
KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "384"}
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")  # x86 and, last, ARM


def computes_bfloat16(device: str | torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices no slower than float32 ones.

    A CPU without instructions for it converts every operand: measured with the embedded model's
    FFN on such a Xeon, bfloat16 is 4.5 times slower than float32, where with them (AMX) it is 5
    times faster. What torch cannot tell about counts as fast.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch >= 2.11
    if torch.device(device).type != "cpu" or not capabilities:
        return True
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def require_device(device: str) -> None:
    """Raise ValueError unless a name is that of one device that is there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"got device {device!r}, expected auto, cpu, or cuda or cuda:0, ... where there is "
            "such a GPU (one device: a model is not spread over several): correct `device` "
            f"({str(error).splitlines()[0][:80]})"
        ) from error


def reuse_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the system (Linux only).

    Each large temporary of a training step is otherwise mapped and zeroed page by page again,
    which halves the speed of training on a CPU.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, e.g. musl
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from malloc.h
    mallopt(mmap_max, 0)  # no block by mmap, which is unmapped as soon as it is free
    mallopt(trim_threshold, 2**31 - 1)  # the largest int: never shrink the heap
    mallopt(top_pad, 2**26)  # grow it 64 MiB at a time


def bound_kernel_caches() -> None:
    """Let torch and oneDNN keep 16 and 384 kernels of the CPU, where they keep 1,024 each.

    There is one for every shape of a product, with room for its weights: a corpus of documents of
    ever new lengths took gigabytes that nothing used again. Answering needs some of them (with 128
    each it took 15 % longer, with these no longer than with all). What the environment says already
    stays.
    """
    for name, count in KERNEL_CACHES.items():
        os.environ.setdefault(name, count)


def avoid_cudnn_attention() -> None:
    """Leave cuDNN's attention to the other fused kernels, in the whole process.

    With a mask and rows of 64, 192, 320, ... tokens its backward pass gives gradients that are no
    numbers (torch 2.11 on an H100, one training step of 15; pytorch/pytorch#196678).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def release_freed_memory() -> None:
    """Give the pages that are free now back to the system (glibc only).

    What `reuse_freed_memory` keeps falls into pieces over hours of steps of different sizes, so
    that a training would take ever more. Called every few steps it costs next to nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the exception means that memory, of a device or of the host, ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def machine() -> dict:
    """Describe the processor and the versions that the figures belong to."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line]
        model = next((v.strip() for k, v in lines if k.strip() == "model name"), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
