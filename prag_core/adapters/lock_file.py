"""LMDB's lock file: a folder goes in, and has a `lock.mdb` with all its bytes afterwards."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

READER_BYTES = 64  # that LMDB takes for each reader; its header takes a few times that


def allocate_lock_file(folder: Path, max_readers: int) -> None:
    """Make `lock.mdb` unless it is there: LMDB maps a sparse one, and a full disk then kills us.

    Never touches a lock file that exists, as closing it here would drop this process's locks.

    Raises:
        OSError: the disk is full.
    """
    target = folder / "lock.mdb"
    if target.exists() or not hasattr(os, "posix_fallocate"):
        return
    try:
        handle, scratch = tempfile.mkstemp(prefix=".lock-", dir=folder)
    except OSError:
        return  # a folder that cannot be written: LMDB's own error says so
    try:
        os.posix_fallocate(handle, 0, READER_BYTES * (max_readers + 4))
        os.fchmod(handle, 0o644)
        with suppress(FileExistsError, PermissionError):  # another process was first; no links
            os.link(scratch, target)
    finally:
        os.close(handle)
        os.unlink(scratch)
