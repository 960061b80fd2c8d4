"""The pipeline, the page to read first: documents go in, questions are answered.

    document -> adapter -> store;  question -> retrieve -> merge -> attach + generate -> Answer

One switch, the mode, says how a question is answered (see `modes`).
"""

from __future__ import annotations

import errno
import json
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from prag_core.adapters.adapter import (
    Adapter,
    Parametrizer,
    adapter_key,
    fingerprint,
    hash_adapter,
)
from prag_core.adapters.shards import open_store
from prag_core.adapters.store import AdapterStore, DamagedError
from prag_core.augmentation.augmented import AUGMENTATION, Augmenter
from prag_core.corpus.characters import is_blank
from prag_core.corpus.chunking import CHUNK_TOKENS, is_chunk, long_documents
from prag_core.corpus.documents import Document, as_documents, stored_document
from prag_core.files import remove_with
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import KV, forget_passages
from prag_core.model.prompts import Question
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.answers import Answer, AnswerOptions
from prag_core.pipeline.modes import find_mode, gates_passages
from prag_core.pipeline.parts import build_parametrizer, build_retriever
from prag_core.pipeline.search_text import as_questions, search_text
from prag_core.pipeline.setup import DEFAULT_PATH, Setup
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Hit, Retriever
from prag_core.training.initial import load_reader
from prag_core.training.lora_trainer import LoraTrainer

Where = Mapping[str, object]  # metadata that a document needs
logger = logging.getLogger(__name__)
GLOBAL = "sft-"  # begins the keys of adapters of the whole corpus


