"""Service: what a server does with documents and requests, for many threads at once.

A document is there once its text is stored, until it is removed; one without adapter (none could be
made, or it cannot be read) takes no part in the modes that need it, and never blocks the others.
Several services may share a store: each sees what the others do at its next call. Answers are
decoded by one `Engine`; adapters are made and documents trained beside it, on models that share its
weights, so that no token waits for them. All state goes through one lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cachetools import LRUCache

from prag_core.adapters.adapter import Adapter, Parametrizer, adapter_key
from prag_core.adapters.store_places import Row, runs
from prag_core.corpus.characters import is_blank
from prag_core.corpus.chunking import whole_id
from prag_core.corpus.documents import Document
from prag_core.model.base_model import share_weights
from prag_core.model.options import GenerationOptions
from prag_core.model.prompts import Question
from prag_core.pipeline.answerer import Answerer, Prepared
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.modes import find_mode, gates_passages
from prag_core.pipeline.rag import ParametricRAG, parametrized, require_made
from prag_core.retrieval.retriever import Hit
from prag_core.server.engine import AnsweringEngine, ClosedError
from prag_core.server.jobs import Job, Jobs, clear_message
from prag_core.training.loop import relayed
from prag_core.training.lora_trainer import LoraTrainer

BATCH_CHARACTERS = 16_000  # made, and kept, at one time


@dataclass(frozen=True)
class Served:
    """A document's adapter in the service.

    Attributes:
        key: of the adapter in the store.
        path: who made it: `generated` or `trained`.
        base_model: fingerprint of the base model that it belongs to.
        bytes: size of its files.
        seconds: that making it took, the share of its batch; 0 where another command made it.
        created: seconds since 1970; 0 where another command made it.
        problem: why a document has no adapter that can be read; the other fields are empty then.
    """

    key: str = ""
    path: str = ""
    base_model: str = ""
    bytes: int = 0
    seconds: float = 0.0
    created: int = 0
    problem: str = ""

    @classmethod
    def from_row(cls, row: Row) -> Served:
        """Read what the store's index has of an adapter."""
        base_model, note = row.spec["base_model"], row.metadata
        # An adapter's metadata are strings; the service writes the last two (`Service._keep`).
        seconds, created = float(note.get("seconds", 0)), int(note.get("created", 0))
        return cls(row.key, note.get("path", ""), base_model, row.bytes, seconds, created)


log = logging.getLogger(__name__)
AUGMENTED = 4  # documents that a model writes about before a job looks whether to stop
TELL_EVERY = 60.0  # seconds between two log lines of a start that makes many adapters


class StoreError(Exception):
    """The store cannot be used as it is, which is no fault of a request."""


@contextmanager
def _usable_store() -> Iterator[None]:
    """Let the store's ValueErrors be told from those that a client reads, who gets no paths."""
    try:
        yield
    except ValueError as error:
        problem = f"got a store that cannot be used ({error}), expected a sound one"
        raise StoreError(f"{problem}: see `prag store verify`") from error


