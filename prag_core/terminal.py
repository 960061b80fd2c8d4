"""Terminal: how far a long work is, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn


@contextmanager
def progress_bar(label: str, total: int) -> Iterator:
    """Show documents done, documents a second and time left on standard error."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)

        def advance(done: int) -> None:
            speed = progress.tasks[task].speed
            shown = f"{label} ({speed:.2f}/s)" if speed else label
            progress.update(task, completed=done, description=shown)

        yield advance
