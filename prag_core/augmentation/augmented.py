"""Augmentation: a document goes in, rewrites and question-answer pairs on it come out.

Here are the records, `FileAugmenter` for ready-made pairs, and `CachedAugmenter`, which stores what
any augmenter wrote. The others write themselves, by rule or by a model (README.md beside this
file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from prag_core.adapters.adapter import fingerprint
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.chunking import whole_id
from prag_core.corpus.documents import Document
from prag_core.corpus.records import iter_records, refuse

AUGMENTATION = "augmentation"  # kind of the records in a store


@dataclass(frozen=True)
class QAPair:
    """One question on a document and its short answer.

    Attributes:
        question: the question.
        answer: a name, a date, a phrase.
        full_answer: the answer as a sentence, or as reasoning that ends with it; "" without.
    """

    question: str
    answer: str
    full_answer: str = ""


@dataclass(frozen=True)
class AugmentedDocument:
    """A document with its rewrites and question-answer pairs.

    Attributes:
        document: the original.
        rewrites: the same facts in other words.
        qa_pairs: questions that the document answers.
        error: why something is missing ("": nothing is); the document is still trained on.
        facts: sentences of one fact each, in other words than the text.
    """

    document: Document
    rewrites: tuple[str, ...]
    qa_pairs: tuple[QAPair, ...]
    error: str = ""
    facts: tuple[str, ...] = ()


# A Protocol, so that a user's own augmenter needs no class of ours.
class Augmenter(Protocol):
    """What makes augmented documents; `fingerprint` covers strategy, settings and model."""

    fingerprint: str

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document, in order."""
        ...


def check_counts(rewrites: int, qa_pairs: int) -> None:
    """Raise ValueError unless both counts are sensible."""
    if rewrites < 0 or qa_pairs < 0:
        raise ValueError(f"got {rewrites} rewrites and {qa_pairs} pairs, expected 0 or more")


def titled(title: str, text: str) -> str:
    """Put the title before a passage."""
    return f"{title}: {text}" if title else text


def add_pairs(pairs: Sequence[QAPair], more: Sequence[QAPair]) -> tuple[QAPair, ...]:
    """Append the pairs whose question is new, upper and lower case being the same."""
    distinct: dict[str, QAPair] = {}  # the first of equal questions stays, with its answer
    for pair in (*pairs, *more):
        distinct.setdefault(pair.question.lower(), pair)
    return tuple(distinct.values())


def augmented_passage(augmented: AugmentedDocument) -> Document:
    """Write text, rewrites, facts and question-answer pairs as one passage (mode `da_rag`).

    The control of Su et al. (2025): what the trained path learns from, read in the prompt instead.
    """
    document = augmented.document
    # The title stays apart: the prompt writes it before every passage.
    pairs = [f"Question: {p.question} Answer: {p.answer}" for p in augmented.qa_pairs]
    texts = [document.text, *augmented.rewrites, *augmented.facts, *pairs]
    return Document("\n".join(texts), document.title)


class FileAugmenter:
    """Ready-made question-answer pairs from a file; no model, no rewrites.

    The chunks of a document that was cut all have its pairs.

    Args:
        path: JSON lines, see `read_qa_pairs`.
        documents: the whole corpus, to resolve the file's keys.

    Raises:
        FileNotFoundError, ValueError: see `read_qa_pairs`.
    """

    def __init__(self, path: str | Path, documents: Sequence[Document]) -> None:
        self.path = Path(path)
        self.pairs = read_qa_pairs(path, documents)
        # The pairs, not the path: a file that moves keeps its adapters, one that changes does not.
        rows = {
            key: [{k: v for k, v in asdict(pair).items() if v} for pair in pairs]
            for key, pairs in self.pairs.items()
        }
        self.fingerprint = fingerprint(["file", rows])

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Return each document with its pairs; `error` names a document without any."""
        missing = f"no question-answer pairs in {self.path}"
        pairs = [self.pairs.get(whole_id(document), ()) for document in documents]
        rows = zip(documents, pairs, strict=True)
        return [AugmentedDocument(d, (), own, "" if own else missing) for d, own in rows]


def read_qa_pairs(path: str | Path, documents: Sequence[Document]) -> dict[str, tuple[QAPair, ...]]:
    """Read JSON lines {"document", "question", "answer"} and return {document id: pairs}.

    They may hold a "full_answer", too (see `QAPair`). `document` is a document id, a source id, or
    a title or file name that one document alone has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no such object (named by number), or a document that is not
            in the corpus or not the only one of its name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"got no file at {path}, expected question-answer pairs as JSON lines: check the path"
        )
    names: dict[str, set[str]] = {}  # a title may stand for several documents
    for document in documents:
        # The empty source id or title of one document must not stand for all such documents.
        file = Path(document.source_id).name
        whole = whole_id(document)
        for name in filter(None, (document.id, whole, document.source_id, document.title, file)):
            names.setdefault(name, set()).add(whole)
    pairs: dict[str, tuple[QAPair, ...]] = {}
    for where, record in iter_records(Path(path), refuse, "jsonl"):
        name, pair = _parse_record(record, where)
        ids = names.get(name, set())
        if len(ids) != 1:
            raise ValueError(
                f"got document {name!r} in {where}, which names {len(ids)} "
                f"documents of {len(documents)}, expected one: use a document id, a source id, or "
                "a title that is not shared"
            )
        (document_id,) = ids
        pairs[document_id] = add_pairs(pairs.get(document_id, ()), [pair])
    return pairs


def _parse_record(row: object, place: str) -> tuple[str, QAPair]:
    keys = ("document", "question", "answer")
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
        raise ValueError(f"got {row!r:.80} at {place}, expected strings for the keys {keys}")
    full = row.get("full_answer", "")
    if not isinstance(full, str):
        raise ValueError(f"got full_answer {full!r:.80} at {place}, expected a string")
    return row["document"], QAPair(row["question"].strip(), row["answer"].strip(), full.strip())


class CachedAugmenter:
    """Keep another augmenter's results in a store, one record a document.

    Records are written after each batch: a run that was interrupted goes on where it stopped. A
    store that is only read keeps none.
    """

    def __init__(self, augmenter: Augmenter, store: AdapterStore, batch_size: int = 32) -> None:
        self.augmenter, self.store, self.batch_size = augmenter, store, batch_size
        self.fingerprint = augmenter.fingerprint

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document that the store has no record of; return all, in order."""
        results: dict[str, AugmentedDocument] = {}
        pending: list[Document] = []
        for document in {document.id: document for document in documents}.values():
            if record := self.store.get_record(AUGMENTATION, self._key(document)):
                pairs = tuple(QAPair(**pair) for pair in record.pop("qa_pairs"))
                texts = {name: tuple(record.pop(name, ())) for name in ("rewrites", "facts")}
                whole = AugmentedDocument(document, qa_pairs=pairs, **texts, **record)
                results[document.id] = whole
            else:
                pending.append(document)
        # Written batch by batch, so that an interruption costs one batch at most.
        for start in range(0, len(pending), self.batch_size):
            for result in self.augmenter.augment(pending[start : start + self.batch_size]):
                record = asdict(result)
                del record["document"]  # the store has it already, under its own key
                if not self.store.readonly:  # shards at a url: blocks are added, nothing changes
                    self.store.put_record(AUGMENTATION, self._key(result.document), record)
                results[result.document.id] = result
        return [results[document.id] for document in documents]

    def _key(self, document: Document) -> str:
        # The document first: whoever forgets it deletes by this prefix.
        return f"{document.id}-{self.fingerprint}"