class Service:
    """Adds and removes documents while questions are answered from them."""

    def __init__(
        self,
        rag: ParametricRAG,
        engine: AnsweringEngine,
        make_trainer: Callable[[], LoraTrainer],
        cache_bytes: int = 1 << 30,
        observe: Callable[[str, float], None] = lambda path, seconds: None,
    ) -> None:
        """Take over a pipeline with its documents; those without adapter get one, or are logged.

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
        # Why documents have no adapter, or one cannot be read: by document, by adapter.
        self._problems: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._make_missing()
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
            ValueError: an empty document; documents that no adapter can be made of: the others are
                there.
        """
        for document in documents:
            if is_blank(document.text):
                problem = f"got an empty document ({document.title or document.id})"
                raise ValueError(f"{problem}, expected text: leave it out")
        with self.lock:
            self.refresh()  # what another process deleted is new
            # Beside a trained one, too: it is merged with those that have no trained one.
            new = {d.id: d for d in documents if self.adapter_of(d.id, "generated") is None}
        failures = self._make(list(new.values()))
        with self.lock:
            self.refresh()
            # Not those that somebody removed meanwhile; only now, as documents of one request may
            # share a source id (chunks) and must not replace each other.
            if replace and (present := [d for d in documents if d.id in self.rag.documents]):
                with _usable_store():
                    self.rag.add_documents(present, parametrize=False, replace=True)
                self._evict()
        require_made(failures, len(documents))
        return [document.id for document in documents]

    def remove(self, document_id: str) -> bool:
        """Forget a document; say whether it was there. No later request is answered from it.

        The id of one that was cut into chunks stands for its chunks.
        """
        with self.lock:
            self.refresh()
            if not any(document_id in (i, whole_id(d)) for i, d in self.rag.documents.items()):
                return False
            with _usable_store():
                self.rag.remove_documents([document_id])
            self._evict()  # memory forgets it too
            return True

    def get(self, document_id: str) -> tuple[Document, Served] | None:
        """Return a document and its adapter, or that one's problem; None for an unknown id."""
        with self.lock:
            self.refresh()
            return self._entry(document_id) if document_id in self.rag.documents else None

    def list(self, limit: int, after: str = "") -> list[tuple[Document, Served]]:
        """Return documents in order of their ids, those behind `after`."""
        with self.lock:
            self.refresh()
            # By id, which additions and removals meanwhile leave in order.
            ids = sorted(i for i in self.rag.documents if i > after)
            return [self._entry(i) for i in ids[:limit]]

    def _entry(self, document_id: str) -> tuple[Document, Served]:
        served = self.adapter_of(document_id)
        if served is None:  # another process may be making it
            keys = [key for key in self._unreadable if key.startswith(document_id)]
            problem = self._unreadable[keys[0]] if keys else self._problems.get(document_id, "")
            served = Served(problem=problem or "no adapter was made: add the document again")
        return self.rag.documents[document_id], served

    def _lacking(self, document_id: str, path: str | None) -> str:
        """Say that a document has no adapter, of this path where one is asked for, and why."""
        _, served = self._entry(document_id)
        unreadable = self._unreadable.get(self._key(document_id))
        reason = served.problem or unreadable or self._problems.get(document_id)
        kind = f"{path} adapter" if path else "adapter"
        return (
            f"got document {document_id}, which has no {kind} ({reason or 'a trained one alone'}), "
            "expected one: leave it out, add it again, or ask with another path or mode"
        )

    def notes(self, document: Document) -> list[str]:
        """Say what a client should know of a document that it adds."""
        most = getattr(self.rag.parametrizer, "max_tokens", 0)
        text = document.text[: 32 * (most or 0)]  # enough to see that it is longer
        if not most or (count := len(self.rag.base.tokenizer(text)["input_ids"])) <= most:
            return []
        more = " or more" if len(text) < len(document.text) else ""
        return [
            f"got a text of {count}{more} tokens in one adapter, expected at most {most}: details "
            "may be answered wrongly; send it as several documents (`prag parametrize` cuts texts "
            "by itself, see --chunk_tokens)"
        ]

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

    def adapter_of(self, document_id: str, path: str | None = None) -> Served | None:
        """Return what the store has of the adapter that a document is answered from.

        That is one trained for this base model, of several the last that a server trained (commands
        note no time), or else the one that the service's own parametrizer makes, the only one of
        the path `generated`. None where there is neither that can be read, or no such document.
        """
        if document_id not in self.rag.documents:
            return None
        with _usable_store():
            stored = list(self.rag.store.rows(document_id))
        rows = [Served.from_row(row) for row in stored if row.key not in self._unreadable]
        base, own = self.rag.base.fingerprint, self._key(document_id)
        trained = [row for row in rows if (row.path, row.base_model) == ("trained", base)]
        generated = [row for row in rows if row.key == own]
        if path == "generated":
            trained = []
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
        abstain: bool | None = None,
    ) -> Prepared:
        """Return a request's prompt, merged adapter and documents.

        Args:
            question: a question, a conversation, or a text to go on from as it is.
            mode: see `modes.MODES`; without documents every mode answers as `closed_book`.
            k: documents that the retriever finds.
            document_ids: documents to use instead.
            weighting: see `merge.merge_weights`; None: as the pipeline was set up.
            among: the only documents that the retriever may find.
            path: `trained` or `generated`: which of the documents' adapters; None: trained ones
                where all are trained, and by one training, else generated ones: a document that
                has none takes no place. Where none has one, those of the best hit's training.
            where: metadata that documents need for the retriever to find them.
            least_relevance: see `AnswerOptions`; None: as the pipeline was set up.
            generation: decoding options, for whose answer the prompt leaves room.
            abstain: see `AnswerOptions`; None: as the pipeline was set up.

        Raises:
            ValueError: an unknown mode, document or weighting, or no adapter of this path.
        """
        named = None if document_ids is None else [document_ids]
        given = {
            "merge_weights": weighting, "least_relevance": least_relevance, "abstain": abstain
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        options = replace(self.rag.options, **given)
        with self.lock:  # so that no document is removed in between
            self.refresh()
            empty = not self.rag.documents and not document_ids
            searched = "closed_book" if empty else mode
            how = find_mode(searched)
            gated = gates_passages(how, options)
            needed = how.needs_adapters or gated
            take = partial(self._hits, question, searched, k, named, where, among, options, needed)
            adapters: dict[str, Adapter] | None = None
            while adapters is None:  # again where one cannot be read: it is left out then
                hits, chosen = take(path), path
                if how.needs_adapters and path is None and self._are_mixed(hits):
                    first = self._made_together(hits)
                    hits, chosen = take("generated"), "generated"
                    if not hits:  # they are of several trainings, and no other is there
                        hits, chosen = first, None
                ids = [hit.document_id for hit in hits]
                adapters = self._adapters(ids, chosen) if how.adapters or gated else {}
            documents = {i: self.rag.document(i) for i in ids}
        # Outside the lock: a merge must not hold up those who add and remove documents.
        answerer = Answerer(
            self._reader,
            documents.__getitem__,
            adapters.__getitem__,
            generation=generation or self.rag.generation,
            options=options,
            run=self._read,
            merge=self.engine.merge,
        )
        return answerer.prepare([question], [hits], mode)[0]

    def _hits(
        self,
        question: Question,
        mode: str,
        k: int,
        named: list[list[str]] | None,
        where: Mapping[str, object] | None,
        among: Sequence[str] | None,
        options: AnswerOptions,
        needed: bool,
        path: str | None,
    ) -> list[Hit]:
        """Return a request's documents; where adapters are needed, those that have one.

        Raises:
            ValueError: a document that was named has none.
        """
        if named is not None or not needed:
            (hits,) = self.rag.hits([question], mode, k, named, None, where, among, options)
            for hit in hits if needed else ():
                if self.adapter_of(hit.document_id, path) is None:
                    raise ValueError(self._lacking(hit.document_id, path))
            return hits
        wide = k
        while True:
            (hits,) = self.rag.retrieve([question], wide, where, among)
            served = [hit for hit in hits if self.adapter_of(hit.document_id, path)]
            if len(served) >= k or len(hits) < wide:
                return served[:k]
            wide *= 2  # those without adapter take no place

    def _are_mixed(self, hits: Sequence[Hit]) -> bool:
        """Say whether documents' adapters are not to be merged: several trainings, or paths.

        Trained and generated adapters have different modules; those of several trainings may differ
        as much, and are merged where `path` asks for them.
        """
        return len({self._maker(hit.document_id) for hit in hits} - {""}) > 1

    def _made_together(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits whose adapters are of the same making as the best one's."""
        makers = [self._maker(hit.document_id) for hit in hits]
        return [hit for hit, maker in zip(hits, makers, strict=True) if maker == makers[0]]

    def _maker(self, document_id: str) -> str:
        """Return what tells who made a document's adapter; empty where it has none."""
        served = self.adapter_of(document_id)
        return served.key.partition("-")[2] if served else ""

    def _adapters(self, document_ids: Sequence[str], path: str | None) -> dict[str, Adapter] | None:
        """Return documents' adapters, which know their keys; None where one cannot be read.

        Raises:
            ValueError: path `trained` for documents that have no trained adapter.
        """
        served = {i: one for i in document_ids if (one := self.adapter_of(i, path))}
        untrained = [i for i, one in served.items() if one.path != "trained"]
        if path == "trained" and untrained:
            problem = f"got documents without trained adapters, {untrained[:3]}"
            raise ValueError(f"{problem}, expected trained ones: train them with POST /v1/jobs")
        try:
            loaded = {i: (one.key, self._load(one.key)) for i, one in served.items()}
        except RuntimeError:
            self.refresh()  # another process may just have removed it
            return None
        return {
            i: replace(adapter, metadata={**adapter.metadata, "key": key})
            for i, (key, adapter) in loaded.items()
        }

    def _read(self, work: Callable[[], Any]) -> Any:
        with self._reading:
            return work()

    def refresh(self) -> None:
        """Take notice of what other processes did to the store; call it with the lock.

        A document that one of them added is served from when it has an adapter.

        Raises:
            StoreError: the store cannot be used.
        """
        with _usable_store():
            changed = self.rag.refresh()
        if changed:
            self._unreadable.clear()  # they may have been made again
            self._evict()

    def _evict(self) -> None:
        """Drop the cached adapters of documents that are gone."""
        for key in [key for key in self.cache if key.partition("-")[0] not in self.rag.documents]:
            del self.cache[key]

    def _key(self, document_id: str, parametrizer: Parametrizer | None = None) -> str:
        """Return the key of the adapter that a parametrizer makes; the service's own by default."""
        parametrizer = parametrizer or self.rag.parametrizer
        return adapter_key(document_id, parametrizer.spec, parametrizer.fingerprint)

    def _load(self, key: str) -> Adapter:
        """Return an adapter from the cache or from the store.

        Raises:
            RuntimeError: the store does not have it, or cannot read it, which is noted.
            OSError: what says nothing of the adapter, as a place that does not answer now.
        """
        # Another process may have made it again under its key: then it lies elsewhere.
        with _usable_store():
            rows = [row for row in self.rag.store.rows(key) if row.key == key]
        name = f"{key} {rows[0].place} {rows[0].start}" if rows else ""
        if name not in self.cache:
            try:
                adapter = self.rag.store.get(key)
            except (ValueError, KeyError, PermissionError) as error:
                self._unreadable[key] = f"the adapter {key} cannot be read: add the document again"
                log.error("adapter %s of document %s cannot be read: %s", key, key[:64], error)
                raise RuntimeError(f"got no adapter {key}, expected it in the store") from error
            if adapter.nbytes > self.cache.maxsize:  # the cache would raise
                return adapter
            self.cache[name] = adapter
        return self.cache[name]

    def _make_missing(self) -> None:
        """Make what calls that were cut short or another checkpoint's server left out."""
        store, told = self.rag.store, time.monotonic()
        missing = [d for d in self.rag.documents.values() if not store.has(self._key(d.id))]
        if not missing:
            return
        count, others = len(self.rag.documents), self._others(missing)
        text = f"{len(missing)} of {count} documents have no generated adapter of these settings"
        text += f" (the store has others: {others})" if others else ""
        remedy = "--hypernet, --hypernet_rank and --hypernet_dtype that made them"
        again = f"; to use the others, end it, and start it with the {remedy}" if others else ""
        if store.readonly:
            log.warning(
                "%s, and the store is read only: they take no part where one is needed%s",
                text,
                again,
            )
            reason = "no adapter was made with these settings, and the store is read only"
            self._problems |= dict.fromkeys((document.id for document in missing), reason)
            return
        log.warning("%s: they are made before the server answers%s", text, again)

        def tell(done: int) -> None:
            nonlocal told
            if time.monotonic() >= told + TELL_EVERY:
                told = time.monotonic()
                log.info("%d of %d documents done", done, len(missing))

        try:
            self._make(missing, new=False, progress=tell)
        except (OSError, RuntimeError, StoreError) as error:  # one that cannot be written, say
            log.error("%d documents may have no adapter: %s", len(missing), error)

    def _others(self, documents: Sequence[Document]) -> str:
        """Say of what settings the generated adapters are that the store has of documents."""
        base = self.rag.base.fingerprint
        kinds = set()
        for document in documents:
            with suppress(ValueError):  # a damaged row
                kinds |= {
                    f"rank {row.spec['rank']} in {row.spec['dtype']}"
                    for row in self.rag.store.rows(document.id)
                    if row.spec["base_model"] == base and row.metadata.get("path") != "trained"
                }
        return ", ".join(sorted(kinds))

    def _make(
        self,
        documents: Sequence[Document],
        new: bool = True,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Make adapters batch by batch; a batch is kept, and counted, before the next.

        Returns what is wrong with those that none can be made of.
        """
        parametrizer, failures, done = self.rag.parametrizer, [], 0
        # By characters too, because a batch is lost when the server ends before it is kept.
        most = parametrizer.batch_size, BATCH_CHARACTERS
        for batch in runs(documents, lambda document: len(document.text), *most):
            if self._closing:
                raise ClosedError("got documents after the end, expected none: start it again")
            before = len(failures)
            with self._parametrizing:
                began = time.perf_counter()
                pairs = list(parametrized(parametrizer, batch, failures))
                seconds = time.perf_counter() - began
            for failure in failures[before:]:
                log.error("no adapter can be made of a document: %s", failure)
            if len(failures) > before:
                made = {document.id for document, _ in pairs}
                lacking = [document.id for document in batch if document.id not in made]
                self._problems |= zip(lacking, failures[before:], strict=True)
            if pairs:
                self._keep(*zip(*pairs, strict=True), parametrizer, seconds, new)
            done += len(batch)
            progress(done)
        return failures

    def _keep(self, documents, adapters, parametrizer, seconds: float, new: bool = True) -> None:
        """Store documents and adapters, which took so long; neither where a store or index fails.

        Without `new` those that somebody removed meanwhile stay removed.
        """
        seconds /= len(documents)
        note = {"seconds": f"{seconds:.4f}", "created": str(int(time.time()))}
        items = {}
        for document, adapter in zip(documents, adapters, strict=True):
            key = self._key(document.id, parametrizer)
            items[key] = replace(adapter, metadata={**adapter.metadata, **note})
            self.observe(adapter.metadata.get("path", ""), seconds)
        with self.lock:
            self.refresh()  # another process may have deleted one that was there
            absent = {d.id for d in documents if d.id not in self.rag.documents}
            if not new:
                documents = [document for document in documents if document.id not in absent]
                items = {k: x for k, x in items.items() if k.partition("-")[0] not in absent}
                absent = set()
            if not documents:
                return
            try:
                # The document first: where the process ends in between, the next start makes what
                # is missing, while an adapter without document would never be found again.
                self.rag.add_documents(documents, parametrize=False)
                self.rag.store.put_many(items)
            except Exception as error:
                self.rag.take_back(absent)
                if isinstance(error, ValueError):  # not what the client sent
                    raise RuntimeError("got a store that takes no adapters") from error
                raise
            for key in items:
                self._unreadable.pop(key, None)

    def _train(
        self, document_ids: tuple[str, ...], since: int
    ) -> Generator[float, None, dict[str, str]]:
        """Train documents batch by batch; those removed meanwhile are left out.

        So are those that this trainer trained after `since`, in seconds since 1970: before the
        server that was to do it ended, say. Returns why documents could not be trained, by their
        ids.
        """
        if self._trainer is None:
            self._trainer = self._make_trainer()
        left = [i for i in document_ids if not self._trained_after(i, since)]
        count, failures = len(document_ids), dict[str, str]()
        for start in range(0, len(left), self._trainer.batch_size):
            ids = left[start : start + self._trainer.batch_size]
            before = (count - len(left) + start) / count
            try:
                yield from self._train_batch(ids, before, len(ids) / count)
            except OSError:  # a full disk, which is no document's fault
                raise
            except Exception as error:
                log.error("documents could not be trained: %s", ids, exc_info=error)
                for document_id in ids:  # one by one: the others are no worse for it
                    try:
                        if len(ids) == 1:
                            raise
                        yield from self._train_batch([document_id], before, 0)
                    except Exception as alone:
                        failures[document_id] = clear_message(alone)
        return failures

    def _trained_after(self, document_id: str, since: int) -> bool:
        """Say whether this trainer's adapter of a document is there and newer than this second."""
        with self.lock:
            served, key = self.adapter_of(document_id), self._key(document_id, self._trainer)
            return served is not None and served.key == key and served.created > since

    def _train_batch(
        self, ids: Sequence[str], before: float, share: float
    ) -> Generator[float, None, None]:
        trainer = self._trainer
        with self.lock:
            self.refresh()
            batch = [self.rag.documents[i] for i in ids if i in self.rag.documents]
        began = time.perf_counter()
        augmented = []
        try:
            for first in range(0, len(batch), AUGMENTED):
                augmented += trainer.augmenter.augment(batch[first : first + AUGMENTED])
                yield before
        finally:  # also where the job is stopped: of a document removed meanwhile nothing may stay
            with self.lock:
                self.refresh()
                if gone := [i for i in ids if i not in self.rag.documents]:
                    self.rag.forget(gone)
        if not batch:
            return
        steps = trainer.train_steps(augmented)  # each (done, all) becomes a share of the whole job
        results = yield from relayed(steps, lambda step: before + share * step[0] / step[1])
        adapters = [adapter for adapter, _ in results]
        self._keep(batch, adapters, trainer, time.perf_counter() - began, new=False)
