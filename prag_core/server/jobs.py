"""Jobs: trainings that run while the service answers; they survive a restart in the store."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace

from prag_core.adapters.store import AdapterStore
from prag_core.server.engine import Engine

KIND = "job"  # of their records
OPEN = ("queued", "running")
ATTEMPTS = 3  # starts of a job that the server did not survive
HISTORY = 1000  # ended jobs that are remembered
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One training of some documents.

    Attributes:
        id: random, 16 hex digits.
        document_ids: what is trained.
        status: queued, running, succeeded, failed or cancelled.
        progress: share of the work that is done, 0 to 1.
        error: why it failed.
        attempts: how often it was begun.
        created: seconds since 1970.
    """

    document_ids: tuple[str, ...]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: str = "queued"
    progress: float = 0.0
    error: str = ""
    attempts: int = 0
    created: int = field(default_factory=lambda: int(time.time()))


class Jobs:
    """Queues trainings with the engine, one after the other."""

    def __init__(
        self,
        store: AdapterStore,
        engine: Engine,
        train: Callable[[tuple[str, ...]], Generator[float, None, None]],
    ) -> None:
        """Queue again what a stopped server left unfinished.

        Args:
            store: keeps the jobs' records.
            engine: runs the trainings.
            train: trains documents, yields the share done, and stores the adapters.
        """
        self.store, self.engine, self.train = store, engine, train
        # Re-entrant: cancelling a future calls `_end` in the same thread.
        self._lock = threading.RLock()
        self._futures: dict[str, Future] = {}
        self._jobs = {key: Job(**record) for key, record in store.records(KIND)}
        # A training that brings the process down would do so at every start.
        for job in self.all():
            if job.status in OPEN and job.attempts < ATTEMPTS:
                self._start(replace(job, status="queued", progress=0.0))
            elif job.status in OPEN:
                error = f"the server ended {job.attempts} times while it ran"
                self._change(job.id, status="failed", error=error)
        self._forget()

    def add(self, document_ids: tuple[str, ...]) -> Job:
        """Queue a training.

        Raises:
            ClosedError: the engine was closed.
            OSError: the store has no room for the job's record.
        """
        return self._start(Job(document_ids))

    def get(self, job_id: str) -> Job | None:
        """Return a job as it stands, None where there is none."""
        with self._lock:
            return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.created)

    def cancel(self, job_id: str) -> Job | None:
        """Stop a job before its next step; one that has ended stays as it is."""
        with self._lock:
            if job_id in self._futures and self._futures[job_id].cancel():
                self._change(job_id, status="cancelled")
            return self._jobs.get(job_id)

    def _start(self, job: Job) -> Job:
        with self._lock:
            future = self.engine.train(self._steps(job))  # it begins by taking the lock
            self._jobs[job.id] = job
            try:
                self._change(job.id)
            except OSError:  # no room for the record: no job that a restart would forget
                future.cancel()
                del self._jobs[job.id]
                raise
            self._futures[job.id] = future
            self._forget()
        future.add_done_callback(lambda done: self._end(job.id, done))
        return job

    def _steps(self, job: Job) -> Generator[float, None, None]:
        with self._lock:
            if job.id not in self._jobs or self._jobs[job.id].status not in OPEN:
                return  # `_start` failed, or the job was cancelled while it waited
            self._change(job.id, status="running", attempts=job.attempts + 1)
        for share in self.train(job.document_ids):
            with self._lock:  # the progress is not written: a restart begins again
                self._jobs[job.id] = replace(self._jobs[job.id], progress=round(share, 3))
            yield share

    def _end(self, job_id: str, future: Future) -> None:
        """Note how a job ended; one that the closing engine cancelled stays open."""
        with self._lock:
            del self._futures[job_id]
            if future.cancelled():
                return
            if (error := future.exception()) is None:
                self._change(job_id, status="succeeded", progress=1.0)
                return
            log.error("job %s failed", job_id, exc_info=error)
            # ValueErrors are written for users; others may name paths and internals.
            clear = isinstance(error, ValueError)
            message = str(error) if clear else "the training failed; the server's log says why"
            self._change(job_id, status="failed", error=message)

    def _forget(self) -> None:
        """Keep the newest jobs."""
        ended = [job for job in self.all() if job.status not in OPEN]
        for job in ended[: max(len(ended) - HISTORY, 0)]:
            del self._jobs[job.id]
            self.store.delete_record(KIND, job.id)

    def _change(self, job_id: str, **changes) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], **changes)
        self.store.put_record(KIND, job_id, asdict(self._jobs[job_id]))
