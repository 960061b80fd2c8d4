"""Schemas of the server: requests as OpenAI's API names their fields, and the project's own."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from prag_core.corpus.documents import Document
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.pipeline.parts import AdapterPath
from prag_core.server.served import Served


def encodable(text: str) -> str:
    """Return a text that can be written as UTF-8; JSON may name halves of characters alone.

    Raises:
        ValueError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("got half of a surrogate pair, expected whole characters") from error
    return text


UTF8 = AfterValidator(encodable)
Text = Annotated[str, UTF8]
# Neither NaN nor infinity, which JSON cannot write.
Number = int | Annotated[float, Field(allow_inf_nan=False)]
Metadata = Annotated[dict[Text, Text | Number], Field(max_length=100)]
# Some clients tokenise themselves; an id that the tokenizer lacks is refused with the prompt.
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
# Of the modes in `pipeline.modes`, those that a request's documents are enough for: da_rag needs an
# augmenter, sft an adapter of the whole corpus.
ServedMode = Literal["closed_book", "in_context", "parametric", "combine"]


MergeWeights = Literal["ones", "mean", "score", "relative"]
Named = Annotated[list[str], Field(min_length=1, max_length=20)] | None
Among = Annotated[list[str], Field(min_length=1, max_length=10_000)] | None


class Request(BaseModel):
    """What both completion endpoints take; OpenAI's other fields are let through unread."""

    # OpenAI's clients send many fields that change nothing here.
    model_config = ConfigDict(extra="ignore")

    model: str = Field("", description="The served model's name, or nothing.")
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float | None, Field(gt=0, le=1)] = 1.0
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    # One answer a prompt: several would be the same row again, unless sampled.
    n: Literal[1] | None = 1
    mode: ServedMode = Field("parametric", description="How documents take part.")
    k: int = Field(1, ge=1, le=20, description="Documents that the retriever finds.")
    document_ids: Named = Field(None, description="Documents, instead of the retriever's.")
    among: Among = Field(None, description="The only documents that the retriever may find.")
    where: Metadata | None = Field(None, description="Metadata of those that it may find.")
    path: AdapterPath | None = Field(None, description="Which adapters; None: the newest.")
    merge: MergeWeights = Field("relative", description="Merge weights.")

    def options(self, default_tokens: int) -> GenerationOptions:
        """Return the decoding options."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerationOptions(
            max_new_tokens=self.max_tokens or default_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=tuple(text for text in stop if text),
            # torch takes 64 bits, signed.
            seed=secrets.randbits(63) if self.seed is None else self.seed % 2**63,
        )


class Part(BaseModel):
    """A text part of a message."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    def turn(self) -> dict[str, str]:
        """Return it as chat templates take it."""
        parts = self.content
        content = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        # OpenAI's newer name of the same role, which chat templates do not know.
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(Request):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    # OpenAI's newer name of max_tokens; where both come, max_tokens counts.
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None

    @field_validator("messages")
    @classmethod
    def user_speaks_last(cls, messages: list[Message]) -> list[Message]:
        """Refuse a conversation without a question at its end."""
        if messages[-1].role != "user" or not messages[-1].turn()["content"].strip():
            raise ValueError("the last message must be the user's, and not empty")
        return messages

    def options(self, default_tokens: int) -> GenerationOptions:
        """Return the decoding options."""
        return super().options(self.max_completion_tokens or default_tokens)


class CompletionRequest(Request):
    """Body of POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=256)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=256)]
    )
    # What is not supported is refused, unlike what is ignored: answers would lack what was asked.
    echo: Literal[False] | None = False
    logprobs: Literal[None, 0, False] = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts, texts or token ids, as a list."""
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if single else self.prompt


class NewDocument(BaseModel):
    """A document to add."""

    # A misspelt field must not be lost in silence: what is written here is kept.
    model_config = ConfigDict(extra="forbid")

    # Its length is checked against `Limits`, which this class does not know.
    text: Annotated[str, Field(min_length=1), UTF8]
    title: Annotated[str, Field(max_length=500), UTF8] = ""
    # The client's own; a document with other content that has it is replaced.
    id: Annotated[str, Field(max_length=500), UTF8] = ""
    metadata: Metadata = Field(default_factory=dict)


class NewDocuments(BaseModel):
    """Documents to add."""

    model_config = ConfigDict(extra="forbid")

    documents: Annotated[list[NewDocument], Field(min_length=1)]


class NewJob(BaseModel):
    """Documents to train."""

    model_config = ConfigDict(extra="forbid")

    document_ids: Annotated[list[str], Field(min_length=1, max_length=1000)]


def document_object(document: Document, served: Served, text: bool = False) -> dict:
    """Describe a document and its adapter."""
    shown = {"text": document.text, "metadata": document.metadata} if text else {}
    entry = {"id": document.id, "object": "document", "source_id": document.source_id}
    entry |= {"title": document.title, "characters": len(document.text)}
    entry |= {name: getattr(served, name) for name in ("path", "bytes", "seconds", "created")}
    return entry | shown


def envelope(kind: str, name: str, model: str, **fields) -> dict:
    """Return what every completion object begins with."""
    return {"id": name, "object": kind, "created": int(time.time()), "model": model, **fields}


def error_object(message: str, kind: str, code: str | None = None) -> dict:
    """Return an error as OpenAI's API writes it."""
    # A message may repeat half a surrogate pair of the request, which is no UTF-8.
    message = message.encode("utf-8", "replace").decode()
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
