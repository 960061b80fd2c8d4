"""Servers of the benchmarks: a command goes in and runs in a process until the block ends."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prag_core.terminal import stopped_by_sigterm

KEYS = ("PRAG_API_KEY", "VLLM_API_KEY")  # of the user's servers: these are asked without


def free_port() -> int:
    """Return a port of this machine that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # 0: any that is free
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    is_ready: Callable[[], bool],
    within: float,
    settings: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server until the block ends, which begins when it is ready.

    Args:
        command: its program and options.
        log: file for what it prints.
        is_ready: asked again and again.
        within: seconds until it must be.
        settings: environment variables beside those of this process.

    Raises:
        RuntimeError: it did not start; with the end of its log.
    """
    environment = {name: x for name, x in os.environ.items() if name not in KEYS}
    environment |= settings or {}
    with (
        stopped_by_sigterm(),
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process,
    ):
        try:
            until = time.monotonic() + within
            while not is_ready():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(
                        f"got no server by {' '.join(command[:3])}, expected one: see {log}: "
                        f"{log.read_text(errors='replace')[-3000:]}"
                    )
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
