"""Service: what a server does with documents and requests, for many threads at once.

A document is there once its adapter and its text are stored; from then on it is found, until it is
removed. All model work goes through one `Engine`, all state through one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace

from cachetools import LRUCache

from prag_core.adapters.adapter import Adapter, adapter_key
from prag_core.corpus.documents import Document
from prag_core.model.prompts import Question, plain_question
from prag_core.pipeline.answerer import Answerer, Prepared
from prag_core.pipeline.modes import find_mode
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.bm25 import Hit
from prag_core.server.engine import Engine
from prag_core.server.jobs import Job, Jobs
from prag_core.server.served import KIND, Served, batches, served_record, shares
from prag_core.training.lora_trainer import LoraTrainer


class Service:
    """Adds and removes documents while questions are answered from them."""

    def __init__(
        self,
        rag: ParametricRAG,
        engine: Engine,
        make_trainer: Callable[[], LoraTrainer],
        cache_bytes: int = 1 << 30,
        observe: Callable[[str, float], None] = lambda path, seconds: None,
    ) -> None:
        """Take over a pipeline with its documents.

        Args:
            rag: pipeline with parametrizer and store; only the service may use it from now on.
            engine: runs its model.
            make_trainer: builds the trained path, when it is first asked for.
            cache_bytes: adapters that are cached, at most.
            observe: called with path and seconds for every adapter made.
        """
        self.rag, self.engine, self.observe = rag, engine, observe
        self.lock = threading.RLock()
        self.cache: LRUCache[str, Adapter] = LRUCache(cache_bytes, lambda adapter: adapter.nbytes)
        # Made when it is first asked for: a warm-up adapter or an augmenter may take minutes.
        self._trainer, self._make_trainer = None, make_trainer
        self.served = {key: Served(**record) for key, record in rag.store.records(KIND)}
        self._find_again()
        self.jobs = Jobs(rag.store, engine, self._train)

    def add(self, documents: Sequence[Document]) -> list[str]:
        """Make adapters for new documents and take them in; returns all ids, in order.

        Raises:
            ValueError: an empty document.
        """
        for document in documents:
            if not document.text.strip():
                raise ValueError(
                    f"got an empty document ({document.title or document.id}), expected text: "
                    "leave it out"
                )
        with self.lock:
            served_ids = set(self.rag.documents)
        new = [d for d in {d.id: d for d in documents}.values() if d.id not in served_ids]
        self._make(new)
        return [document.id for document in documents]

    def remove(self, document_id: str) -> bool:
        """Forget a document; say whether it was there. No later request is answered from it."""
        with self.lock:
            if document_id not in self.rag.documents:
                return False
            self.rag.remove_documents([document_id])
            if document_id in self.served:
                self._drop(document_id)
            return True

    def get(self, document_id: str) -> tuple[Document, Served] | None:
        """Return a document with its adapter's record, None where there is none."""
        with self.lock:
            self.refresh()
            if document_id not in self.served:
                return None
            return self.rag.documents[document_id], self.served[document_id]

    def list(self, limit: int, after: str = "") -> list[tuple[Document, Served]]:
        """Return documents in order of their ids, those behind `after`."""
        with self.lock:
            self.refresh()
            # By id, which additions and removals meanwhile leave in order.
            ids = sorted(i for i in self.served if i > after)[:limit]
            return [(self.rag.documents[i], self.served[i]) for i in ids]

    def train(self, document_ids: Sequence[str]) -> Job:
        """Queue the training of documents; until it is done their present adapters serve."""
        return self.jobs.add(tuple(document_ids))

    def adapter(self, document_id: str) -> Adapter:
        """Return a document's adapter.

        Raises:
            ValueError: an unknown document.
        """
        with self.lock:
            self.rag.require([document_id])
            return self._load(self.served[document_id].key)

    def prepare(
        self,
        question: Question,
        mode: str,
        k: int,
        document_ids: Sequence[str] | None = None,
        weighting: str = "relative",
        among: Sequence[str] | None = None,
        path: str | None = None,
    ) -> Prepared:
        """Return a request's prompt, merged adapter and documents.

        Args:
            question: a question, a conversation, or a text to go on from as it is.
            mode: see `modes.MODES`; without documents every mode is `closed_book`.
            k: documents that the retriever finds.
            document_ids: documents to use instead.
            weighting: see `merge.merge_weights`.
            among: the only documents that the retriever may find.
            path: `trained` or `generated`: which of a document's adapters; None: the newest.

        Raises:
            ValueError: an unknown mode, document or weighting, or no adapter of this path.
        """
        with self.lock:  # so that no document is removed in between
            self.refresh()
            if not self.rag.documents and not document_ids:
                mode = "closed_book"
            hits = self._hits(plain_question(question), mode, k, document_ids, among)
            hits = [hit for hit in hits if hit.document_id in self.served]
            documents = {hit.document_id: self.rag.document(hit.document_id) for hit in hits}
            adapters: dict[str, Adapter] = {}
            if find_mode(mode).adapters:
                load = self._loader(hits, path)
                adapters = {hit.document_id: load(hit.document_id) for hit in hits}
        answerer = Answerer(
            self.rag.base,
            documents.__getitem__,
            adapters.__getitem__,
            options=replace(self.rag.options, merge_weights=weighting),
            run=lambda work: self.engine.call(work).result(),
        )
        return answerer.prepare([question], [hits], mode)[0]

    def _hits(
        self,
        question: str,
        mode: str,
        k: int,
        document_ids: Sequence[str] | None,
        among: Sequence[str] | None,
    ) -> list[Hit]:
        """Return the documents of one request (see `prepare`)."""
        named = None if document_ids is None else [list(dict.fromkeys(document_ids))]
        if among is None or named is not None:
            return self.rag.hits([question], mode, k, named)[0]
        self.rag.require(among)
        allowed, every = set(among), max(len(self.rag.documents), 1)
        (hits,) = self.rag.hits([question], mode, every)
        return [hit for hit in hits if hit.document_id in allowed][:k]

    def refresh(self) -> None:
        """Take notice of what other processes did to the store; call it with the lock.

        A document that one of them added is served from when it has an adapter.
        """
        if not self.rag.refresh():
            return
        documents = self.rag.documents
        for document_id in self.served.keys() - documents.keys():
            self._drop(document_id)
        adopted = {}
        for document_id in documents.keys() - self.served.keys():
            if self.rag.store.has(key := self._key(document_id)):
                adopted[document_id] = served_record(key, self.rag.store.get(key), 0.0)
        if adopted:
            self._record(adopted)

    def _drop(self, document_id: str) -> None:
        """Serve a document no longer, which the pipeline has forgotten."""
        del self.served[document_id]
        for key in [key for key in self.cache if key.startswith(document_id)]:
            del self.cache[key]
        self.rag.store.delete_record(KIND, document_id)

    def _find_again(self) -> None:
        """Settle what the store holds: removals that were cut short, other checkpoints' adapters.

        Documents that `prag parametrize` added, or that another checkpoint served, get an adapter.
        """
        documents, store = self.rag.documents, self.rag.store
        for document_id in self.served.keys() - documents.keys():
            self.rag.forget([document_id])
            self._drop(document_id)
        keep = {i: served for i, served in self.served.items() if self._usable(served)}
        missing = []
        for document_id, document in documents.items():
            key = self._key(document_id)
            if not store.has(key):
                missing.append(document)
            elif document_id not in keep:
                keep[document_id] = served_record(key, store.get(key), 0.0)
        self._record(keep)
        self._make(missing)
        # Again, because `_make` wrote generated ones over those of documents that it made anew.
        trained = {i: served for i, served in keep.items() if served.path == "trained"}
        self._record(trained)

    def _usable(self, served: Served) -> bool:
        """Say whether an adapter of an earlier run may serve: of this base model and method."""
        if not self.rag.store.has(served.key):
            return False
        if served.path != "trained":
            return served.key.endswith(self.rag.parametrizer.fingerprint)
        spec = self.rag.store.get(served.key).spec
        return spec.base_model == self.rag.base.fingerprint

    def _key(self, document_id: str) -> str:
        """Return the key of the adapter that the service's own parametrizer makes."""
        parametrizer = self.rag.parametrizer
        return adapter_key(document_id, parametrizer.spec, parametrizer.fingerprint)

    def _loader(self, hits: Sequence[Hit], path: str | None) -> Callable[[str], Adapter]:
        """Return what loads these documents' adapters: trained ones where all of them are trained.

        Trained and generated adapters have different modules and are not merged with each other.
        """
        untrained = [h.document_id for h in hits if self.served[h.document_id].path != "trained"]
        if path == "trained" and untrained:
            raise ValueError(
                f"got documents without trained adapters, {untrained[:3]}, expected trained ones: "
                "train them with POST /v1/jobs"
            )
        if path == "generated" or (untrained and len(untrained) < len(hits)):
            return lambda i: self._load(self._key(i))
        return self.adapter

    def _load(self, key: str) -> Adapter:
        """Return an adapter from the cache or from the store.

        Raises:
            RuntimeError: the store does not have it, or cannot read it.
        """
        if key not in self.cache:
            try:
                adapter = self.rag.store.get(key)
            except (ValueError, KeyError) as error:
                raise RuntimeError(f"got no adapter {key}, expected it in the store") from error
            if adapter.nbytes > self.cache.maxsize:  # the cache would raise
                return adapter
            self.cache[key] = adapter
        return self.cache[key]

    def _make(self, documents: Sequence[Document]) -> None:
        """Make adapters batch by batch, between decoding steps; a batch is kept before the next."""
        parametrizer = self.rag.parametrizer
        for batch in batches(documents, parametrizer.batch_size):
            began = time.perf_counter()
            future = self.engine.call(lambda batch=batch: parametrizer.parametrize(batch))
            adapters = future.result()
            seconds = (time.perf_counter() - began) / len(batch)
            self._keep(batch, adapters, parametrizer, seconds)

    def _keep(self, documents, adapters, parametrizer, seconds: float) -> None:
        """Store adapters and records, then let the documents be found."""
        records, items = {}, {}
        for document, adapter in zip(documents, adapters, strict=True):
            key = adapter_key(document.id, parametrizer.spec, parametrizer.fingerprint)
            items[key] = adapter
            records[document.id] = served_record(key, adapter, seconds)
            self.observe(records[document.id].path, seconds)
        with self.lock:
            try:
                # The record first, the document last: what is cut short in between is found at the
                # next start by its record, and forgotten.
                self.rag.store.put_records(KIND, {i: asdict(s) for i, s in records.items()})
                self.rag.store.put_many(items)
                self.rag.add_documents(documents, parametrize=False)
                self.served |= records
            except ValueError as error:
                raise RuntimeError("got a store that takes no adapters") from error

    def _record(self, records: Mapping[str, Served]) -> None:
        self.rag.store.put_records(KIND, {i: asdict(record) for i, record in records.items()})
        self.served |= records

    def _train(self, document_ids: tuple[str, ...]) -> Generator[float, None, None]:
        """Train documents batch by batch; those removed meanwhile are left out."""
        if self._trainer is None:
            self._trainer = self._make_trainer()
        trainer, count = self._trainer, len(document_ids)
        for start in range(0, count, trainer.batch_size):
            with self.lock:
                ids = [i for i in document_ids[start:][: trainer.batch_size] if i in self.served]
                batch = [self.rag.documents[i] for i in ids]
            if not batch:
                continue
            began = time.perf_counter()
            augmented = trainer.augmenter.augment(batch)
            with self.lock:  # of a document removed meanwhile nothing may stay
                if gone := [i for i in ids if i not in self.served]:
                    self.rag.forget(gone)
            steps = trainer.train_steps(augmented)
            results = yield from shares(steps, start / count, len(batch) / count)
            seconds = (time.perf_counter() - began) / len(batch)
            with self.lock:
                pairs = zip(batch, results, strict=True)
                present = [(d, adapter) for d, (adapter, _) in pairs if d.id in self.served]
                if present:
                    self._keep(*zip(*present, strict=True), trainer, seconds)
