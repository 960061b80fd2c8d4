"""Running out of memory ends with a hint, other errors as they are."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

import hypernet.cli
import prag_core.cli
from prag_core.model.hardware import avoid_cudnn_attention, is_out_of_memory, require_device

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
