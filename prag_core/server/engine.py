"""Engine: one thread decodes the rows of many requests; rows come in, their text goes out.

Requests over different documents are decoded together (continuous batching; Yu et al., 2022, Orca,
section 3): a row joins when there is room and leaves when it is answered. What waits is a function
that builds the row: documents are searched and adapters merged by other threads, shortly before the
row joins, so that a long queue holds no adapters and no answer comes from what was deleted
meanwhile. Whoever else runs the model does so on hooks of its own (`share_weights`), beside it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge
from prag_core.model.base_model import BaseModel, share_weights
from prag_core.model.decoding import DecodingBatch
from prag_core.model.decoding_rows import Row

# Reading prompts holds up every row that is decoded, and its activations take memory.
PREFILL_TOKENS = 8192  # prompt tokens read at one time, unless a single prompt has more
BUILDERS = 2  # threads that build rows: one may wait for the disk
AHEAD = 2  # rows that are built before there is room for them
PATIENCE = 0.1  # seconds between two looks at the deadlines of rows that wait
NICENESS = 10  # of threads that must not slow down decoding
LATE = "got no answer in time: ask for fewer tokens"
Emit = Callable[[str, "Exception | None"], None]
log = logging.getLogger(__name__)


def yield_to_decoding() -> None:
    """Let the calling thread use the processors that decoding leaves (Linux only)."""
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class QueueFullError(RuntimeError):
    """As many requests wait as may wait."""


class ClosedError(RuntimeError):
    """The engine takes no more requests."""


@dataclass(eq=False)  # by identity: tickets are looked for in the queue
class Ticket:
    """A row on its way through the engine.

    Attributes:
        build: makes the row, in a thread of the engine's; it may raise.
        emit: called with "" when the row is built, with every piece of its text, or once with an
            error, in threads of the engine's.
        deadline: `time.monotonic()` at which it is given up.
        row: what is decoded; `row.finish` is set with its last piece. None until it is built.
        cancelled: no one waits for it any more.
    """

    build: Callable[[], Row]
    emit: Emit
    deadline: float
    row: Row | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        """Give the row up before the next step."""
        self.cancelled = True


class AnsweringEngine(Protocol):
    """What a service needs of whoever decodes its rows; `Engine` says what each member does."""

    max_queue: int

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""

    @property
    def waiting(self) -> list[Ticket]:
        """Those that wait."""

    @property
    def decoding(self) -> int:
        """Number of rows that are decoded."""

    def merge(self, adapters: Sequence[Adapter], weights: Sequence[float], method: str) -> Adapter:
        """Make one adapter of a question's documents', to be attached to its row."""

    def submit(self, build: Callable[[], Row], emit: Emit, timeout: float) -> Ticket:
        """Queue a row."""

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, and stop."""


def require_room(engine: AnsweringEngine, most: int) -> None:
    """Raise ClosedError or QueueFullError where an engine takes no request, or `most` wait."""
    if not engine.alive:
        raise ClosedError("got a request after the end, expected none: start the server again")
    if len(engine.waiting) >= most:
        raise QueueFullError(
            f"got {most + 1} waiting requests, expected at most {most}: try again later"
        )


