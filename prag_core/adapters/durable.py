"""Files that survive a power loss: folders go in and are on the disk when a function returns.

One `syncfs` for a batch takes about as long as two `fsync`, however many files the batch has.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

FEW = 2  # folders that are synchronised one by one; more of them together by one syncfs


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made; not yet durable, see `sync_tree`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def sync_tree(folder: Path) -> None:
    """Bring everything below a folder to the disk."""
    if _syncfs(folder):
        return
    for parent, _, names in os.walk(folder):  # a folder after its files
        for path in (*(os.path.join(parent, name) for name in names), parent):
            _fsync(path)


def sync_folders(folders: Iterable[Path]) -> None:
    """Bring the entries of folders (their names, not what the files hold) to the disk."""
    folders = set(folders)
    # A rename is durable with its folder; a batch may touch 256 of them.
    if len(folders) > FEW and _syncfs(next(iter(folders))):
        return
    for folder in folders:
        _fsync(folder)


def _fsync(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _syncfs(folder: Path) -> bool:
    """Synchronise the file system that holds a folder; False where the system cannot (macOS)."""
    # Python has os.sync only, which waits for every disk of the machine.
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        if call(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
        return True
    finally:
        os.close(handle)
