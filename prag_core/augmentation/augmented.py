"""Augmentation: a document goes in, rewrites and question-answer pairs on it come out.

Here are the records, `FileAugmenter` for ready-made pairs, and `CachedAugmenter`, which keeps what
any augmenter made. Two augmenters ask a model: `SelfAugmenter` (self_augmentation.py), for models
that can write JSON, and `SpanAugmenter` (span_augmentation.py), for small ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from prag_core.adapters.adapter import fingerprint
from prag_core.corpus.documents import Document

AUGMENTATION = "augmentation"


@dataclass(frozen=True)
class QAPair:
    """One question on a document and its short answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class AugmentedDocument:
    """A document with its rewrites and question-answer pairs.

    Attributes:
        document: the original.
        rewrites: the same facts in other words.
        qa_pairs: questions that the document answers.
        error: why something is missing ("": nothing is); the document is still trained on.
    """

    document: Document
    rewrites: tuple[str, ...]
    qa_pairs: tuple[QAPair, ...]
    error: str = ""


class Augmenter(Protocol):
    """What makes augmented documents; `fingerprint` covers strategy, settings and model."""

    fingerprint: str

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document, in order."""
        ...


class RecordStore(Protocol):
    """What `CachedAugmenter` keeps its records in (an `AdapterStore` is one)."""

    def get_record(self, kind: str, key: str) -> dict | None:
        """Return a record, or None."""
        ...

    def put_record(self, kind: str, key: str, record: dict) -> None:
        """Write a record."""
        ...


def merge_pairs(pairs: Sequence[QAPair], more: Sequence[QAPair]) -> tuple[QAPair, ...]:
    """Append the pairs whose question is new."""
    distinct: dict[str, QAPair] = {}
    for pair in (*pairs, *more):
        distinct.setdefault(pair.question.lower(), pair)
    return tuple(distinct.values())


def augmented_passage(augmented: AugmentedDocument) -> Document:
    """Write text, rewrites and question-answer pairs as one passage (mode `da_rag`)."""
    document = augmented.document
    pairs = [f"Question: {p.question} Answer: {p.answer}" for p in augmented.qa_pairs]
    return Document("\n".join([document.text, *augmented.rewrites, *pairs]), document.title)


class FileAugmenter:
    """Ready-made question-answer pairs from a file; no model, no rewrites.

    Args:
        path: JSON lines, see `read_qa_pairs`.
        documents: the whole corpus, to resolve the file's keys.
    """

    def __init__(self, path: str | Path, documents: Sequence[Document]) -> None:
        self.path = Path(path)
        self.pairs = read_qa_pairs(path, documents)
        rows = {key: [asdict(pair) for pair in pairs] for key, pairs in self.pairs.items()}
        self.fingerprint = fingerprint(["file", rows])

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Return each document with its pairs; `error` names a document without any."""
        return [
            AugmentedDocument(
                document,
                (),
                self.pairs.get(document.id, ()),
                "" if document.id in self.pairs else f"no question-answer pairs in {self.path}",
            )
            for document in documents
        ]


def read_qa_pairs(path: str | Path, documents: Sequence[Document]) -> dict[str, tuple[QAPair, ...]]:
    """Read JSON lines {"document", "question", "answer"} and return {document id: pairs}.

    `document` is a document id, a source id, or a title that one document alone has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no such object (named by number), or a document that is not
            in the corpus or not the only one of its name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"got no file at {path}, expected question-answer pairs as JSON lines: check the path"
        )
    names: dict[str, set[str]] = {}
    for document in documents:
        for name in filter(None, (document.id, document.source_id, document.title)):
            names.setdefault(name, set()).add(document.id)
    pairs: dict[str, tuple[QAPair, ...]] = {}
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, pair = _parse_line(line, f"{path}, line {number}")
        found = names.get(name, set())
        if len(found) != 1:
            raise ValueError(
                f"got document {name!r} in {path}, line {number}, which names {len(found)} "
                f"documents of {len(documents)}, expected one: use a document id, a source id, or "
                "a title that is not shared"
            )
        key = next(iter(found))
        pairs[key] = merge_pairs(pairs.get(key, ()), [pair])
    return pairs


def _parse_line(line: str, place: str) -> tuple[str, QAPair]:
    keys = ("document", "question", "answer")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"got no JSON at {place} ({error}), expected an object a line") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
        raise ValueError(f"got {line[:80]!r} at {place}, expected strings for the keys {keys}")
    return row["document"], QAPair(row["question"].strip(), row["answer"].strip())


class CachedAugmenter:
    """Keep another augmenter's results in a store, one record a document.

    Records are written after each batch: a run that was interrupted goes on where it stopped.
    """

    def __init__(self, augmenter: Augmenter, store: RecordStore, batch_size: int = 32) -> None:
        self.augmenter, self.store, self.batch_size = augmenter, store, batch_size
        self.fingerprint = augmenter.fingerprint

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document that the store has no record of; return all, in order."""
        found: dict[str, AugmentedDocument] = {}
        missing: dict[str, Document] = {}
        for document in documents:
            record = self.store.get_record(AUGMENTATION, self._key(document))
            if record is None:
                missing[document.id] = document
            else:
                found[document.id] = from_record(document, record)
        pending = list(missing.values())
        for start in range(0, len(pending), self.batch_size):
            for done in self.augmenter.augment(pending[start : start + self.batch_size]):
                self.store.put_record(AUGMENTATION, self._key(done.document), to_record(done))
                found[done.document.id] = done
        return [found[document.id] for document in documents]

    def _key(self, document: Document) -> str:
        return f"{document.id}-{self.fingerprint}"


def to_record(augmented: AugmentedDocument) -> dict:
    """Return what is stored of an augmented document (not the document itself)."""
    return {
        "rewrites": list(augmented.rewrites),
        "qa_pairs": [asdict(pair) for pair in augmented.qa_pairs],
        "error": augmented.error,
    }


def from_record(document: Document, record: dict) -> AugmentedDocument:
    """Rebuild an augmented document from its record."""
    pairs = tuple(QAPair(**pair) for pair in record["qa_pairs"])
    return AugmentedDocument(document, tuple(record["rewrites"]), pairs, record["error"])
