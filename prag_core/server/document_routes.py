"""Document endpoints of the server: documents are added, listed and removed; trainings followed."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, UploadFile
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.similarity import update_norms
from prag_core.corpus.documents import Document, read_documents
from prag_core.corpus.records import GZIP
from prag_core.files import FAILURES
from prag_core.formats.peft_folder import to_peft
from prag_core.pipeline.setup import AdapterPath
from prag_core.server.engine import QueueFullError, yield_to_decoding
from prag_core.server.jobs import Job
from prag_core.server.limits import Limits
from prag_core.server.schemas import NewBody, NewDocuments, NewJob, document_object
from prag_core.server.service import Served, Service

# Each holds its texts; with `Limits.max_documents` of them it may be made for minutes.
WAITING = 16  # requests with documents that are made or wait


class DocumentEndpoints:
    """The functions behind /v1/documents and /v1/jobs."""

    def __init__(self, service: Service, model: str, limits: Limits) -> None:
        """Put the parts together.

        Documents are made in threads of their own, so that questions do not wait for them.
        """
        self.service, self.model, self.limits = service, model, limits
        # Two: one makes adapters, the other reads or writes the store.
        self.threads = ThreadPoolExecutor(2, "documents", yield_to_decoding)
        self.adding = 0

    def register(self, app: FastAPI) -> None:
        """Name the routes."""
        documents, one = "/v1/documents", "/v1/documents/{document_id}"
        app.post(documents, status_code=201)(self.add_documents)
        app.post(f"{documents}/upload", status_code=201)(self.upload)
        app.get(documents)(self.list_documents)
        app.get(one)(self.get_document)
        app.delete(one)(self.remove_document)
        app.get(f"{one}/adapter", response_class=FileResponse)(self.get_adapter)
        app.get(f"{one}/norms")(self.get_norms)
        app.get("/v1/jobs")(self.list_jobs)
        app.post("/v1/jobs", status_code=201)(self.add_job)
        app.get("/v1/jobs/{job_id}")(self.get_job)
        app.delete("/v1/jobs/{job_id}")(self.cancel_job)

    async def add_documents(self, body: NewBody, path: AdapterPath = "generated") -> dict:
        """Turn documents into adapters; with `path=trained`, also queue their training."""
        items = body.documents if isinstance(body, NewDocuments) else [body]
        documents = [Document(i.text, i.title, i.id, i.metadata) for i in items]
        return await self._add(documents, path, replace=True)

    async def upload(self, files: list[UploadFile], path: AdapterPath = "generated") -> dict:
        """Take documents as files, of the kinds of corpus/README.md (not compressed)."""
        documents = []
        for file in files:
            documents += await asyncio.to_thread(_read, file.filename or "", await file.read())
        # Files of one name may be different documents: none is replaced.
        return await self._add(documents, path, replace=False)

    async def list_documents(
        self, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str = ""
    ) -> dict:
        """List documents in order of their ids, those behind `after`."""
        # One more than is shown says whether there are more.
        rows = await asyncio.to_thread(self.service.list, limit + 1, after)
        data = [document_object(*row) for row in rows[:limit]]
        return {"object": "list", "data": data, "has_more": len(rows) > limit}

    async def get_document(self, document_id: str) -> dict:
        """Return a document with its text."""
        return document_object(*await self._entry(document_id), text=True)

    async def remove_document(self, document_id: str) -> dict:
        """Forget a document (or its chunks), its adapters and all that was derived from it."""
        if not await asyncio.to_thread(self.service.remove, document_id):
            raise _unknown("document")
        return {"id": document_id, "object": "document", "deleted": True}

    async def get_adapter(self, document_id: str) -> FileResponse:
        """Return a document's adapter as a zipped PEFT folder."""
        _, adapter = await self._adapter(document_id)
        # A hub's name as a client needs it; no path of this machine.
        name = self.service.rag.base.name
        name = self.model if Path(name).exists() else name
        folder = tempfile.TemporaryDirectory()

        def write() -> str:
            peft_folder = to_peft(adapter, Path(folder.name) / "adapter", name)
            return shutil.make_archive(str(Path(folder.name) / "adapter"), "zip", peft_folder)

        return FileResponse(
            await asyncio.to_thread(write),
            media_type="application/zip",
            filename=f"{document_id}.zip",
            background=BackgroundTask(folder.cleanup),  # once the file is sent
        )

    async def get_norms(self, document_id: str) -> dict:
        """Return the Frobenius norm of an adapter's update in every layer and module."""
        served, adapter = await self._adapter(document_id)
        norms = await asyncio.to_thread(update_norms, adapter)
        return {"object": "norms", "path": served.path, "data": norms}

    async def add_job(self, body: NewJob) -> dict:
        """Queue the training of documents; their generated adapters serve meanwhile."""
        for document_id in body.document_ids:
            await self._entry(document_id)
        ids = list(dict.fromkeys(body.document_ids))
        return _job_object(await asyncio.to_thread(self.service.train, ids))

    async def list_jobs(self) -> dict:
        """List trainings, the oldest first."""
        jobs = await asyncio.to_thread(self.service.jobs.all)
        return {"object": "list", "data": [_job_object(job) for job in jobs]}

    async def get_job(self, job_id: str) -> dict:
        """Return a training as it stands."""
        return _job_object(await asyncio.to_thread(self.service.jobs.get, job_id))

    async def cancel_job(self, job_id: str) -> dict:
        """Stop a training; documents trained so far keep their trained adapters."""
        return _job_object(await asyncio.to_thread(self.service.jobs.cancel, job_id))

    async def _add(self, documents: Sequence[Document], path: AdapterPath, replace: bool) -> dict:
        self._check(documents)
        if self.adding >= WAITING:
            raise QueueFullError(f"got {WAITING} requests with documents already: try again later")
        self.adding += 1  # in the event loop's thread alone, so without a lock
        try:
            loop = asyncio.get_running_loop()
            ids = await loop.run_in_executor(self.threads, self.service.add, documents, replace)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        finally:
            self.adding -= 1
        ids = list(dict.fromkeys(ids))  # a document that was sent twice is listed once
        entries = await asyncio.to_thread(lambda: [self.service.get(i) for i in ids])
        # None: somebody removed it meanwhile.
        reply = {"object": "list", "data": [document_object(*row) for row in entries if row]}
        if notes := await asyncio.to_thread(self._notes, documents):
            reply["notes"] = notes
        if path == "trained":
            reply["job"] = _job_object(await asyncio.to_thread(self.service.train, ids))
        return reply

    def _check(self, documents: Sequence[Document]) -> None:
        limits = self.limits
        if len(documents) > limits.max_documents:
            most = f"at most {limits.max_documents} in one request: send several"
            raise HTTPException(413, f"got {len(documents)} documents, expected {most}")
        longest = max(len(document.text) for document in documents)
        if longest > limits.max_document_characters:
            most = f"at most {limits.max_document_characters}: cut it into parts"
            raise HTTPException(413, f"got a document of {longest} characters, expected {most}")

    def _notes(self, documents: Sequence[Document]) -> list[dict]:
        pairs = [(d.id, note) for d in documents for note in self.service.notes(d)]
        return [{"id": document_id, "note": note} for document_id, note in dict(pairs).items()]

    async def _entry(self, document_id: str) -> tuple[Document, Served]:
        entry = await asyncio.to_thread(self.service.get, document_id)
        if entry is None:
            raise _unknown("document")
        return entry

    async def _adapter(self, document_id: str) -> tuple[Served, Adapter]:
        _, served = await self._entry(document_id)
        if served.problem:
            raise HTTPException(409, f"got a document without adapter: {served.problem}")
        try:
            return served, await asyncio.to_thread(self.service.adapter, document_id)
        except RuntimeError as error:  # it cannot be read, which is noted
            raise HTTPException(409, f"got a document without adapter: {error}") from error
        except ValueError as error:  # removed meanwhile
            raise _unknown("document") from error