class ParametricRAG:
    """Documents as adapters over one frozen base model."""

    def __init__(
        self,
        base: BaseModel,
        retriever: Retriever | None = None,
        parametrizer: Parametrizer | None = None,
        store: AdapterStore | str | Path | None = None,
        augmenter: Augmenter | None = None,
        generation: GenerationOptions | None = None,
        options: AnswerOptions | None = None,
        documents: Iterable[Document] | None = None,
        reader: Adapter | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            base: frozen base model.
            retriever: finds documents for a question; BM25 when omitted.
            parametrizer: makes adapters; the adapter modes need one.
            store: where adapters are kept, or its folder; documents kept there come back.
            augmenter: for `da_rag`; the parametrizer's own when omitted.
            generation: decoding options.
            options: prompt and merge weighting.
            documents: the corpus, instead of the documents that the store keeps; these, and what is
                added later, are only indexed, and the store gets adapters alone.
            reader: the adapter that mode `reader` answers with.
        """
        self.base, self.parametrizer, self.reader = base, parametrizer, reader
        self.retriever = retriever if retriever is not None else make_retriever("auto")
        self.store = open_store(store) if isinstance(store, (str, Path)) else store
        self.augmenter = augmenter or getattr(parametrizer, "augmenter", None)
        self.generation = generation or GenerationOptions()
        self.options = options or AnswerOptions()
        self.documents: dict[str, Document] = {}
        self.setup: Setup | None = None  # what `assemble` built it from
        self._version: int | None = None  # of the store, when its documents were last read
        self._checksums: dict[str, int] = {}  # of their records
        self._unreadable: set[str] = set()  # keys of adapters whose files are damaged or gone
        if documents is None and self.store is not None:
            self._version = self.store.version()
            self._checksums = self.store.record_checksums("document")
            documents = stored_documents(self.store)
        self._index(as_documents(documents or ()))  # no adapter is read or made here

    @classmethod
    def from_pretrained(
        cls, base_model: str = "smollm2-135m", store: str | Path | None = None, **settings: Any
    ) -> ParametricRAG:
        """Load a base model with all parts around it; `settings` are the fields of `setup.Setup`.

        Adapters are kept in `store`; one that cannot be written is answered from. When omitted they
        are in a temporary folder, which is removed with the last reference to the pipeline's store.
        """
        setup = Setup(base_model=base_model, **settings)
        if store is not None:
            return assemble(setup, open_store(store))
        opened = open_store(tempfile.mkdtemp(prefix="prag-"))
        remove_with(opened, opened.path)
        return assemble(setup, opened)

    def refresh(self) -> bool:
        """Take notice of documents that other processes added, changed or removed.

        Returns whether there may be any.

        Where nobody else has changed the store it is asked one number only.
        """
        if self.store is None or self._version is None:  # the documents are not the store's
            return False
        if (version := self.store.version()) == self._version:
            return False
        # Checksums alone: most documents are known, and a corpus may be large.
        stored = self.store.record_checksums("document")
        removed = self.documents.keys() - stored.keys()
        self.retriever.delete(removed)
        for document_id in removed:
            del self.documents[document_id]
        new = [i for i, checksum in stored.items() if self._checksums.get(i) != checksum]
        new += stored.keys() - self.documents.keys() - set(new)  # removed here, and added again
        self._index(stored_documents(self.store, new))
        self._version, self._checksums = version, stored
        self._unreadable.clear()  # they may have been made again
        return True

    def add_documents(
        self,
        documents: Iterable[Document | str | Mapping[str, Any]] | Document | str,
        progress: Callable[[int], None] = lambda done: None,
        parametrize: bool = True,
        replace: bool = False,
    ) -> ParametricRAG:
        """Index the documents and make the adapters that the store does not have yet.

        What is no document is refused before anything is recorded. A document is recorded once its
        adapter is stored, batch by batch: an interruption loses those in flight, and a second call
        makes only what is missing. Where no adapter can be made of one, the others are kept. Each
        becomes one adapter, however long; a warning counts those that are better cut into chunks.

        Args:
            documents: one or many documents, plain texts or records; one that is there already is
                not made again. Several may share a `source_id`, as chunks do.
            progress: called with the number of documents done after each batch.
            parametrize: make adapters now; else index only (`ensure_adapters` makes them).
            replace: remove other documents with the same `source_id` once the new ones are there;
                of a document that is there already take over metadata and `source_id`, unless
                both are empty; an empty `source_id` leaves the one that it has.

        Raises:
            ValueError: no documents, or some that are none; some that no adapter can be made of.
        """
        unique = {document.id: document for document in _whole(as_documents(documents))}
        self.refresh()  # what another process removed is new, what it added is there
        records = {i: self._record_of(d, replace) for i, d in unique.items()}
        new = {i: record for i, record in records.items() if record is not None}
        if not parametrize or self.parametrizer is None or self.store is None:
            self._record(new.values())
            self._index(new.values())
        else:
            ready: list[Document] = []  # the retriever gets them all at once
            try:
                for batch in self._make(unique.values(), progress):
                    fresh = [new[document.id] for document in batch if document.id in new]
                    self._record(fresh)  # first, so that a full disk leaves the index as it was
                    ready += fresh
            finally:
                self._index(ready)
        if replace:  # last: the old ones answer until the new ones can
            named = {document.source_id for document in unique.values()} - {""}
            present = self.documents.values()
            if old := [d.id for d in present if d.source_id in named and d.id not in unique]:
                self._remove(old)  # not their chunks, which may be among the new ones
        return self

    def ensure_adapters(
        self, document_ids: Iterable[str], progress: Callable[[int], None] = lambda done: None
    ) -> None:
        """Make and store the adapters that these documents do not have yet, batch by batch.

        Raises:
            ValueError: an unknown document, one that no adapter can be made of (the others are
                kept), or no parametrizer or store.
        """
        document_ids = list(dict.fromkeys(document_ids))
        self.refresh()  # another process may have added them
        self.require(document_ids)
        for _ in self._make([self.documents[i] for i in document_ids], progress):
            pass

    def without_adapter(self) -> list[str]:
        """Return the ids of the documents that this parametrizer has made no adapter of."""
        store, _ = self._adapter_parts()
        keys = set(store.keys()) - self._unreadable
        return [i for i in self.documents if self._key(i) not in keys]

    def _make(
        self, documents: Collection[Document], progress: Callable[[int], None]
    ) -> Iterator[list[Document]]:
        """Make and store missing adapters; yields documents that have one, batch by batch."""
        store, parametrizer = self._adapter_parts()
        # Content and settings make the key: what is there is what would be made.
        present = [d for d in documents if self._has(d.id)]
        known = {document.id for document in present}
        missing = [document for document in documents if document.id not in known]
        if missing and store.readonly:  # before any is made
            raise OSError(
                errno.EROFS,
                f"got {len(missing)} of {len(documents)} documents that have no adapter of these "
                "settings in a store that is read only (such as shards), expected one of each: "
                "write theirs with `prag parametrize`, or choose another store",
            )
        missing.sort(key=lambda document: len(document.text))  # similar lengths, less padding
        if long := long_documents(missing, self.base.tokenizer):
            logger.warning(
                "%d of %d documents have more than %d tokens and become one adapter each, where "
                "three of chunks may answer more: cut them (`chunk_documents`, `prag parametrize "
                "--chunk_tokens %d`)",
                len(long), len(missing), CHUNK_TOKENS, CHUNK_TOKENS,
            )  # fmt: skip
        done, failures = len(present), list[str]()
        progress(done)
        yield present
        for start in range(0, len(missing), parametrizer.batch_size):
            batch = missing[start : start + parametrizer.batch_size]
            pairs = list(parametrized(parametrizer, batch, failures))
            made = {self._key(d.id): adapter for d, adapter in pairs}
            store.put_many(made)
            self._unreadable -= made.keys()
            yield [document for document, _ in pairs]
            done += len(batch)
            progress(done)
        require_made(failures, len(documents))

    def _record(self, documents: Iterable[Document]) -> None:
        """Keep documents in the store, unless the corpus is not the store's."""
        records = {document.id: asdict(document) for document in documents}
        if self.store is not None and self._version is not None and records:
            self.store.put_records("document", records)

    def remove_documents(self, document_ids: Iterable[str]) -> None:
        """Forget documents: index entry, stored records and adapters (of every parametrizer).

        The id of a document that was cut into chunks stands for its chunks.
        Adapters of the whole corpus (mode `sft`) go too: they hold what is to be forgotten.

        Raises:
            ValueError: an id that is not there; then nothing is removed.
        """
        whole = list(document_ids)
        if not whole:  # those of mode `sft` stay
            return
        self.refresh()  # another process may have added them
        parts: dict[object, list[str]] = {}
        for document in self.documents.values():
            if is_chunk(document):
                parts.setdefault(document.metadata["parent"], []).append(document.id)
        document_ids = list(dict.fromkeys(i for w in whole for i in [w, *parts.get(w, [])]))
        # The whole need not be there itself.
        document_ids = [i for i in document_ids if i in self.documents or i not in parts]
        self.require(document_ids)
        self._remove(document_ids)

    def _remove(self, document_ids: Sequence[str]) -> None:
        """Forget these documents, which are there, and no others."""
        self.forget(document_ids)
        for document_id in document_ids:
            # Last: a removal that was cut short leaves a document to be removed again, and no
            # adapter of one that nobody knows any more.
            if self.store is not None:
                self.store.delete_record("document", document_id)
            del self.documents[document_id]
            self.retriever.delete([document_id])

    def take_back(self, document_ids: Iterable[str]) -> None:
        """Undo an addition that failed: these documents are neither recorded nor indexed.

        An id stands for itself alone. What the store has of their adapters is kept.
        """
        document_ids = list(document_ids)
        if self.store is not None and self._version is not None:  # the documents are the store's
            for document_id in document_ids:
                self.store.delete_record("document", document_id)
        indexed = [i for i in document_ids if i in self.documents]
        for document_id in indexed:
            del self.documents[document_id]
        self.retriever.delete(indexed)

    def forget(self, document_ids: Iterable[str]) -> None:
        """Delete what the store holds that was made from these documents."""
        if self.store is not None:
            forget_made(self.store, document_ids)

    def matching(self, where: Where, among: Iterable[str] | None = None) -> list[str]:
        """Return the ids of the documents, of those `among`, whose metadata has all of `where`.

        Raises:
            ValueError: an unknown document, none to choose from, or none whose metadata has all of
                these.
        """
        candidates = list(self.documents if among is None else among)
        if not candidates:
            raise ValueError(
                "got no documents to choose from, expected some: add them (`add_documents`), or "
                "leave `among` out"
            )
        self.require(candidates)
        ids = [i for i in candidates if where.items() <= self.documents[i].metadata.items()]
        if not ids:
            raise ValueError(
                f"got where {dict(where)}, which fits none of {len(candidates)} documents, "
                "expected keys and values of their metadata: correct it or leave it out"
            )
        return ids

    def retrieve(
        self,
        questions: Sequence[Question] | str,
        k: int = 3,
        where: Where | None = None,
        among: Iterable[str] | None = None,
    ) -> list[list[Hit]]:
        """Return the k best documents of each question; fewer, or none, where fewer match.

        Arguments and errors beyond the questions are those of `matching`.
        """
        texts = [search_text(question) for question in as_questions(questions)]
        self.refresh()
        if where or among is not None:  # else no list of what may be the whole corpus
            among = self.matching(where or {}, among)
        return self.retriever.retrieve(texts, k, among)

    def document(self, document_id: str) -> Document:
        """Return a document by its id; ValueError for one that is not there."""
        self.require([document_id])
        return self.documents[document_id]

    def adapter(self, document_id: str) -> Adapter:
        """Return the stored adapter of one document.

        Raises:
            ValueError: no parametrizer or store, an unknown document, or one without adapter.
        """
        self.require([document_id])
        store, _ = self._adapter_parts()
        key = self._key(document_id)
        if not store.has(key):
            raise ValueError(self._no_adapter(document_id))
        return store.get(key)

    def answer(
        self,
        questions: Sequence[Question] | str,
        mode: str = "parametric",
        k: int = 3,
        document_ids: Sequence[Sequence[str]] | None = None,
        scores: Sequence[Sequence[float]] | None = None,
        options: AnswerOptions | None = None,
        where: Where | None = None,
    ) -> list[Answer]:
        """Answer questions in one of `modes.MODES`.

        A question that no document matches is answered as in `closed_book`, without documents.

        Args:
            questions: plain questions, conversations (turns of `role` and `content`, whose last is
                the question), or texts to go on from.
            mode: how to answer.
            k: documents a question, from the retriever.
            document_ids: one or more documents of each question, instead of the retriever's; the
                modes without documents (`closed_book`, `sft`) take no notice of them.
            scores: a retrieval score for each of these documents, by which a merge may weigh them;
                1 each when omitted.
            options: prompt and merging, instead of the pipeline's own.
            where: metadata that a document needs for the retriever to find it.

        Raises:
            ValueError: an unknown mode or document, or a mode whose parts are missing.
        """
        questions = as_questions(questions)
        for question in questions:
            require_text("question", search_text(question))
        while True:
            hits = self.hits(questions, mode, k, document_ids, scores, where, options=options)
            try:
                return self.answerer.answer(questions, hits, mode, options)
            except DamagedError as error:
                # Without it, unless it was named, or is the one of the whole corpus.
                if document_ids is not None or error.key in self._unreadable:
                    raise
                logger.warning("%s: left out", error)
                self._unreadable.add(error.key)

    @property
    def identity(self) -> dict[str, str | None]:
        """What weights the answers come from, and the prompt of reading, to be kept with results.

        The prompt, as `auto` is another one after another choice.
        """
        made_by = self.parametrizer.fingerprint if self.parametrizer is not None else None
        return {
            "base_fingerprint": self.base.fingerprint,
            "computed_in": str(self.base.dtype),
            "parametrizer": made_by,
            "reader": hash_adapter(self.reader) if self.reader else None,
            "reading_prompt": self.answerer.reading_wording().id,
        }

    @property
    def answerer(self) -> Answerer:
        """What answers questions from the pipeline's documents."""
        sources = (self.document, self.adapter, self.train_global, self.augmenter)
        store, settings = self.store, (self.generation, self.options)
        kept = store.path / KV if store is not None and not store.readonly else None
        return Answerer(self.base, *sources, *settings, reader=self.require_reader, kept=kept)

    def hits(
        self,
        questions: Sequence[Question],
        mode: str,
        k: int = 3,
        document_ids: Sequence[Sequence[str]] | None = None,
        scores: Sequence[Sequence[float]] | None = None,
        where: Where | None = None,
        among: Iterable[str] | None = None,
        options: AnswerOptions | None = None,
    ) -> list[list[Hit]]:
        """Return the documents of every question: those named, or else the retriever's best k.

        A question that no document matches has none.
        Named documents have the scores given, or 1 each; one that is named twice counts once. The
        retriever heeds `where` and `among`. Options are those of `answer`.

        Raises:
            ValueError: an unknown mode or document, no documents, or not ids for every question and
                scores for every id.
        """
        # Before the ids are looked at, so that one call can ask in every mode.
        if not find_mode(mode).needs_documents:
            return [[] for _ in questions]
        self.refresh()  # what others have added may be asked about, and named
        if document_ids is None:
            if not self.documents:
                raise ValueError(
                    "got no documents, expected some: add them first (`add_documents`, `prag "
                    "parametrize`); what the store has of their adapters is kept"
                )
            hits = self.retrieve(questions, k, where, among)
            how, options = find_mode(mode), options or self.options
            if how.needs_adapters or gates_passages(how, options):
                return self._with_adapters(hits, questions, k, where, among)
            return hits
        return self._named(questions, document_ids, scores)

    def _named(
        self,
        questions: Sequence[Question],
        document_ids: Sequence[Sequence[str]],
        scores: Sequence[Sequence[float]] | None,
    ) -> list[list[Hit]]:
        """Return the documents that are named for every question; errors as `hits`."""
        if flat := [ids for ids in document_ids if isinstance(ids, str)]:
            expected = "a list of ids for each question: pass [[id]]"
            raise ValueError(f"got the id {flat[0]!r} by itself, expected {expected}")
        if len(document_ids) != len(questions) or not all(document_ids):
            raise ValueError(
                f"got document ids for {sum(map(bool, document_ids))} questions, expected one or "
                f"more for each of the {len(questions)}: name them, or let the retriever choose"
            )
        for ids in document_ids:
            self.require(ids)
        scores = scores or [[1.0] * len(ids) for ids in document_ids]
        counts = [len(row) for row in scores], [len(ids) for ids in document_ids]
        if counts[0] != counts[1]:
            raise ValueError(
                f"got {counts[0][:3]} scores for {counts[1][:3]} document ids of the questions, "
                "expected one for each id: correct them, or leave them out"
            )
        return [_once(*row) for row in zip(document_ids, scores, strict=True)]

    def _with_adapters(
        self,
        hits: list[list[Hit]],
        questions: Sequence[Question],
        k: int,
        where: Where | None,
        among: Iterable[str] | None,
    ) -> list[list[Hit]]:
        """Retrieve again, among those with an adapter, where one that is needed is not there."""
        ids = {hit.document_id for row in hits for hit in row}
        if all(self._has(i) for i in ids):  # quick: the rule
            return hits
        without = set(self.without_adapter())
        candidates = self.matching(where or {}, among)
        if ready := [i for i in candidates if i not in without]:
            logger.warning(
                "%d of %d documents have no adapter and take no part: `prag parametrize --store` "
                "makes what is missing, `prag store verify` names them",
                len(without), len(self.documents),
            )  # fmt: skip
            return self.retrieve(questions, k, None, ready)
        raise ValueError(self._no_adapter(candidates[0]))

    def _no_adapter(self, document_id: str) -> str:
        """Say that a document has no adapter of this parametrizer, and what the store has."""
        store, _ = self._adapter_parts()
        paths = store.paths(self.base.fingerprint)
        others = f"; the store has adapters of --path {' and '.join(paths)}" if paths else ""
        if self.setup and self.setup.path in paths:
            others += ", of other settings or another version of this program"
        return (
            f"got no adapter for document {document_id}, expected one under "
            f"{self._key(document_id)}{others}: call add_documents (`prag parametrize`) with this "
            "parametrizer first, or answer with the settings they were made with"
        )

    def require_reader(self) -> Adapter:
        """Return the adapter of mode `reader`; ValueError where there is none."""
        if self.reader is None:
            raise ValueError(
                "got no adapter for mode reader, expected one: train it (`prag reader`) and name "
                "its folder in --reader"
            )
        return self.reader

    def train_global(self) -> Adapter:
        """Train (or load) the one adapter over all documents, for mode `sft`.

        Raises:
            ValueError: no documents, parametrizer or store, or a parametrizer that cannot train.
        """
        store, parametrizer = self._adapter_parts()
        if not isinstance(parametrizer, LoraTrainer):
            name = type(parametrizer).__name__
            raise ValueError(f"got {name}, expected LoraTrainer for mode sft: leave the mode out")
        # Of all ids: another corpus has another adapter.
        key = self._key(GLOBAL + fingerprint(sorted(self.documents)))
        if not store.has(key):
            if store.readonly:  # before it is trained
                raise OSError(
                    errno.EROFS,
                    "got a store that is read only and has no adapter of these documents for mode "
                    "sft, expected one that can be written: choose another store",
                )
            documents = [self.documents[i] for i in sorted(self.documents)]  # as after a restart
            augmented = parametrizer.augmenter.augment(documents)
            store.put(key, parametrizer.train_global(augmented))
        return store.get(key)

    def _record_of(self, document: Document, replace: bool) -> Document | None:
        """Return what is to be kept of a document; None where the record that is there stays."""
        present = self.documents.get(document.id)
        if present is None:
            return document
        # Nothing is made from its metadata: they may change without a new adapter.
        if not replace or not (document.source_id or document.metadata):
            return None
        record = asdict(document)
        record["source_id"] = document.source_id or present.source_id
        return stored_document(document.id, record) if record != asdict(present) else None

    def _index(self, documents: Iterable[Document]) -> None:
        # In the order of the store, in which a restart finds them.
        documents = sorted(documents, key=lambda document: document.id)
        self.retriever.add(documents)
        self.documents |= {document.id: document for document in documents}

    def require(self, document_ids: Iterable[str]) -> None:
        """Raise ValueError for ids of documents that are not there."""
        unknown = [i for i in document_ids if i not in self.documents]
        if unknown:
            raise ValueError(
                f"got unknown document ids {unknown[:3]}, expected ids among the "
                f"{len(self.documents)} documents added: add the documents first"
            )

    def _has(self, document_id: str) -> bool:
        """Say whether a document has an adapter of this parametrizer, as far as is known."""
        store, _ = self._adapter_parts()
        return store.has(key := self._key(document_id)) and key not in self._unreadable

    def _key(self, document_id: str) -> str:
        _, parametrizer = self._adapter_parts()
        return adapter_key(document_id, parametrizer.spec, parametrizer.fingerprint)

    def _adapter_parts(self) -> tuple[AdapterStore, Parametrizer]:
        if self.parametrizer is None or self.store is None:
            raise ValueError(
                "got no parametrizer or no store, expected both for modes with adapters: "
                "pass parametrizer= and store= to ParametricRAG"
            )
        return self.store, self.parametrizer


def _whole(documents: Sequence[Document]) -> Sequence[Document]:
    """Return the documents; ValueError for those that cannot be kept, by their places."""
    problems = []
    for place, document in enumerate(documents, 1):
        try:
            for name in ("text", "title", "source_id"):
                require_text(name, getattr(document, name))
            if is_blank(document.text):
                raise ValueError(f"got an empty text (title {document.title!r}), expected some")
            try:
                json.dumps(document.metadata, ensure_ascii=False).encode()
            except (TypeError, ValueError) as error:
                raise ValueError(f"got metadata that are not JSON ({error})") from error
        except ValueError as error:
            problems.append(f"document {place}: {error}")
    if problems:
        raise ValueError(f"{'; '.join(problems[:3])}: correct or leave out {len(problems)}")
    if not documents:
        raise ValueError("got no documents, expected at least one: check the corpus")
    return documents


def require_text(name: str, value: object) -> None:
    """Raise ValueError for what is no text, or has half a character (of other encodings)."""
    if not isinstance(value, str):
        raise ValueError(f"got {name} of type {type(value).__name__}, expected str: convert it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"got {name} {value!r}, which is not UTF-8, expected text: write it in UTF-8"
        ) from error


def parametrized(
    parametrizer: Parametrizer, documents: Sequence[Document], failures: list[str]
) -> Iterator[tuple[Document, Adapter]]:
    """Yield documents with their adapters; those that none can be made of go to `failures`."""
    try:
        adapters = parametrizer.parametrize(documents)
    except ValueError as error:
        if len(documents) == 1:
            failures.append(f"{documents[0].title or documents[0].id}: {error}")
            return
        for document in documents:  # one by one: the others are no worse for it
            yield from parametrized(parametrizer, [document], failures)
    else:
        yield from zip(documents, adapters, strict=True)


def require_made(failures: Sequence[str], count: int) -> None:
    """Raise ValueError where no adapter could be made of some of `count` documents."""
    if failures:
        raise ValueError(
            f"got {len(failures)} of {count} documents that no adapter can be made of "
            f"({'; '.join(failures[:3])}), expected none: leave them out; the others are there"
        )


def forget_made(store: AdapterStore, document_ids: Iterable[str]) -> None:
    """Delete what was made from documents, and adapters of the whole corpus; not their records."""
    document_ids = list(document_ids)
    forget_passages(store.path / KV, document_ids)
    prefixes = (*document_ids, GLOBAL)  # keys begin with the document, whoever made them
    store.delete_many(key for prefix in prefixes for key in store.keys(prefix))
    for document_id in document_ids:
        for key in list(store.record_keys(AUGMENTATION, document_id)):
            store.delete_record(AUGMENTATION, key)


def stored_documents(
    store: AdapterStore, document_ids: Iterable[str] | None = None
) -> Iterator[Document]:
    """Yield the documents that a store keeps; those that cannot be read are named and left out."""
    pairs = store.records("document")
    if document_ids is not None:
        pairs = ((i, r) for i in document_ids if (r := store.get_record("document", i)) is not None)
    for document_id, record in pairs:
        try:
            yield stored_document(document_id, record)
        except ValueError as error:
            logger.warning("%s: left out", error)


def choose_path(setup: Setup, store: AdapterStore, base_model: str) -> Setup:
    """Return the settings with the path that the store has, where they leave it to the store.

    Args:
        setup: settings; any path but `auto` stays.
        store: that of the only path there is of this base model; `generated` where it has none,
            and where it has several, which is logged.
        base_model: fingerprint.
    """
    if setup.path != "auto":
        return setup
    paths = store.paths(base_model)
    path = paths[0] if len(paths) == 1 else DEFAULT_PATH
    if len(paths) > 1:
        text = "%s holds adapters of the paths %s: taking %s, name another with --path"
        logger.warning(text, store.path, " and ".join(paths), path)
    return replace_fields(setup, path=path)


def assemble(
    setup: Setup,
    store: AdapterStore,
    documents: Sequence[Document] = (),
    alone: bool = False,
    reads_only: bool = False,
) -> ParametricRAG:
    """Load the base model and put the pipeline together over an open store.

    Args:
        setup: settings.
        store: where adapters and documents are kept.
        documents: the corpus that an augmentation file names; the store's own when omitted.
        alone: these documents are searched instead of those that the store keeps.
        reads_only: no adapter will be asked for: a base model without hypernetwork will do.
    """
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    setup = choose_path(setup, store, base.fingerprint)
    # Of the store only where it is read: a corpus may be large.
    corpus = documents or (list(stored_documents(store)) if setup.augmentation.file else ())
    try:
        maker = build_parametrizer(base, setup, store, corpus)
    except (FileNotFoundError, ValueError):
        if not reads_only:
            raise
        maker = None
    parts = (build_retriever(setup), maker, store)
    options = (None, setup.generation, setup.answering)
    reader = load_reader(setup.reader, base)
    rag = ParametricRAG(base, *parts, *options, documents=() if alone else None, reader=reader)
    rag.setup = setup
    return rag


@contextmanager
def build_pipeline(
    setup: Setup,
    store: str | Path,
    documents: Sequence[Document] = (),
    create: bool = True,
    alone: bool = False,
    reads_only: bool = False,
) -> Iterator[ParametricRAG]:
    """Open the store and assemble the pipeline over it (see `assemble`); closes it at the end.

    Without `create` a store that is not there is refused.
    """
    with open_store(store, create) as opened:
        yield assemble(setup, opened, documents, alone, reads_only)


def _once(ids: Sequence[str], scores: Sequence[float]) -> list[Hit]:
    """Return named documents with their scores; of one that is named twice the first stays."""
    scored: dict[str, float] = {}
    for document_id, score in zip(ids, scores, strict=True):
        scored.setdefault(document_id, score)
    return [Hit(*pair) for pair in scored.items()]
