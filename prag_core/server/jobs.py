"""Jobs: trainings that run while the service answers; they survive a restart in the store."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace

from prag_core.adapters.store import AdapterStore
from prag_core.server.engine import ClosedError, yield_to_decoding

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
    """Runs trainings in a thread of its own, one after the other."""

    def __init__(
        self,
        store: AdapterStore,
        train: Callable[[tuple[str, ...]], Generator[float, None, None]],
    ) -> None:
        """Queue again what a stopped server left unfinished.

        Args:
            store: keeps the jobs' records.
            train: trains documents, yields the share done, and stores the adapters.
        """
        self.store, self.train = store, train
        self._changed = threading.Condition()  # guards the jobs and `_closing`
        self._closing = False
        self._jobs = {key: Job(**record) for key, record in store.records(KIND)}
        # A training that brings the process down would do so at every start.
        for job in self.all():
            if job.status in OPEN and job.attempts < ATTEMPTS:
                self._change(job.id, status="queued", progress=0.0)
            elif job.status in OPEN:
                error = f"the server ended {job.attempts} times while it ran"
                self._change(job.id, status="failed", error=error)
        self._forget()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def add(self, document_ids: tuple[str, ...]) -> Job:
        """Queue a training.

        Raises:
            ClosedError: the server ends.
            OSError: the store has no room for the job's record.
        """
        job = Job(document_ids)
        with self._changed:
            if self._closing:
                raise ClosedError("got a job after the end, expected none: start the server again")
            self.store.put_record(KIND, job.id, asdict(job))  # first: no job is forgotten
            self._jobs[job.id] = job
            self._forget()
            self._changed.notify()
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job as it stands, None where there is none."""
        with self._changed:
            return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: job.created)

    def cancel(self, job_id: str) -> Job | None:
        """Stop a job before its next step; one that has ended stays as it is."""
        with self._changed:
            if (job := self._jobs.get(job_id)) and job.status in OPEN:
                self._change(job_id, status="cancelled")
            return self._jobs.get(job_id)

    def close(self, timeout: float | None = None) -> None:
        """Stop before the next step; what is not done stays open for the next start."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        yield_to_decoding()
        while (job := self._next()) is not None:
            try:
                done = self._finish(job)
                changes = {"status": "succeeded", "progress": 1.0} if done else {}
            except Exception as error:
                log.error("job %s failed", job.id, exc_info=error)
                # ValueErrors are written for users; others may name paths and internals.
                clear = isinstance(error, ValueError)
                message = str(error) if clear else "the training failed; the server's log says why"
                changes = {"status": "failed", "error": message}
            with self._changed:
                if changes and self._goes_on(job.id):
                    try:
                        self._change(job.id, **changes)
                    except (OSError, ValueError):  # a full disk must not end the thread
                        log.exception("the end of job %s could not be written", job.id)

    def _next(self) -> Job | None:
        """Wait for a queued job and mark it as running; None at the end."""
        with self._changed:
            while not self._closing:
                if queued := [job for job in self.all() if job.status == "queued"]:
                    job = queued[0]
                    with suppress(OSError):  # a full disk: it runs, and its end is noted later
                        self._change(job.id, status="running", attempts=job.attempts + 1)
                    return job
                self._changed.wait()
        return None

    def _finish(self, job: Job) -> bool:
        """Run a job; say whether it came to its end."""
        with closing(self.train(job.document_ids)) as shares:
            for share in shares:
                with self._changed:  # the progress is not written: a restart begins again
                    if not self._goes_on(job.id):
                        return False
                    self._jobs[job.id] = replace(self._jobs[job.id], progress=round(share, 3))
        return True

    def _goes_on(self, job_id: str) -> bool:
        return not self._closing and self._jobs[job_id].status == "running"

    def _forget(self) -> None:
        """Keep the newest jobs."""
        ended = [job for job in self.all() if job.status not in OPEN]
        for job in ended[: max(len(ended) - HISTORY, 0)]:
            del self._jobs[job.id]
            self.store.delete_record(KIND, job.id)

    def _change(self, job_id: str, **changes) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], **changes)
        self.store.put_record(KIND, job_id, asdict(self._jobs[job_id]))
