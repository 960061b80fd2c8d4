"""Jobs: trainings that run while the service answers; they survive a restart in the store.

Several servers may share a store. Each runs the jobs that it took and shows those of all. While it
lives it holds a lock in the store's folder; what a server without that lock left unfinished is
taken over by the next one that starts.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prag_core.adapters.store import AdapterStore
from prag_core.server.engine import ClosedError, yield_to_decoding

KIND = "job"  # of their records
LOCKS = "servers"  # folder of the running servers' locks in the store's
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
        error: why it failed, or which documents could not be trained while the others were.
        attempts: how often it was begun, but for starts that an orderly end of the server stopped.
        created: seconds since 1970.
        owner: name of the server's lock that runs it.
    """

    document_ids: tuple[str, ...]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: str = "queued"
    progress: float = 0.0
    error: str = ""
    attempts: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    owner: str = ""


def read_job(record: Mapping[str, Any]) -> Job | None:
    """Return the job of a record, without fields of another version; None where it is none."""
    known = {name: record[name] for name in Job.__dataclass_fields__ if name in record}
    return Job(**known) if "document_ids" in known else None


class Jobs:
    """Runs trainings in a thread of its own, one after the other."""

    def __init__(
        self,
        store: AdapterStore,
        train: Callable[[tuple[str, ...], int], Generator[float, None, dict[str, str]]],
    ) -> None:
        """Queue again what a stopped server left unfinished.

        Args:
            store: keeps the jobs' records.
            train: trains documents but those that were trained after a time (seconds since 1970),
                yields the share done, stores the adapters, and returns why documents could not be
                trained, by their ids.
        """
        self.store, self.train = store, train
        self._changed = threading.Condition()  # guards the jobs and `_closing`
        self._closing = False
        self._jobs: dict[str, Job] = {}  # those that this server runs, or ran
        self.owner = secrets.token_hex(8)
        self._lock = self._lock_of(self.owner)
        # A store that cannot be written, or locked, has no jobs that could be taken over.
        with suppress(OSError, NotImplementedError):
            self._lock.acquire()
            for job in self.all():
                if job.status in OPEN and job.id not in self._jobs:
                    self._take_over(job.owner)
            self._forget()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def add(self, document_ids: tuple[str, ...]) -> Job:
        """Queue a training.

        Raises:
            ClosedError: the server ends.
            OSError: the store has no room for the job's record.
        """
        job = Job(document_ids, owner=self.owner)
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
            record = self.store.get_record(KIND, job_id)
            return self._jobs.get(job_id, record and read_job(record))

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self._changed:
            stored = {key: read_job(record) for key, record in self.store.records(KIND)}
            jobs = {key: job for key, job in stored.items() if job} | self._jobs
            return sorted(jobs.values(), key=lambda job: job.created)

    def cancel(self, job_id: str) -> Job | None:
        """Stop a job before its next step; one that has ended stays as it is."""
        with self._changed:
            job = self.get(job_id)
            if job is not None and job.status in OPEN:
                job = replace(job, status="cancelled")
                if job_id in self._jobs:
                    self._jobs[job_id] = job
                self.store.put_record(KIND, job_id, asdict(job))  # its own server looks there
            return job

    def close(self, timeout: float | None = None) -> None:
        """Stop before the next step; what is not done stays open for the next start."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            # A step that takes longer: its job is begun again, which is no failed attempt either.
            for job in [job for job in self._jobs.values() if job.status == "running"]:
                with suppress(OSError, ValueError):
                    self._change(
                        job.id, status="queued", progress=0.0, attempts=max(0, job.attempts - 1)
                    )
        self._lock.release()
        with suppress(OSError):
            self._lock_file(self.owner).unlink(missing_ok=True)

    def _lock_file(self, owner: str) -> Path:
        return Path(self.store.path) / LOCKS / f"{owner or 'none'}.lock"

    def _lock_of(self, owner: str) -> FileLock:
        with suppress(OSError):
            self._lock_file(owner).parent.mkdir(exist_ok=True)
        # Not of a thread: it is released in another one than it was taken in.
        return FileLock(self._lock_file(owner), timeout=0, thread_local=False)

    def _take_over(self, owner: str) -> None:
        """Queue again what a server left unfinished, unless it lives or another takes it over."""
        try:
            with self._lock_of(owner):
                # Read again: another start may have been quicker.
                for job in [job for job in self.all() if job.owner == owner]:
                    if job.status not in OPEN:
                        continue
                    # A training that brings the process down would do so at every start.
                    changes = {"status": "queued", "progress": 0.0}
                    if job.attempts >= ATTEMPTS:
                        error = f"the server ended {job.attempts} times while it ran"
                        changes = {"status": "failed", "error": error}
                    self._jobs[job.id] = job
                    self._change(job.id, **changes, owner=self.owner)
            self._lock_file(owner).unlink(missing_ok=True)
        except Timeout:
            log.info("jobs of another server that runs on this store are left to it")

    def _run(self) -> None:
        yield_to_decoding()
        while (job := self._next()) is not None:
            try:
                changes = self._finish(job)
            except Exception as error:
                log.error("job %s failed", job.id, exc_info=error)
                changes = {"status": "failed", "error": clear_message(error)}
            with self._changed:
                if self._closing and changes.get("status") != "succeeded":
                    # An orderly end: what ATTEMPTS counts is a process that went down.
                    changes = {"status": "queued", "progress": 0.0, "attempts": job.attempts}
                try:
                    if changes and self._goes_on(job.id):
                        self._change(job.id, **changes)
                except (OSError, ValueError):  # a full disk must not end the thread
                    log.exception("the end of job %s could not be written", job.id)

    def _next(self) -> Job | None:
        """Wait for a queued job and mark it as running; None at the end."""
        with self._changed:
            while not self._closing:
                queued = [job for job in self._jobs.values() if job.status == "queued"]
                if queued:
                    job = min(queued, key=lambda job: job.created)
                    with suppress(OSError, ValueError):  # it runs where that cannot be read
                        if self._is_cancelled(job.id):
                            continue
                    # A full disk: it runs, and its end is noted later.
                    with suppress(OSError, ValueError):
                        self._change(job.id, status="running", attempts=job.attempts + 1)
                    return job
                self._changed.wait()
        return None

    def _finish(self, job: Job) -> dict:
        """Run a job; returns how it ended, or nothing where it was stopped."""
        failures: dict[str, str] = {}

        def steps() -> Generator[float, None, None]:
            failures.update((yield from self.train(job.document_ids, job.created)))

        with closing(steps()) as shares:
            for share in shares:
                with self._changed:  # the progress is not written: the next start finds it
                    if self._closing or not self._goes_on(job.id):
                        return {}
                    self._jobs[job.id] = replace(self._jobs[job.id], progress=round(share, 3))
        if not failures:
            return {"status": "succeeded", "progress": 1.0}
        reasons = list(dict.fromkeys(failures.values()))
        if len(failures) == len(job.document_ids):
            return {"status": "failed", "error": "; ".join(reasons[:3])}
        error = (
            f"{len(failures)} of {len(job.document_ids)} documents could not be trained "
            f"({', '.join(list(failures)[:10])}): {'; '.join(reasons[:3])}; the others were"
        )
        return {"status": "succeeded", "progress": 1.0, "error": error}

    def _goes_on(self, job_id: str) -> bool:
        return self._jobs[job_id].status == "running" and not self._is_cancelled(job_id)

    def _is_cancelled(self, job_id: str) -> bool:
        """Return whether another server cancelled a job, and note it."""
        record = self.store.get_record(KIND, job_id) or {}
        cancelled = record.get("status") == "cancelled"
        if cancelled:
            self._jobs[job_id] = replace(self._jobs[job_id], status="cancelled")
        return cancelled

    def _forget(self) -> None:
        """Keep the newest jobs."""
        ended = [job for job in self.all() if job.status not in OPEN]
        for job in ended[: max(len(ended) - HISTORY, 0)]:
            self._jobs.pop(job.id, None)
            self.store.delete_record(KIND, job.id)

    def _change(self, job_id: str, **changes) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], **changes)
        self.store.put_record(KIND, job_id, asdict(self._jobs[job_id]))


def clear_message(error: Exception) -> str:
    """Return what a client may read of an error; others than ValueErrors may name internals."""
    if isinstance(error, ValueError):
        return str(error)
    return "the training failed; the server's log says why"
