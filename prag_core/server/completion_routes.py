"""Completion endpoints of the server, as in OpenAI's API: answers from documents' adapters."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from prag_core.model.decoding_rows import Row
from prag_core.model.prompts import Continuation, Question
from prag_core.pipeline.answerer import Prepared
from prag_core.pipeline.answers import Source
from prag_core.server import schemas
from prag_core.server.engine import Ticket
from prag_core.server.fields import NO_MODEL, FieldError, shown
from prag_core.server.limits import Limits
from prag_core.server.service import Service
from prag_core.server.vllm_engine import BackendError

# A conversation, token ids, or a text to go on from.
Prompt = Sequence[Mapping[str, str]] | Sequence[int] | str
Reply = dict | StreamingResponse
log = logging.getLogger(__name__)


@dataclass
class Pending:
    """A row in the engine, seen from the event loop."""

    row: Row | None = None  # until it is built
    origin: dict = field(default_factory=dict)  # how and from which documents its answer is made
    ticket: Ticket | None = None
    pieces: asyncio.Queue = field(default_factory=asyncio.Queue)

    async def begin(self, http: HttpRequest) -> None:
        """Wait until the row is built; raises HTTPException for what is wrong with the request."""
        async for _ in self._events(http):
            return
        raise HTTPException(499, "the client left")  # nobody reads it: for the log and the metrics

    async def texts(self, http: HttpRequest) -> AsyncIterator[str]:
        """Yield the answer's pieces; gives the row up when no one listens any more."""
        try:
            async for piece in self._events(http):
                yield piece
        finally:  # whoever stops iterating stops the decoding
            self.ticket.cancel()

    async def _events(self, http: HttpRequest) -> AsyncIterator[str]:
        last_check, finished = time.monotonic(), False
        while not finished:
            event = None
            with suppress(asyncio.TimeoutError):  # a row that waits in the queue has no pieces
                event = await asyncio.wait_for(self.pieces.get(), 1.0)
            # Once a second, not once a piece: each check reads the connection.
            if time.monotonic() > last_check + 1.0:
                last_check = time.monotonic()
                if await http.is_disconnected():
                    self.ticket.cancel()
                    return
            if event is None:
                continue
            piece, error, finished = event
            if isinstance(error, ValueError):
                raise HTTPException(400, str(error)) from error
            if error is not None:
                raise error
            yield piece


