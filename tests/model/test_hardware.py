"""Running out of memory ends with a hint, other errors as they are."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch

import hypernet.cli
import prag_core.cli
from prag_core.model.hardware import (
    KERNEL_CACHES,
    avoid_cudnn_attention,
    bound_kernel_caches,
    is_out_of_memory,
    require_device,
)

KEPT_AND_RELEASED = """
import torch
from prag_core.model.hardware import release_freed_memory, reuse_freed_memory

def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * 4096

reuse_freed_memory()
before = resident()
blocks = [torch.ones(1 << 18) for _ in range(100)]  # 1 MiB each
last = torch.ones(1 << 18)  # above them in the heap, which cannot shrink
del blocks
kept = resident() - before
release_freed_memory()
print(kept >> 20, (resident() - before) >> 20)
"""
MANY_SHAPES = """
import ctypes, sys, torch
from prag_core.model.hardware import bound_kernel_caches

class Info(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if sys.argv[1] == "bounded":
    bound_kernel_caches()
weight = torch.zeros(512, 512, dtype=torch.bfloat16)

def live(start: int) -> int:  # bytes in use after products of 400 shapes
    for rows in range(start, start + 400):
        torch.nn.functional.linear(torch.zeros(rows, 512, dtype=torch.bfloat16), weight)
    return libc.mallinfo2().field7

before = live(17)
print((live(417) - before) >> 10)
"""
CPU = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"


def test_signs_of_memory_that_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("device", ["gpu", "balanced", "", "cuda:99", "meta0"])
def test_a_device_that_is_not_there(device):
    for name in ("cpu", "cpu:0"):
        require_device(name)
    with pytest.raises(ValueError, match=f"got device '{device}', expected auto, cpu, or cuda"):
        require_device(device)


@pytest.mark.parametrize(
    ("command", "place", "hint"),
    [
        (hypernet.cli, "prag_core.cli.call", "lower data.batch.documents"),
        (prag_core.cli, "prag_core.cli.call", "lower --generation.batch_size"),
    ],
)
def test_a_hint_and_no_stack_trace(command, place, hint, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError(CPU)

    monkeypatch.setattr(place, fail)
    arguments = ["export", "a.ckpt", "b"] if command is hypernet.cli else ["models"]
    assert command.main(arguments) == 1
    assert hint in capsys.readouterr().err

    def other(*arguments, **options):
        raise RuntimeError("a defect")

    monkeypatch.setattr(place, other)
    with pytest.raises(RuntimeError, match="a defect"):
        command.main(arguments)


def test_hypernet_refuses_bad_input_without_a_stack_trace(tmp_path, capsys):
    assert hypernet.cli.main(["export", str(tmp_path / "none.ckpt"), str(tmp_path)]) == 2
    assert "got no file at" in capsys.readouterr().err


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_kept_until_it_is_released():
    command = [sys.executable, "-c", KEPT_AND_RELEASED]
    kept, left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(kept) > 95 and int(left) < 20


def test_cudnn_attention_is_left_out():
    """Whether it is taken; that its gradients are no numbers was seen on a GPU."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        avoid_cudnn_attention()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_kernels_of_many_shapes_take_bounded_memory(monkeypatch):
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "mallinfo2"):
        pytest.skip("needs glibc, which counts what is in use")
    for name in KERNEL_CACHES:
        monkeypatch.delenv(name, raising=False)
    free, bounded = (
        int(subprocess.check_output([sys.executable, "-c", MANY_SHAPES, kind], text=True))
        for kind in ("free", "bounded")
    )
    # KiB, of 400 shapes more. A CPU that goes another way keeps no kernels; those of AMX are large,
    # and so is what a later shape's has more than an earlier one's.
    assert bounded < max(4096, free / 10)
    for name in KERNEL_CACHES:
        monkeypatch.setenv(name, "7")
    bound_kernel_caches()
    assert [os.environ[name] for name in KERNEL_CACHES] == ["7", "7"]
