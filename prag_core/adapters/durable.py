"""Files that survive a power loss: folders go in and are on the disk when a function returns.

One `syncfs` for a batch takes about as long as two `fsync`, however many files the batch has.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FEW = 2  # folders that are synchronised one by one; more of them together by one syncfs


def sync_tree(folder: Path) -> None:
    """Bring everything below a folder to the disk."""
    if not _syncfs(folder):
        for parent, _, names in os.walk(folder):  # a folder after its files
            for path in (*(os.path.join(parent, name) for name in names), parent):
                _fsync(path)


def sync_folders(folders: set[Path]) -> None:
    """Bring the entries of folders (their names, not what the files hold) to the disk."""
    # A rename is durable with its folder; a batch may touch 256 of them.
    if len(folders) <= FEW or not _syncfs(next(iter(folders))):
        for folder in folders:
            _fsync(folder)


def _fsync(path: str | Path) -> None:
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)


def _syncfs(folder: Path) -> bool:
    """Synchronise the file system that holds a folder; False where the system cannot (macOS)."""
    # Python has os.sync only, which waits for every disk of the machine.
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    with _descriptor(folder) as descriptor:
        if call(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    return True


@contextmanager
def _descriptor(path: str | Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