class CompletionEndpoints:
    """The functions behind /v1/chat/completions, /v1/completions and /v1/models."""

    def __init__(self, service: Service, model: str, limits: Limits) -> None:
        """Put the parts together; `model` is the name under which the base model is offered."""
        self.service, self.model, self.limits = service, model, limits

    def register(self, app: FastAPI) -> None:
        """Name the routes."""
        app.get("/v1/models")(self.list_models)
        app.get("/v1/models/{model:path}")(self.get_model)
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        app.post("/v1/completions", response_model=None)(self.complete)

    async def list_models(self) -> dict:
        """List the one model that is served."""
        return {"object": "list", "data": [await self.get_model(self.model)]}

    async def get_model(self, model: str) -> dict:
        """Describe the model."""
        self._check_model(model)
        return {"id": model, "object": "model", "created": 0, "owned_by": "prag"}

    async def chat(self, body: schemas.ChatRequest, http: HttpRequest) -> Reply:
        """Answer a conversation."""
        return await self._reply([body.messages], body, http, chat=True)

    async def complete(self, body: schemas.CompletionRequest, http: HttpRequest) -> Reply:
        """Go on from one or more prompts, as they are."""
        return await self._reply(body.prompt, body, http, chat=False)

    async def _reply(
        self, prompts: Sequence[Prompt], body: schemas.Request, http: HttpRequest, chat: bool
    ) -> Reply:
        self._check_model(body.model or self.model)
        most = min(schemas.MOST_PROMPTS, self.service.engine.max_queue)  # of one request, at once
        if (count := len(prompts) * body.n) > most:
            expected = f"at most {most} for all prompts together: send several requests"
            raise FieldError("n", f"got {count} answers, expected {expected}")
        rows: list[Pending] = []
        try:
            for prompt in prompts:
                for copy in range(body.n):
                    rows.append(self._submit(prompt, body, copy))
            for row in rows:  # while a status can still say what is wrong
                await row.begin(http)
        except BaseException:  # of any kind: the client went away, the queue is full
            _cancel(rows)
            raise
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        if body.stream:
            events = self._events(name, rows, body, http, chat)
            return StreamingResponse(events, media_type="text/event-stream")
        choices = []
        try:
            # One after the other, while the engine decodes all of them.
            for index, row in enumerate(rows):
                text = "".join([piece async for piece in row.texts(http)])
                message = {"role": "assistant", "content": text.strip()}
                content = {"message": message} if chat else {"text": text}
                ending = {"logprobs": None, "finish_reason": row.row.finish}
                choices.append({"index": index, **content, **ending})
        finally:
            _cancel(rows)
        kind = "chat.completion" if chat else "text_completion"
        content = {"choices": choices, "usage": _usage(rows, body.n), **_origin(rows, body.n)}
        return schemas.envelope(kind, name, self.model, **content)

    def _check_model(self, model: str) -> None:
        if model != self.model:
            problem = f"got {shown(model)}, expected {shown(self.model)}"
            raise FieldError("model", problem, NO_MODEL)

    def _submit(self, prompt: Prompt, body: schemas.Request, copy: int) -> Pending:
        """Queue one answer to a prompt; retrieving and merging wait for its turn."""
        options = body.options(self.limits, copy)
        pending = Pending()

        def build() -> Row:
            selection = (body.document_ids, body.merge_weights, body.among, body.path, body.where)
            prepared = self.service.prepare(
                self._question(prompt), body.mode, body.k, *selection, body.least_relevance,
                options, body.abstain,
            )  # fmt: skip
            pending.origin = self._origin(prepared, body.mode)
            # What an answer ends at, unless reasoning goes before it, which is shown.
            ends = () if prepared.wording.conclusion else tuple(prepared.wording.ends)
            decoding = replace(options, stop=(*options.stop, *ends))
            pending.row = Row(
                self.service.rag.base, prepared.prompt, prepared.adapter, decoding,
                at_once=options.stop,  # those of the request, as in OpenAI's API
            )  # fmt: skip
            pending.row.answer = prepared.answer
            return pending.row

        loop = asyncio.get_running_loop()

        def emit(piece: str, error: Exception | None) -> None:
            # Called in the engine's thread; the queue belongs to the event loop's.
            event = (piece, error, bool(pending.row and pending.row.finish))
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(pending.pieces.put_nowait, event)

        pending.ticket = self.service.engine.submit(build, emit, self.limits.timeout)
        return pending

    def _question(self, prompt: Prompt) -> Question:
        if isinstance(prompt, str):
            return Continuation(prompt)
        if not isinstance(prompt[0], int):
            return prompt
        # Token ids, back to the text that they stand for.
        tokenizer = self.service.rag.base.tokenizer
        if max(prompt) >= len(tokenizer):
            raise ValueError(f"got token id {max(prompt)}, expected less than {len(tokenizer)}")
        return Continuation(tokenizer.decode(prompt), verbatim=True)

    def _origin(self, prepared: Prepared, mode: str) -> dict:
        """Say how and from which documents an answer is made.

        Without documents the base model answers.
        """
        used = prepared.documents
        return {
            "mode": mode if used or prepared.answer else "closed_book",
            "path": prepared.path or None if used else None,
            "prompt_id": prepared.prompt_id,
            "documents": [self._described(source) for source in used],
            "notes": list(prepared.notes),
        }

    def _described(self, source: Source) -> dict:
        entry = self.service.get(source.document_id)  # None: removed meanwhile
        record = {"id": source.document_id, "title": entry[0].title if entry else ""}
        record["score"] = round(source.score, 4)
        if source.weight is not None:  # None: read as a passage, not merged
            record["weight"] = round(source.weight, 4)
        return record

    async def _events(
        self, name: str, rows: list[Pending], body: schemas.Request, http: HttpRequest, chat: bool
    ) -> AsyncIterator[bytes]:
        """Yield server-sent events: the pieces, the documents with the last one, [DONE]."""
        kind = "chat.completion.chunk" if chat else "text_completion"

        def event(choices: list[dict], **fields) -> bytes:
            record = schemas.envelope(kind, name, self.model, choices=choices, **fields)
            return f"data: {json.dumps(record, ensure_ascii=False)}\n\n".encode()

        def choice(index: int, text: str, finish: str | None = None, **delta: str) -> dict:
            content = {"delta": {**delta, "content": text}} if chat else {"text": text}
            return {"index": index, **content, "logprobs": None, "finish_reason": finish}

        try:
            for index, row in enumerate(rows):
                if chat:  # as OpenAI's streams begin
                    yield event([choice(index, "", role="assistant")])
                pieces = row.texts(http)
                async for piece in _trimmed(pieces) if chat else pieces:
                    yield event([choice(index, piece)])
                yield event([choice(index, "", row.row.finish or "stop")], **_origin(rows, body.n))
            if body.stream_options.include_usage:
                yield event([], usage=_usage(rows, body.n))
            yield b"data: [DONE]\n\n"
        except Exception as error:  # the status was sent: only an event can say so
            late = isinstance(error, TimeoutError) and not error.errno  # else the store's
            told = late or isinstance(error, BackendError)
            if not told:
                log.exception("a stream failed")
            message = str(error) if told else "the server failed; its log says why"
            record = schemas.error_object(message, "timeout_error" if late else "server_error")
            yield f"data: {json.dumps(record)}\n\n".encode()
        finally:
            _cancel(rows)


def _cancel(rows: Sequence[Pending]) -> None:
    """Give up the rows that are still decoded; the others are done with."""
    for row in rows:
        row.ticket.cancel()


async def _trimmed(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """Leave out space before the first and after the last word."""
    begun, space = False, ""  # whether a word was sent; what may stand before the next one
    async for piece in pieces:
        text = space + piece
        words = text.rstrip()
        space = text[len(words) :]
        if words := words if begun else words.lstrip():
            begun = True
            yield words


def _usage(rows: Sequence[Pending], n: int) -> dict[str, int]:
    """Count tokens as OpenAI's API does: a prompt once, whatever number of answers it has."""
    prompt = sum(row.row.prompt_tokens for row in rows[::n])
    completion = sum(row.row.tokens for row in rows)
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return counts | {"total_tokens": prompt + completion}


def _origin(rows: Sequence[Pending], n: int) -> dict:
    """Say how and from which documents the answers were made; lists, where prompts are several."""
    origins = [row.origin for row in rows[::n]]  # the n answers to one prompt share it
    if len(origins) == 1:
        return origins[0]
    return {name: [origin[name] for origin in origins] for name in origins[0]}