def _unknown(kind: str) -> HTTPException:
    return HTTPException(404, f"got the id of no {kind}, expected one of GET /v1/{kind}s")


def _read(name: str, content: bytes) -> list[Document]:
    """Read the documents of an uploaded file.

    Raises:
        HTTPException: a file that cannot be read, with the name that the client gave it.
    """
    # The last part alone: a client's name must not lead out of the folder; file systems take 255
    # bytes.
    name = Path(name).name.encode()[-200:].decode(errors="ignore")
    if name in ("", ".", ".."):
        name = "document.txt"
    # A small archive may hold more than the size limit of a request.
    if content.startswith(GZIP) or name.lower().endswith(".gz"):
        raise HTTPException(400, f"got {name}, which is compressed: send it as it is")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / name
        try:
            place.write_bytes(content)
            documents = read_documents(place)
            # What neither the store nor a reply could hold: NaN, halves of characters.
            json.dumps([asdict(d) for d in documents], ensure_ascii=False, allow_nan=False).encode()
            # A file that is one document has its path for an id: the name alone is the client's.
            own = place.as_posix()
            return [replace(d, source_id=name) if d.source_id == own else d for d in documents]
        except RecursionError as error:
            raise HTTPException(400, f"got {name}, which is nested too deeply") from error
        except (ValueError, OSError) as error:
            if getattr(error, "errno", None) in FAILURES:  # a full disk, say
                raise
            # Without the server's own folder in the message.
            raise HTTPException(400, str(error).replace(f"{folder}/", "")) from error


def _job_object(job: Job | None) -> dict:
    if job is None:
        raise _unknown("job")
    fields = {name: value for name, value in asdict(job).items() if name != "owner"}
    return {"object": "job", **fields}