class Engine:
    """Decodes rows together in one thread."""

    merge = staticmethod(merge)

    def __init__(
        self,
        base: BaseModel,
        max_rows: int = 32,
        max_queue: int = 256,
        max_wait: float = 0.005,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """Start the threads.

        Args:
            base: the base model; others may go on using it.
            max_rows: rows decoded together, at most.
            max_queue: rows that may wait for room.
            max_wait: seconds that the first row waits for others when nothing is decoded.
            observe: called after every decoding step with its rows and seconds.
        """
        self.max_rows, self.max_queue, self.max_wait = max_rows, max_queue, max_wait
        self.batch, self.observe = DecodingBatch(share_weights(base)), observe
        self._tickets: dict[int, Ticket] = {}  # of the rows in the batch, by id(row)
        # Three places in which a ticket waits: for a builder, in its hands, for room.
        self._waiting: deque[Ticket] = deque()
        self._building: list[Ticket] = []
        self._ready: deque[Ticket] = deque()
        self._changed = threading.Condition()  # guards the three and `_closing`
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        for _ in range(BUILDERS):
            threading.Thread(target=self._build_rows, name="builder", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> list[Ticket]:
        """Those that wait for room in the batch; not those who gave up."""
        with self._changed:  # re-entrant: `submit` holds it
            tickets = (*self._ready, *self._building, *self._waiting)
            return [ticket for ticket in tickets if not ticket.cancelled]

    @property
    def decoding(self) -> int:
        """Number of rows in the batch."""
        return len(self.batch.rows)

    def submit(self, build: Callable[[], Row], emit: Emit, timeout: float) -> Ticket:
        """Queue a row; its text comes through `emit`.

        Raises:
            QueueFullError: too many rows wait.
            ClosedError: the engine was closed.
        """
        ticket = Ticket(build, emit, time.monotonic() + timeout)
        with self._changed:
            require_room(self, self.max_queue)
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, decode what is there, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while self._wait():
                self._give_up()
                self._admit()
                self._step()
                with self._changed:  # rows may have left: the builders look for room
                    self._changed.notify_all()
        finally:  # also where the thread dies: no one may wait for it for ever
            with self._changed:
                self._closing = True
                left = [*self._tickets.values(), *self.waiting]
                self._waiting.clear()
                self._ready.clear()
                self._changed.notify_all()
            self._fail(left, ClosedError("the engine stopped"))

    def _wait(self) -> bool:
        """Wait a while for something to do; False when all is done and the engine is to stop."""
        with self._changed:
            idle = not self.batch.rows
            if idle and not self._ready:
                unbuilt = bool(self._waiting or self._building)
                if self._closing and not unbuilt:
                    return False
                self._changed.wait(PATIENCE if unbuilt else None)
            # Rows that join together read their prompts together. Not while others are decoded:
            # the time of a step brings enough of them.
            if idle and self._ready and not self._closing:
                until = time.monotonic() + self.max_wait
                while len(self._ready) < self.max_rows and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
        return True

    def _build_rows(self) -> None:
        """Build rows one by one, whenever there will be room for them."""
        while True:
            with self._changed:
                while not (self._waiting and self._has_room()):
                    if self._closing and not self._waiting:
                        return
                    self._changed.wait()
                ticket = self._waiting.popleft()
                self._building.append(ticket)
            if not ticket.cancelled:
                try:
                    ticket.row = ticket.build()
                    ticket.emit("", None)
                    if ticket.row.answer:
                        ticket.row.finish = "stop"
                        ticket.emit(ticket.row.answer, None)
                except Exception as error:  # of any kind: it is the request's
                    self._fail([ticket], error)
            with self._changed:
                self._building.remove(ticket)
                if ticket.row is not None and not ticket.row.finish:
                    self._ready.append(ticket)
                self._changed.notify_all()

    def _has_room(self) -> bool:
        room = self.max_rows - len(self.batch.rows) + AHEAD
        return len(self._ready) + len(self._building) < room

    def _give_up(self) -> None:
        """Drop what was cancelled or has waited too long."""
        now, late = time.monotonic(), []
        with self._changed:
            for queue in (self._waiting, self._ready):
                dropped = [t for t in queue if t.cancelled or t.deadline < now]
                for ticket in dropped:
                    queue.remove(ticket)
                late += dropped
        running = [t for t in self._tickets.values() if t.cancelled or t.deadline < now]
        self.batch.drop([ticket.row for ticket in running])
        for ticket in running:
            del self._tickets[id(ticket.row)]
        for ticket in (*late, *running):
            if not ticket.cancelled:
                ticket.emit("", TimeoutError(LATE))

    def _admit(self) -> None:
        """Let waiting rows join while there is room."""
        tickets, tokens = [], 0
        with self._changed:
            while self._ready and len(tickets) + len(self.batch.rows) < self.max_rows:
                tokens += self._ready[0].row.prompt_tokens
                if tickets and tokens > PREFILL_TOKENS:
                    break
                tickets.append(self._ready.popleft())
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
        for ticket in tickets:
            ticket.row.adapter = None  # the batch has a copy
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
