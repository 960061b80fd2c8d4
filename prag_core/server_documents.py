"""Document endpoints of the server: documents are added, listed and removed; trainings followed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Query, UploadFile
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from prag_core.adapter import Adapter
from prag_core.documents import Document, read_documents
from prag_core.export import to_peft
from prag_core.jobs import Job
from prag_core.server_schemas import Limits, NewDocument, NewDocuments, NewJob, document_object
from prag_core.service import Served, Service

ServedPath = Literal["generated", "trained"]


class DocumentEndpoints:
    """The functions behind /v1/documents and /v1/jobs."""

    def __init__(self, service: Service, limits: Limits) -> None:
        """Put the parts together."""
        self.service, self.limits = service, limits

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

    async def add_documents(
        self, body: NewDocuments | NewDocument, path: ServedPath = "generated"
    ) -> dict:
        """Turn documents into adapters; with `path=trained`, also queue their training."""
        new = body.documents if isinstance(body, NewDocuments) else [body]
        return await self._add([item.document() for item in new], path)

    async def upload(self, files: list[UploadFile], path: ServedPath = "generated") -> dict:
        """Take documents as files: txt, md, tsv, json or jsonl (each also .gz)."""
        documents = []
        with tempfile.TemporaryDirectory() as folder:
            for number, file in enumerate(files):
                place = Path(folder) / str(number) / Path(file.filename or "document.txt").name
                place.parent.mkdir()
                place.write_bytes(await file.read())
                try:
                    documents += await asyncio.to_thread(read_documents, place)
                except (ValueError, OSError) as error:
                    message = str(error).replace(f"{place.parent}/", "")
                    raise HTTPException(400, message) from error
        return await self._add(documents, path)

    async def list_documents(
        self, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str = ""
    ) -> dict:
        """List documents in order of their ids, those behind `after`."""
        rows = await asyncio.to_thread(self.service.list, limit + 1, after)
        data = [document_object(*row) for row in rows[:limit]]
        return {"object": "list", "data": data, "has_more": len(rows) > limit}

    async def get_document(self, document_id: str) -> dict:
        """Return a document with its text."""
        return document_object(*self._found(document_id), text=True)

    async def remove_document(self, document_id: str) -> dict:
        """Forget a document, its adapters and all that was derived from it."""
        self._found(document_id)
        await asyncio.to_thread(self.service.remove, document_id)
        return {"id": document_id, "object": "document", "deleted": True}

    async def get_adapter(self, document_id: str) -> FileResponse:
        """Return a document's adapter as a zipped PEFT folder."""
        self._found(document_id)
        folder = tempfile.TemporaryDirectory()

        def write() -> str:
            adapter = self.service.adapter(document_id)
            made = to_peft(adapter, Path(folder.name) / "adapter", self.service.rag.base.name)
            return shutil.make_archive(str(Path(folder.name) / "adapter"), "zip", made)

        return FileResponse(
            await asyncio.to_thread(write),
            media_type="application/zip",
            filename=f"{document_id}.zip",
            background=BackgroundTask(folder.cleanup),
        )

    async def get_norms(self, document_id: str) -> dict:
        """Return the Frobenius norm of an adapter's update in every layer and module."""
        self._found(document_id)
        norms = await asyncio.to_thread(lambda: update_norms(self.service.adapter(document_id)))
        return {"object": "norms", "path": self._found(document_id)[1].path, "data": norms}

    async def add_job(self, body: NewJob) -> dict:
        """Queue the training of documents; their generated adapters serve meanwhile."""
        for document_id in body.document_ids:
            self._found(document_id)
        ids = list(dict.fromkeys(body.document_ids))
        return _job_object(await asyncio.to_thread(self.service.train, ids))

    async def list_jobs(self) -> dict:
        """List trainings, the oldest first."""
        return {"object": "list", "data": [_job_object(job) for job in self.service.jobs.all()]}

    async def get_job(self, job_id: str) -> dict:
        """Return a training as it stands."""
        return self._job(self.service.jobs.get(job_id))

    async def cancel_job(self, job_id: str) -> dict:
        """Stop a training; documents trained so far keep their trained adapters."""
        return self._job(await asyncio.to_thread(self.service.jobs.cancel, job_id))

    async def _add(self, documents: Sequence[Document], path: ServedPath) -> dict:
        self._check(documents)
        try:
            ids = await asyncio.to_thread(self.service.add, documents)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        rows = filter(None, map(self.service.get, dict.fromkeys(ids)))
        reply = {"object": "list", "data": [document_object(*row) for row in rows]}
        if path == "trained":
            job = await asyncio.to_thread(self.service.train, list(dict.fromkeys(ids)))
            reply["job"] = _job_object(job)
        return reply

    def _check(self, documents: Sequence[Document]) -> None:
        limits = self.limits
        if len(documents) > limits.max_documents:
            raise HTTPException(
                413,
                f"got {len(documents)} documents, expected at most {limits.max_documents} in one "
                "request: send several",
            )
        longest = max(len(document.text) for document in documents)
        if longest > limits.max_document_characters:
            raise HTTPException(
                413,
                f"got a document of {longest} characters, expected at most "
                f"{limits.max_document_characters}: cut it into parts",
            )

    def _found(self, document_id: str) -> tuple[Document, Served]:
        found = self.service.get(document_id)
        if found is None:
            raise HTTPException(404, "got the id of no document, expected one of GET /v1/documents")
        return found

    def _job(self, job: Job | None) -> dict:
        if job is None:
            raise HTTPException(404, "got the id of no job, expected one of GET /v1/jobs")
        return _job_object(job)


def update_norms(adapter: Adapter) -> list[dict]:
    """Return {layer, module, norm} of every update; ||B A||^2 = tr(B'B A A'), no product built."""
    norms = []
    for layer in adapter.spec.layers:
        for module in adapter.spec.modules:
            a, b = (t.float() for t in adapter.tensors[f"model.layers.{layer}.mlp.{module}"])
            square = ((b.mT @ b) * (a @ a.mT)).sum().clamp(min=0)
            norm = adapter.spec.scale * float(square.sqrt())
            norms.append({"layer": layer, "module": module, "norm": round(norm, 4)})
    return norms


def _job_object(job: Job) -> dict:
    return {"object": "job", **asdict(job)}
