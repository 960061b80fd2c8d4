"""Engine: one thread owns the model; rows come in from many threads, their text goes out.

Requests over different documents are decoded together (continuous batching; Yu et al., 2022, Orca,
section 3): a row joins when there is room and leaves when it is answered. Other work with the model
(making adapters, training) runs between two decoding steps, when nothing is attached.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from prag_core.model.base_model import BaseModel
from prag_core.model.decoding import DecodingBatch
from prag_core.model.decoding_rows import Row

# Reading prompts holds up every row that is decoded, and its activations take memory.
PREFILL_TOKENS = 8192  # prompt tokens read at one time, unless a single prompt has more
Result = TypeVar("Result")
Emit = Callable[[str, "Exception | None"], None]
log = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """As many requests wait as may wait."""


class ClosedError(RuntimeError):
    """The engine takes no more requests."""


@dataclass(eq=False)  # by identity: tickets are looked for in the queue
class Ticket:
    """A row on its way through the engine.

    Attributes:
        row: what is decoded; `row.finish` is set with its last piece.
        emit: called in the engine's thread with every piece of text, and once with an error.
        deadline: `time.monotonic()` at which it is given up.
        cancelled: no one waits for it any more.
    """

    row: Row
    emit: Emit
    deadline: float
    cancelled: bool = False

    def cancel(self) -> None:
        """Give the row up before the next step."""
        self.cancelled = True


@dataclass
class _Work:
    steps: Generator
    future: Future = field(default_factory=Future)


class Engine:
    """Decodes rows together in one thread."""

    def __init__(
        self,
        base: BaseModel,
        max_rows: int = 32,
        max_queue: int = 256,
        max_wait: float = 0.005,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """Start the thread.

        Args:
            base: the base model; from now on only this engine may run it.
            max_rows: rows decoded together, at most.
            max_queue: rows that may wait for room.
            max_wait: seconds that the first row waits for others when nothing is decoded.
            observe: called after every decoding step with its rows and seconds.
        """
        self.max_rows, self.max_queue, self.max_wait = max_rows, max_queue, max_wait
        self.batch, self.observe = DecodingBatch(base), observe
        self.waiting: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}  # of the rows in the batch, by id(row)
        self._calls: deque[_Work] = deque()
        self._trainings: deque[_Work] = deque()
        self._changed = threading.Condition()  # guards the three queues and `_closing`
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    def submit(self, row: Row, emit: Emit, timeout: float) -> Ticket:
        """Queue a row; its text comes through `emit`.

        Raises:
            QueueFullError: too many rows wait.
            ClosedError: the engine was closed.
        """
        with self._changed:
            self.require_room()
            self.waiting.append(Ticket(row, emit, time.monotonic() + timeout))
            self._changed.notify()
            return self.waiting[-1]

    def require_room(self) -> None:
        """Raise what `submit` would raise now."""
        with self._changed:  # re-entrant: `submit` holds it
            self._require_open()
            # Those who gave up wait for the next step to be dropped, and take no one's place.
            if sum(not ticket.cancelled for ticket in self.waiting) >= self.max_queue:
                most = self.max_queue
                raise QueueFullError(
                    f"got {most + 1} waiting requests, expected at most {most}: try again later"
                )

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function that uses the model before the next decoding step.

        Raises:
            ClosedError: the engine was closed.
        """

        def steps() -> Generator[None, None, Result]:
            return function()
            yield  # makes it a generator

        return self._queue(self._calls, steps())

    def train(self, steps: Generator[object, None, Result]) -> Future[Result]:
        """Run a generator step by step between decoding steps; cancel its future to stop it.

        While rows are decoded, it gets half of the time.

        Raises:
            ClosedError: the engine was closed.
        """
        return self._queue(self._trainings, steps)

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, decode what is there, leave trainings unfinished, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _queue(self, works: deque[_Work], steps: Generator) -> Future:
        with self._changed:
            self._require_open()
            works.append(_Work(steps))
            self._changed.notify()
            return works[-1].future

    def _require_open(self) -> None:
        if not self.alive:
            raise ClosedError("got a request after the end, expected none: start the server again")

    def _run(self) -> None:
        decoded, trained = 0.0, 0.0  # seconds of decoding since the last training step; its seconds
        try:
            while self._wait():
                began = time.perf_counter()
                self._advance(self._calls)
                self._give_up()
                self._admit()
                self._step()
                decoded += time.perf_counter() - began
                # A training step is much longer than a decoding step: they take turns by time.
                if not self.batch.rows or decoded >= trained:  # half of the time each
                    began = time.perf_counter()
                    self._advance(self._trainings)
                    decoded, trained = 0.0, time.perf_counter() - began
        finally:  # also where the thread dies: no one may wait for it for ever
            with self._changed:
                self._closing = True
            for work in (*self._calls, *self._trainings):
                work.future.cancel()
            self._fail([*self._tickets.values(), *self.waiting], ClosedError("the engine stopped"))

    def _wait(self) -> bool:
        """Wait for something to do; False when all is done and the engine is to stop."""
        with self._changed:
            idle = not self.batch.rows
            while not (self.waiting or self._calls or self.batch.rows or self._closing):
                if self._trainings:
                    return True
                self._changed.wait()
            # Rows that join together read their prompts together. Not while others are decoded:
            # the time of a step brings enough of them.
            if idle and self.waiting and not self._closing:
                until = time.monotonic() + self.max_wait
                while len(self.waiting) < self.max_rows and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
            return bool(self.waiting or self._calls or self.batch.rows or not self._closing)

    def _give_up(self) -> None:
        """Drop what was cancelled or has waited too long."""
        now = time.monotonic()
        with self._changed:
            late = [t for t in self.waiting if t.cancelled or t.deadline < now]
            for ticket in late:
                self.waiting.remove(ticket)
        running = [t for t in self._tickets.values() if t.cancelled or t.deadline < now]
        self.batch.drop([ticket.row for ticket in running])
        for ticket in (*late, *running):
            self._tickets.pop(id(ticket.row), None)
            if not ticket.cancelled:
                ticket.emit("", TimeoutError("got no answer in time: ask for fewer tokens"))

    def _admit(self) -> None:
        """Let waiting rows join while there is room."""
        tickets, tokens = [], 0
        with self._changed:
            while self.waiting and len(tickets) + len(self.batch.rows) < self.max_rows:
                tokens += self.waiting[0].row.prompt_tokens
                if tickets and tokens > PREFILL_TOKENS:
                    break
                tickets.append(self.waiting.popleft())
        if tickets:
            self._join(tickets)

    def _join(self, tickets: list[Ticket]) -> None:
        self._tickets |= {id(ticket.row): ticket for ticket in tickets}
        try:
            pieces = self.batch.join([ticket.row for ticket in tickets])
        except Exception as error:
            if len(tickets) > 1:  # so that one bad row fails alone
                for ticket in tickets:
                    self._join([ticket])
                return
            log.exception("a row could not join")
            self._fail(tickets, error)
            return
        self._emit(pieces)

    def _step(self) -> None:
        """Decode one token of every row."""
        rows, began = len(self.batch.rows), time.perf_counter()
        if not rows:
            return
        try:
            pieces = self.batch.step()
        except Exception as error:
            log.exception("a decoding step failed")
            tickets = [self._tickets[id(row)] for row in self.batch.rows]
            self.batch.drop(self.batch.rows)
            self._fail(tickets, error)
            return
        self.observe(rows, time.perf_counter() - began)
        self._emit(pieces)

    def _emit(self, pieces: list[tuple[Row, str]]) -> None:
        for row, piece in pieces:
            ticket = self._tickets[id(row)]
            if row.finish:
                del self._tickets[id(row)]
            if piece or row.finish:
                ticket.emit(piece, None)

    def _fail(self, tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            self._tickets.pop(id(ticket.row), None)
            ticket.emit("", error)

    def _advance(self, works: deque[_Work]) -> None:
        """Run the first work's next step."""
        if not works:
            return
        work = works[0]  # it stays first, and so in sight of `_run`'s end, until it is done
        try:
            if work.future.cancelled():
                work.steps.close()
            else:
                next(work.steps)
                return
        except StopIteration as stop:
            _resolve(work.future, stop.value)
        except Exception as error:
            _resolve(work.future, error=error)
        with self._changed:
            works.popleft()


def _resolve(future: Future, value: object = None, error: Exception | None = None) -> None:
    if not future.set_running_or_notify_cancel():  # cancelled during its last step
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
