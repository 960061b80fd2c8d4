"""Schemas of the server: requests as OpenAI's API names their fields, and the project's own."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    model_validator,
)

from prag_core.corpus.documents import Document
from prag_core.model.options import GenerationOptions
from prag_core.pipeline.setup import AdapterPath
from prag_core.server.conversations import read_conversation
from prag_core.server.fields import FieldError, check_fields, encodable, shown
from prag_core.server.limits import Limits
from prag_core.server.service import Served

MOST_PROMPTS, MOST_STOPS = 256, 16
SMALLEST_TOP_P = 1e-9  # of 0, which OpenAI takes too: the likeliest token alone
UTF8 = AfterValidator(lambda text: encodable(text))
Text = Annotated[str, UTF8]
# Neither NaN nor infinity, which JSON cannot write.
Number = int | Annotated[float, Field(allow_inf_nan=False)]
Metadata = Annotated[dict[Text, Text | Number], Field(max_length=100)]
# Of the modes in `pipeline.modes`, those that a request's documents are enough for: da_rag needs an
# augmenter, sft an adapter of the whole corpus.
ServedMode = Literal["closed_book", "in_context", "parametric", "combine"]
MergeWeights = Literal["ones", "mean", "score", "relative"]
Named = Annotated[list[Text], Field(min_length=1, max_length=20)] | None
Among = Annotated[list[Text], Field(min_length=1, max_length=10_000)] | None
Prompts = list[str] | list[list[int]]


def read_stop(stop: object) -> tuple[str, ...]:
    """Return the texts that end an answer; an empty one ends none.

    Raises:
        FieldError: no texts, or too many.
    """
    texts = stop if isinstance(stop, list) else [stop]
    if len(texts) > MOST_STOPS or not all(isinstance(text, str) for text in texts):
        problem = f"got {shown(stop)}, expected a text or a list of at most {MOST_STOPS} texts"
        raise FieldError("stop", problem)
    return tuple(encodable(text, "stop") for text in texts if text)


def read_prompts(prompt: object) -> Prompts:
    """Return one or more prompts, texts or token ids, as a list.

    Raises:
        FieldError: none of these, or too many.
    """
    many = isinstance(prompt, list) and not (prompt and _is_token(prompt[0]))
    prompts = prompt if many else [prompt]
    if not 0 < len(prompts) <= MOST_PROMPTS:
        problem = f"got {len(prompts)} prompts, expected 1 to {MOST_PROMPTS}"
        raise FieldError("prompt", problem)
    for number, item in enumerate(prompts):
        place = f"prompt[{number}]" if many else "prompt"
        if isinstance(item, str):
            encodable(item, place)
        # Some clients tokenise themselves; an id that the tokenizer lacks is refused with the rest.
        elif not (isinstance(item, list) and all(map(_is_token, item))):
            raise FieldError(place, f"got {shown(item)}, expected a text or a list of token ids")
        if not item:
            raise FieldError(place, "got an empty prompt, expected a text or token ids")
    return prompts


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool | None = None


class Request(BaseModel):
    """What both completion endpoints take: OpenAI's fields (see `fields`) and the server's own."""

    model: Text = ""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    seed: int | None = None
    stop: Annotated[Any, PlainValidator(read_stop)] = ()
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Annotated[int, Field(ge=1, le=16)] = 1
    mode: ServedMode = Field("parametric", description="how documents take part")
    k: int = Field(1, ge=1, le=20, description="documents that the retriever finds, at most 20")
    document_ids: Named = Field(None, description="documents, instead of the retriever's")
    among: Among = Field(None, description="the only documents that the retriever may find")
    where: Metadata | None = Field(None, description="metadata of those that it may find")
    path: AdapterPath | None = Field(
        None,
        description="which adapters; by default `trained` where one training made all, "
        "else `generated`",
    )
    merge_weights: MergeWeights | None = Field(
        None,
        validation_alias=AliasChoices("merge_weights", "merge"),
        description="weights of several documents; by default `relative`",
    )
    least_relevance: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = Field(
        None,
        description="generated adapters that respond less to the question are left out; "
        "by default none is",
    )
    abstain: bool | None = Field(None, description="without any document: say that it is unknown")

    @model_validator(mode="before")
    @classmethod
    def fields(cls, body: Any) -> Any:
        """Leave out what asks for nothing, refuse what cannot be honoured."""
        return check_fields(body, {*cls.model_fields, "merge"}) if isinstance(body, dict) else body

    def options(self, limits: Limits, copy: int = 0) -> GenerationOptions:
        """Return the decoding options of one of a prompt's `n` answers.

        Raises:
            FieldError: a longer answer than the server gives.
        """
        for name in ("max_tokens", "max_completion_tokens"):
            if (getattr(self, name) or 0) > limits.max_tokens:
                problem = f"got {getattr(self, name)}, expected at most {limits.max_tokens}"
                raise FieldError(name, problem)
        both = [most for most in (self.max_tokens, self.max_completion_tokens) if most is not None]
        seed = secrets.randbits(63) if self.seed is None else self.seed + copy
        return GenerationOptions(
            max_new_tokens=min(both, default=min(limits.default_tokens, limits.max_tokens)),
            temperature=self.temperature,
            top_p=max(self.top_p, SMALLEST_TOP_P),
            stop=self.stop,
            seed=seed % 2**63,  # torch takes 64 bits, signed
        )


class ChatRequest(Request):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[Any, PlainValidator(read_conversation)]  # turns of a chat template


class CompletionRequest(Request):
    """Body of POST /v1/completions."""

    prompt: Annotated[Any, PlainValidator(read_prompts)]


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


def _kind(body: Any) -> str:
    return "many" if isinstance(body, dict) and "documents" in body else "one"


# Told apart before they are read, so that an error is about the one that was meant.
NewBody = Annotated[
    Annotated[NewDocuments, Tag("many")] | Annotated[NewDocument, Tag("one")], Discriminator(_kind)
]


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
    return entry | shown | ({"problem": served.problem} if served.problem else {})


def envelope(kind: str, name: str, model: str, **fields) -> dict:
    """Return what every completion object begins with."""
    return {"id": name, "object": kind, "created": int(time.time()), "model": model, **fields}


def error_object(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict:
    """Return an error as OpenAI's API writes it."""
    # A message may repeat half a surrogate pair of the request, which is no UTF-8.
    message = message.encode("utf-8", "replace").decode()
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
