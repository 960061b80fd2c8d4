"""Service: what a server does with documents and requests, for many threads at once.

A document is there once its adapter and its text are stored; from then on it is found, until it is
removed. Answers are decoded by one `Engine`; adapters are made and documents trained beside it, on
models that share its weights, so that no token waits for them. All state goes through one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from cachetools import LRUCache

from prag_core.adapters.adapter import Adapter, adapter_key
from prag_core.corpus.characters import is_blank
from prag_core.corpus.documents import Document
from prag_core.model.base_model import share_weights
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.model.prompts import Question
from prag_core.pipeline.answerer import Answerer, Prepared
from prag_core.pipeline.modes import find_mode
from prag_core.pipeline.rag import ParametricRAG
from prag_core.server.engine import ClosedError, Engine
from prag_core.server.jobs import Job, Jobs
from prag_core.server.served import Served, batches, shares
from prag_core.training.lora_trainer import LoraTrainer

AUGMENTED = 4  # documents that a model writes about before a job looks whether to stop


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
        """Take over a pipeline with its documents; those without adapter get one.

        Args:
            rag: pipeline with parametrizer and store; only the service may use it from now on.
            engine: decodes its answers.
            make_trainer: builds the trained path, when it is first asked for, on a model whose
                hooks nobody else uses (`share_weights`).
            cache_bytes: adapters that are cached, at most.
            observe: called with path and seconds for every adapter made.
        """
        self.rag, self.engine, self.observe = rag, engine, observe
        self.lock = threading.RLock()
        self.cache: LRUCache[str, Adapter] = LRUCache(cache_bytes, lambda adapter: adapter.nbytes)
        # Made when it is first asked for: a warm-up adapter or an augmenter may take minutes.
        self._trainer, self._make_trainer = None, make_trainer
        # One at a time each: the parametrizer, and what reads a question before it is answered.
        self._parametrizing, self._reading = threading.Lock(), threading.Lock()
        self._reader, self._closing = share_weights(rag.base), False
        # Of calls that were cut short, of `prag parametrize`, of another checkpoint's server.
        self._make([d for d in rag.documents.values() if not rag.store.has(self._key(d.id))])
        self.jobs = Jobs(rag.store, self._train)

    def close(self, timeout: float | None = None) -> None:
        """Take nothing more, answer what is there, leave trainings to the next start."""
        self._closing = True
        self.engine.close(timeout)
        self.jobs.close(timeout)

    def add(self, documents: Sequence[Document], replace: bool = False) -> list[str]:
        """Make adapters for new documents and take them in; returns all ids, in order.

        Args:
            documents: documents; of one that is there already nothing is made again.
            replace: then remove others with the same `source_id`.

        Raises:
            ValueError: an empty document.
        """
        for document in documents:
            if is_blank(document.text):
                problem = f"got an empty document ({document.title or document.id})"
                raise ValueError(f"{problem}, expected text: leave it out")
        with self.lock:
            self.refresh()  # what another process deleted is new
            new = {d.id: d for d in documents if self.adapter_of(d.id) is None}
        self._make(list(new.values()))
        with self.lock:
            # Not those that somebody removed meanwhile; only now, as documents of one request may
            # share a source id (chunks) and must not replace each other.
            if replace and (present := [d for d in documents if d.id in self.rag.documents]):
                self.rag.add_documents(present, parametrize=False, replace=True)
                self._evict()
        return [document.id for document in documents]

    def remove(self, document_id: str) -> bool:
        """Forget a document; say whether it was there. No later request is answered from it."""
        with self.lock:
            self.refresh()
            if document_id not in self.rag.documents:
                return False
            self.rag.remove_documents([document_id])
            self._evict()  # memory forgets it too
            return True

    def get(self, document_id: str) -> tuple[Document, Served] | None:
        """Return a document and what the store has of its adapter, None where there is none."""
        with self.lock:
            self.refresh()
            # Another process may have added the document, and make its adapter only now.
            served = self.adapter_of(document_id)
            return None if served is None else (self.rag.documents[document_id], served)

    def list(self, limit: int, after: str = "") -> list[tuple[Document, Served]]:
        """Return documents in order of their ids, those behind `after`."""
        with self.lock:
            self.refresh()
            # By id, which additions and removals meanwhile leave in order.
            ids = sorted(i for i in self.rag.documents if i > after)
            entries = ((self.rag.documents[i], self.adapter_of(i)) for i in ids)
            return list(islice((entry for entry in entries if entry[1] is not None), limit))

    def train(self, document_ids: Sequence[str]) -> Job:
        """Queue the training of documents; until it is done their present adapters serve."""
        return self.jobs.add(tuple(document_ids))

    def adapter(self, document_id: str) -> Adapter:
        """Return a document's adapter.

        Raises:
            ValueError: an unknown document, or one without adapter.
        """
        with self.lock:
            self.rag.require([document_id])
            served = self.adapter_of(document_id)
            return self.rag.adapter(document_id) if served is None else self._load(served.key)

    def adapter_of(self, document_id: str) -> Served | None:
        """Return what the store has of the adapter that a document is answered from.

        That is the newest one trained for this base model, or else the one that the service's own
        parametrizer makes. None where there is neither, or no such document.
        """
        if document_id not in self.rag.documents:
            return None
        rows = [Served.from_row(row) for row in self.rag.store.rows(document_id)]
        base, own = self.rag.base.fingerprint, self._key(document_id)
        trained = [row for row in rows if (row.path, row.base_model) == ("trained", base)]
        generated = [row for row in rows if row.key == own]
        return max(trained or generated, key=lambda row: row.created, default=None)

    def prepare(
        self,
        question: Question,
        mode: str,
        k: int,
        document_ids: Sequence[str] | None = None,
        weighting: str | None = None,
        among: Sequence[str] | None = None,
        path: str | None = None,
        where: Mapping[str, object] | None = None,
        least_relevance: float | None = None,
        generation: GenerationOptions | None = None,
    ) -> Prepared:
        """Return a request's prompt, merged adapter and documents.

        Args:
            question: a question, a conversation, or a text to go on from as it is.
            mode: see `modes.MODES`; without documents every mode is `closed_book`.
            k: documents that the retriever finds.
            document_ids: documents to use instead.
            weighting: see `merge.merge_weights`; None: as the pipeline was set up.
            among: the only documents that the retriever may find.
            path: `trained` or `generated`: which of a document's adapters; None: the newest.
            where: metadata that documents need for the retriever to find them.
            least_relevance: see `AnswerOptions`; None: as the pipeline was set up.
            generation: decoding options, for whose answer the prompt leaves room.

        Raises:
            ValueError: an unknown mode, document or weighting, or no adapter of this path.
        """
        named = None if document_ids is None else [list(dict.fromkeys(document_ids))]
        with self.lock:  # so that no document is removed in between
            self.refresh()
            if not self.rag.documents and not document_ids:
                mode = "closed_book"
            (hits,) = self.rag.hits([question], mode, k, named, where=where, among=among)
            # Another process may have added a document whose adapter it still makes.
            served = {hit.document_id: self.adapter_of(hit.document_id) for hit in hits}
            hits = [hit for hit in hits if served[hit.document_id]]
            documents = {hit.document_id: self.rag.document(hit.document_id) for hit in hits}
            adapters: dict[str, Adapter] = {}
            if find_mode(mode).adapters:
                keys = self._mergeable({i: served[i] for i in documents}, path)
                adapters = {i: self._load(key) for i, key in keys.items()}
        given = {"merge_weights": weighting, "least_relevance": least_relevance}
        given = {name: value for name, value in given.items() if value is not None}
        # Outside the lock: a merge must not hold up those who add and remove documents.
        answerer = Answerer(
            self._reader,
            documents.__getitem__,
            adapters.__getitem__,
            generation=generation or self.rag.generation,
            options=replace(self.rag.options, **given),
            run=self._read,
        )
        return answerer.prepare([question], [hits], mode)[0]

    def _read(self, work: Callable[[], Any]) -> Any:
        with self._reading:
            return work()

    def refresh(self) -> None:
        """Take notice of what other processes did to the store; call it with the lock.

        A document that one of them added is served from when it has an adapter.
        """
        if self.rag.refresh():
            self._evict()

    def _evict(self) -> None:
        """Drop the cached adapters of documents that are gone."""
        for key in [key for key in self.cache if key.partition("-")[0] not in self.rag.documents]:
            del self.cache[key]

    def _key(self, document_id: str) -> str:
        """Return the key of the adapter that the service's own parametrizer makes."""
        parametrizer = self.rag.parametrizer
        return adapter_key(document_id, parametrizer.spec, parametrizer.fingerprint)

    def _mergeable(self, served: Mapping[str, Served], path: str | None) -> dict[str, str]:
        """Return the keys of documents' adapters: trained ones where all of them are trained.

        Trained and generated adapters have different modules and are not merged with each other.
        """
        untrained = [i for i, adapter in served.items() if adapter.path != "trained"]
        if path == "trained" and untrained:
            problem = f"got documents without trained adapters, {untrained[:3]}"
            raise ValueError(f"{problem}, expected trained ones: train them with POST /v1/jobs")
        if path == "generated" or (untrained and len(untrained) < len(served)):
            return {i: self._key(i) for i in served}
        return {i: adapter.key for i, adapter in served.items()}

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
        """Make adapters batch by batch; a batch is kept before the next."""
        parametrizer = self.rag.parametrizer
        for batch in batches(documents, parametrizer.batch_size):
            if self._closing:
                raise ClosedError("got documents after the end, expected none: start it again")
            with self._parametrizing:
                began = time.perf_counter()
                adapters = parametrizer.parametrize(batch)
                seconds = time.perf_counter() - began
            self._keep(batch, adapters, parametrizer, seconds)

    def _keep(self, documents, adapters, parametrizer, seconds: float) -> None:
        """Store documents and adapters, which took so long; a failing store keeps neither."""
        seconds /= len(documents)
        note = {"seconds": f"{seconds:.4f}", "created": str(int(time.time()))}
        items = {}
        for document, adapter in zip(documents, adapters, strict=True):
            key = adapter_key(document.id, parametrizer.spec, parametrizer.fingerprint)
            items[key] = replace(adapter, metadata={**adapter.metadata, **note})
            self.observe(adapter.metadata.get("path", ""), seconds)
        with self.lock:
            self.refresh()  # another process may have deleted one that was there
            new = [d.id for d in documents if d.id not in self.rag.documents]
            try:
                # The document first: where the process ends in between, the next start makes what
                # is missing, while an adapter without document would never be found again.
                self.rag.add_documents(documents, parametrize=False)
                self.rag.store.put_many(items)
            except Exception as error:
                self.rag.remove_documents(i for i in new if i in self.rag.documents)
                if isinstance(error, ValueError):  # not what the client sent
                    raise RuntimeError("got a store that takes no adapters") from error
                raise
            for key in items:  # trained again, it has the same key
                self.cache.pop(key, None)

    def _train(self, document_ids: tuple[str, ...]) -> Generator[float, None, None]:
        """Train documents batch by batch; those removed meanwhile are left out."""
        if self._trainer is None:
            self._trainer = self._make_trainer()
        trainer, count = self._trainer, len(document_ids)
        for start in range(0, count, trainer.batch_size):
            with self.lock:
                ids = document_ids[start : start + trainer.batch_size]
                batch = [self.rag.documents[i] for i in ids if i in self.rag.documents]
            if not batch:
                continue
            began = time.perf_counter()
            augmented = []
            for first in range(0, len(batch), AUGMENTED):
                augmented += trainer.augmenter.augment(batch[first : first + AUGMENTED])
                yield start / count
            with self.lock:  # of a document removed meanwhile nothing may stay
                if gone := [i for i in ids if i not in self.rag.documents]:
                    self.rag.forget(gone)
            steps = trainer.train_steps(augmented)
            results = yield from shares(steps, start / count, len(batch) / count)
            seconds = time.perf_counter() - began
            with self.lock:
                pairs = zip(batch, results, strict=True)
                present = [(d, adapter) for d, (adapter, _) in pairs if d.id in self.rag.documents]
                if present:
                    self._keep(*zip(*present, strict=True), trainer, seconds)
