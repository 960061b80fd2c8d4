"""Terminal: what commands print goes out on any terminal or pipe; how far a work is; SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread, current_thread, main_thread
from types import FrameType

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, Task, TimeRemainingColumn

PERIOD = 5.0  # seconds between two lines where there is no terminal
CLOSED_PIPE = 141  # status where nobody reads on, as of a program that SIGPIPE ends: 128 + 13


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let a program print whatever its terminal can show, and end quietly where nobody reads on.

    What the encoding of the terminal lacks is written as an escape of Python's. Streams that are
    closed are opened on nothing.

    Raises:
        SystemExit: with CLOSED_PIPE, where the reader of a pipe has gone.
    """
    # In this order: each takes the lowest free number, which no other file may get.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    streams = [sys.stdout, sys.stderr]
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # not one that an embedding program put there
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        raise SystemExit(CLOSED_PIPE) from None  # rich turns it into a SystemExit of its own
    finally:
        for stream in streams:
            try:
                stream.flush()
            except (OSError, ValueError):  # what is left goes nowhere, or Python would complain
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise an exception, for blocks that end a process which they have started.

    Raises:
        SystemExit: with 143 (128 + 15), where the signal has come.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if current_thread() is not main_thread():  # no other may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show what is done, speed and time left; a line every few seconds without a terminal.

    Args:
        label: names the work.
        total: of what is counted.

    Yields:
        A function that takes the number done.
    """
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(label, total=total)
        (task,) = progress.tasks

        def advance(done: int) -> None:
            shown = f"{label} ({task.speed:.2f}/s)" if task.speed else label
            progress.update(task.id, completed=done, description=shown)

        with _lines(console, task):
            yield advance


@contextmanager
def _lines(console: Console, task: Task) -> Iterator[None]:
    """Print a line every few seconds, unless the console is a terminal, which has the bar."""
    ended = Event()

    def write() -> None:
        # From a thread of its own: one batch may take longer than the period.
        while not ended.wait(PERIOD):
            place = f"{task.completed:g} of {task.total:g}"
            with suppress(OSError, ValueError):  # nobody reads it: the work goes on
                line = f"{task.description}: {place}, {task.elapsed:.0f} s"
                print(line, file=sys.stderr, flush=True)

    thread = Thread(target=write, daemon=True)
    if not console.is_terminal:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident:  # so that no line comes behind the end
            thread.join()
