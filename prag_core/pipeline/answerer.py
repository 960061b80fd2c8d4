"""Answerer: questions with their documents go in, answers come out; the one way from one to other.

    documents -> passages -> prompt;  documents -> adapters -> merge;  prompt, adapter -> Answer

Nobody else merges adapters for a question, writes its prompt and generates. `prepare` ends before
the model decodes, for callers that decode themselves (the server's batch engine, timings).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import merge, merge_weights
from prag_core.augmentation.augmented import Augmenter, augmented_passage
from prag_core.corpus.documents import Document
from prag_core.model import prompts
from prag_core.model.base_model import BaseModel
from prag_core.model.fitting import fit_prompt
from prag_core.model.generate import generate
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import Prefix, kept_prefix
from prag_core.model.wordings import (
    CONVERSATION,
    DEFAULT,
    Wording,
    find_wording,
    reading_wording,
    without_date,
)
from prag_core.pipeline.answers import ABSTENTION, AUTO, Answer, AnswerOptions, Source
from prag_core.pipeline.modes import Mode, find_mode, gates_passages, require_one_passage
from prag_core.pipeline.relevance import (
    Keys,
    focused,
    looking_layers,
    question_keys,
    relevant_hits,
)
from prag_core.pipeline.search_text import search_text
from prag_core.retrieval.retriever import Hit

MERGED_BATCHES = 4  # batches of questions whose merged adapters are in memory at one time

log = logging.getLogger(__name__)
# The merged adapter (None: none), what it was made from, and who made it.
Attached = tuple[Adapter | None, tuple[Source, ...], str]
Hits = Sequence[Sequence[Hit]]  # documents of every question, with their scores


@dataclass(frozen=True)
class Prepared:
    """A question ready to be decoded.

    Attributes:
        question: its text.
        prompt: the whole prompt, special tokens included.
        adapter: to attach; None for the base model as it is.
        documents: what it was made from.
        path: who made the adapters.
        prompt_id: see `prompts.prompt_id`.
        wording: what the answer is taken out of the model's text by.
        notes: see `Answer`.
        error: why the prompt cannot be decoded: the question is too long for the context.
        answer: what is said without decoding: that the answer is not known; else empty.
        prefix: keys and values of the prompt's beginning, where they were kept.
    """

    question: str
    prompt: str
    adapter: Adapter | None = None
    documents: tuple[Source, ...] = ()
    path: str = ""
    prompt_id: str = ""
    wording: Wording = DEFAULT
    notes: tuple[str, ...] = ()
    error: str = ""
    answer: str = ""
    prefix: Prefix | None = None


def _no_reader() -> Adapter:
    raise ValueError("got no adapter for mode reader, expected one: pass reader=")


def _no_corpus_adapter() -> Adapter:
    raise ValueError("got no adapter of the whole corpus, expected one for mode sft: train one")


@dataclass(frozen=True)
class Answerer:
    """Answers questions from documents that are given with them.

    Attributes:
        base: frozen base model.
        document: returns a document by its id.
        adapter: returns a document's adapter by its id.
        corpus_adapter: returns the one adapter of the whole corpus, for mode `sft`.
        augmenter: writes what `da_rag` adds to passages.
        generation: decoding options.
        options: prompt and merging, unless a call brings its own.
        run: runs a function that uses the model, where another thread owns it.
        reader: returns the adapter that mode `reader` attaches.
        kept: folder of passages' keys and values, for mode `kv_cache`; None: they are not kept.
        merge: makes one adapter of several, their weights and the method.
    """

    base: BaseModel
    document: Callable[[str], Document]
    adapter: Callable[[str], Adapter]
    corpus_adapter: Callable[[], Adapter] = _no_corpus_adapter
    augmenter: Augmenter | None = None
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    options: AnswerOptions = field(default_factory=AnswerOptions)
    run: Callable[[Callable[[], Any]], Any] = lambda work: work()
    reader: Callable[[], Adapter] = _no_reader
    kept: Path | None = None
    merge: Callable[[Sequence[Adapter], Sequence[float], str], Adapter] = merge

    def answer(
        self,
        questions: Sequence[prompts.Question],
        hits: Hits,
        mode: str,
        options: AnswerOptions | None = None,
        strict: bool = True,
    ) -> list[Answer]:
        """Answer the questions, in order.

        A question that is too long for the context has a note in place of an answer.

        Args:
            questions: plain questions, or what else `prompts.write_prompt` takes.
            hits: documents of every question, with the scores that a merge may weigh them by.
            mode: name of a mode.
            options: instead of the answerer's own.
            strict: refuse questions none of which the context has room for.

        Raises:
            ValueError: an unknown mode, a document without adapter, a part that is missing, or no
                question that the context has room for.
        """
        options = options or self.options  # an evaluation asks one answerer in several ways
        answers, errors = list[Answer](), list[str]()
        size = MERGED_BATCHES * self.generation.batch_size
        for rows in (slice(i, i + size) for i in range(0, len(questions), size)):
            prepared = self.prepare(questions[rows], hits[rows], mode, options)
            decoded = [p for p in prepared if not (p.error or p.answer)]
            errors += [p.error for p in prepared]
            texts, adapters = [p.prompt for p in decoded], [p.adapter for p in decoded]
            known = [p.prefix for p in decoded]
            answered = iter(generate(self.base, texts, adapters, self.generation, known))
            for p in prepared:
                text = p.answer
                if not (p.error or p.answer):
                    text = p.wording.answer(next(answered))
                notes = (*p.notes, p.error) if p.error else p.notes
                answers.append(
                    Answer(p.question, text, mode, p.documents, p.path, p.prompt_id, notes)
                )
        if strict and errors and all(errors):
            raise ValueError(errors[0])
        return answers

    def prepare(
        self,
        questions: Sequence[prompts.Question],
        hits: Hits,
        mode: str,
        options: AnswerOptions | None = None,
    ) -> list[Prepared]:
        """Write every question's prompt and merge its documents' adapters.

        Passages that the context has no room for are cut (see `fit_prompt`).

        Arguments and errors are those of `answer`.
        """
        options, how = options or self.options, find_mode(mode)
        require_one_passage(how, map(len, hits))
        loaded, meant = self._responding(questions, hits, how, options)
        shown = meant if gates_passages(how, options) else hits
        # One of each a question, whatever the mode: no passages, or None for an adapter.
        adapters, adapted = self._adapters(questions, shown, meant, loaded, how, options)
        prepared = []
        rows = zip(questions, self._passages(shown, how), adapters, hits, shown, strict=True)
        for question, passages, merged, row, left in rows:
            # A text that goes on has no wording: nothing of it is cut off as no answer.
            worded = merged[0] is not None and not isinstance(question, prompts.Continuation)
            wording = adapted if worded else self._wording(question, passages, options)
            prompt = fit_prompt(
                self.base, question, passages, wording, self.generation.max_new_tokens
            )
            text = prompts.plain_question(question)
            asked = prompts.prompt_id(wording, question, self.base.tokenizer)
            notes, error, said = prompt.notes, prompt.error, ""
            if reason := _unmatched(row, left, merged[0], how, options):
                merged, notes, error = (None, (), ""), (f"abstained: {reason}",), ""
                said = ABSTENTION
            prepared.append(
                Prepared(text, prompt.text, *merged, asked, wording, notes, error, said)
            )
        return self._with_prefixes(prepared) if how.kept else prepared

    def keep_passages(
        self, document_ids: Iterable[str], options: AnswerOptions | None = None
    ) -> list[int]:
        """Keep the keys and values of documents' passages, for mode `kv_cache`; return the bytes.

        What is kept already stays. The mode does this by itself, a question at a time.
        """
        wording = self.reading_wording(options)
        unique = dict.fromkeys(document_ids)
        return [self._prefix(identifier, wording).nbytes for identifier in unique]

    def _with_prefixes(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Add what was kept of every question's one passage."""
        kept: dict[tuple[str, str], Prefix] = {}  # questions share documents
        results = []
        for one in prepared:
            if one.documents and not one.answer:
                (source,) = one.documents
                place = source.document_id, one.wording.id
                if place not in kept:
                    kept[place] = self._prefix(source.document_id, one.wording)
                source = replace(source, bytes=kept[place].nbytes)
                one = replace(one, documents=(source,), prefix=kept[place])
            results.append(one)
        return results

    def _prefix(self, document_id: str, wording: Wording) -> Prefix:
        document, room = self.document(document_id), self.generation.max_new_tokens
        return kept_prefix(self.base, self.kept, document, wording, room, self.run)

    def _responding(
        self, questions: Sequence[prompts.Question], hits: Hits, mode: Mode, options: AnswerOptions
    ) -> tuple[dict[str, Adapter], Hits]:
        """Return the documents' adapters, where the mode or its gate needs them, by document id.

        With them every question's documents but those whose adapters do not respond to it.
        """
        if mode.adapters != "documents" and not gates_passages(mode, options):
            return {}, hits
        loaded = {i: self.adapter(i) for i in _ids(hits)}
        if options.least_relevance <= 0:
            return loaded, hits
        texts, least = [search_text(q) for q in questions], options.least_relevance
        meant: Hits = self.run(lambda: relevant_hits(self.base, texts, hits, loaded, least))
        return loaded, meant

    def _wording(
        self, question: prompts.Question, passages: Sequence[Document], options: AnswerOptions
    ) -> Wording:
        """Return what a question is asked in where no adapter is attached."""
        if isinstance(question, prompts.Continuation):
            return CONVERSATION
        if not (passages or isinstance(question, str) or len(question) == 1):
            return CONVERSATION  # about nothing here: it goes on as it is
        return self.reading_wording(options)

    def reading_wording(self, options: AnswerOptions | None = None) -> Wording:
        """Return what questions are asked in where no adapter is attached."""
        options = options or self.options
        if options.prompt != AUTO:
            return find_wording(options.prompt)
        return reading_wording(self.base.fingerprint)

    def adapted_wording(
        self, adapters: Iterable[Adapter], options: AnswerOptions | None = None
    ) -> Wording:
        """Return what questions are asked in where adapters are attached; warn of others."""
        options = options or self.options
        made_for = {adapter.metadata.get("prompt", "") for adapter in adapters} - {""}
        ids = {name: without_date(name) for name in made_for}
        wording = DEFAULT
        if options.prompt != AUTO:
            wording = find_wording(options.prompt)
        else:
            for name in sorted(ids.values()):
                with suppress(ValueError):  # of another version, or a user's own
                    wording = find_wording(name)
        present = prompts.prompt_id(wording, tokenizer=self.base.tokenizer)
        if other := sorted(made_for - {present}):
            log.warning(
                "got adapters made for the prompts %s, expected %s, which questions are asked in: "
                "answers may be worse; parametrize the documents again, or set answering.prompt",
                ", ".join(other),
                present,
            )
        return wording

    def _passages(self, hits: Hits, mode: Mode) -> list[list[Document]]:
        """Return the passages that every question's prompt holds."""
        if not mode.passages:
            return [[] for _ in hits]
        documents = {i: self.document(i) for i in _ids(hits)}  # each augmented once
        if mode.passages == "augmented":
            if self.augmenter is None:
                raise ValueError(
                    "got no augmenter, expected one for mode da_rag: set --path trained, or pass "
                    "augmenter="
                )
            augmented = self.augmenter.augment(list(documents.values()))
            documents = {a.document.id: augmented_passage(a) for a in augmented}
        return [[documents[hit.document_id] for hit in row] for row in hits]

    def _adapters(
        self,
        questions: Sequence[prompts.Question],
        hits: Hits,
        meant: Hits,
        loaded: dict[str, Adapter],
        mode: Mode,
        options: AnswerOptions,
    ) -> tuple[list[Attached], Wording]:
        """Return what is attached for every question, and the wording that it was made for.

        Args:
            questions: as `prepare` takes them.
            hits: every question's documents.
            meant: of these those whose adapters take part (see `_responding`).
            loaded: adapters, of these documents at least.
            mode: how to answer.
            options: of answering.
        """
        if mode.adapters == "documents":
            loaded = {i: loaded[i] for i in _ids(hits)}
            wording = self.adapted_wording(loaded.values(), options)
            rows = self._merged(questions, hits, meant, loaded, options)
            if not mode.passages:  # else those without weight were read all the same
                rows = [(x, tuple(s for s in used if s.weight), p) for x, used, p in rows]
            return rows, wording
        whole: Adapter | None = None  # one adapter for all questions
        if mode.adapters == "corpus":
            whole = self.corpus_adapter()
        elif mode.adapters == "reader":
            whole = self.reader()
        elif mode.adapters == "shared" and (first := next(iter(_ids(hits)), None)) is not None:
            whole = shared_rows(self.adapter(first))  # the same in every document's adapter
        # Without weight: of none of these documents an adapter is attached.
        path = whole.metadata.get("path", "") if whole else ""
        every = mode.adapters == "corpus"  # also a question without documents
        attached: list[Attached] = [
            (whole, tuple(Source(h.document_id, h.score) for h in row), path)
            if row or every
            else (None, (), "")
            for row in hits
        ]
        return attached, self.adapted_wording([whole] if whole else [], options)

    def _looked_up(
        self,
        questions: Sequence[prompts.Question],
        adapters: Iterable[Adapter],
        options: AnswerOptions,
    ) -> Sequence[Keys | None]:
        """Return every question's keys, by which sentences are weighed; None where they are not."""
        layers = {layer for adapter in adapters for layer in looking_layers(adapter)}
        if not (options.focus and layers):
            return [None] * len(questions)
        texts = [search_text(q) for q in questions]
        keys: list[Keys] = self.run(lambda: question_keys(self.base, texts, layers))
        return keys

    def _merged(
        self,
        questions: Sequence[prompts.Question],
        hits: Hits,
        meant: Hits,
        loaded: dict[str, Adapter],
        options: AnswerOptions,
    ) -> list[Attached]:
        """Merge the adapters of every question's documents (see `_adapters`)."""
        if options.rank:  # after relevance, which reads the addresses that a smaller rank has not
            # Of the same modules, as trained adapters may stand beside generated ones.
            of = {i: (a.spec.modules, a.spec.layers) for i, a in loaded.items()}
            known = {of[i]: a.memory.whitening for i, a in loaded.items() if a.memory}
            loaded = {i: reduce_rank(a, options.rank, known.get(of[i])) for i, a in loaded.items()}
        asked = self._looked_up(questions, loaded.values(), options)
        merged: dict[tuple[Source, ...], Adapter] = {}  # questions often share their documents
        results = []
        for row, kept, keys in zip(hits, meant, asked, strict=True):
            shares = merge_weights(options.merge_weights, [hit.score for hit in kept])
            pairs = zip(kept, shares, strict=True)
            used = tuple(Source(h.document_id, h.score, share) for h, share in pairs)
            parts = [loaded[source.document_id] for source in used]
            weights = {source.document_id: source.weight or 0.0 for source in used}
            if keys:  # no two questions weigh sentences alike
                parts, merged = [focused(part, keys, options.focus) for part in parts], {}
            if used and used not in merged:
                merged[used] = self.merge(parts, list(weights.values()), options.merge_method)
            # Of those that were left out the weight is 0.
            sources = (
                Source(
                    h.document_id, h.score, weights.get(h.document_id, 0.0),
                    loaded[h.document_id].stored_bytes,
                )
                for h in row
            )  # fmt: skip
            made_by = {adapter.metadata.get("path", "") for adapter in parts}
            results.append((merged.get(used), tuple(sources), "+".join(sorted(made_by))))
        return results


def shared_rows(adapter: Adapter) -> Adapter:
    """Return an adapter of the last rows alone, which all documents' adapters share.

    Raises:
        ValueError: an adapter without such rows.
    """
    if not adapter.shared_rows:
        raise ValueError(
            "got adapters without shared rows, expected those of a ridge network for "
            "in_context_rows: leave it out, or name another checkpoint"
        )
    return merge([adapter.part("shared")])  # the scale is folded in


def _unmatched(
    hits: Sequence[Hit],
    shown: Sequence[Hit],
    adapter: Adapter | None,
    mode: Mode,
    options: AnswerOptions,
) -> str:
    """Say why a question is not answered where it may not be; empty where it is.

    Args:
        hits: its documents.
        shown: those that a gate leaves.
        adapter: that is attached.
        mode: how it is answered.
        options: of answering.
    """
    if not (options.abstain and mode.needs_documents):
        return ""
    if not hits:
        return "no document matches the question"
    if not shown or (mode.adapters == "documents" and adapter is None):
        return f"no adapter responds to the question by {options.least_relevance} (least_relevance)"
    return ""


def _ids(hits: Hits) -> Iterable[str]:
    """Return the ids of all documents, each once."""
    return dict.fromkeys(hit.document_id for row in hits for hit in row)
