"""Terminal: how far a long work is, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, Task, TimeRemainingColumn

PERIOD = 5.0  # seconds between two lines where there is no terminal


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
            console.print(f"{task.description}: {place}, {task.elapsed:.0f} s", markup=False)

    thread = Thread(target=write, daemon=True)
    if not console.is_terminal:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident:  # so that no line comes behind the end
            thread.join()
