"""Scores of a checkpoint: a question set goes in, answers in every condition come out.

closed_book     nothing but the question
in_context      the document in the prompt
in_context_rows the document in the prompt, and the rows that all documents share
gold            the document's adapter, no text
shuffled        another document's adapter
combine         the document's adapter, and the document in the prompt
gold+K          the document's adapter merged with those of K others, half of them BM25
                neighbours of the document; gold+K:concatenate by the plain sum, gold+K:relative
                weighed by the question's BM25 scores over the best one
rank:R          the document's adapter, reduced to rank R

With `least_relevance` an adapter of full rank is left out where it responds less to the question
(see `prag_core.pipeline.relevance`), as in the pipeline.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.nn.functional import cross_entropy

from hypernet.generation.parametrizer import HypernetParametrizer
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.low_rank import rank_of_own, reduce_rank
from prag_core.adapters.merge import merge, merge_weights
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.assignment import neighbours
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, bootstrap_interval
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.model.generate import generate
from prag_core.model.prompts import question_prompt
from prag_core.pipeline.relevance import is_meant, question_keys
from prag_core.retrieval.bm25 import make_retriever

Asked = Callable[[int, int], bool]  # numbers of a question and a document
MOST_TOKENS = 512  # of an unrelated text
READ_TOKENS = 32  # of it that say whether an adapter is meant; the loss is that of the others
CONDITIONS = (
    "closed_book", "in_context", "in_context_rows", "gold", "shuffled", "combine", "gold+2",
    "gold+9",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Questions about single documents."""

    documents: tuple[Document, ...]
    questions: tuple[tuple[str, tuple[str, ...], int], ...]  # text, golden answers, document


def draw_sample(
    questions: QuestionSet,
    documents: int,
    seed: int = 0,
    most_words: int = 200,
    most_questions: int | None = None,
) -> Sample:
    """Draw documents of at most `most_words` words, with their questions (all, or so many)."""
    fitting = [d for d in questions.documents if len(d.text.split()) <= most_words]
    asked = {q.gold_ids[0] for q in questions.questions if q.gold_ids}
    fitting = [d for d in fitting if d.id in asked]
    chosen = random.Random(seed).sample(fitting, min(documents, len(fitting)))
    place = {document.id: index for index, document in enumerate(chosen)}
    rows = [
        (q.question, q.golden_answers, place[q.gold_ids[0]])
        for q in questions.questions
        if q.gold_ids and q.gold_ids[0] in place
    ]
    if most_questions is not None and len(rows) > most_questions:
        drawn = random.Random(seed).sample(range(len(rows)), most_questions)
        rows = [rows[number] for number in sorted(drawn)]
    return Sample(tuple(chosen), tuple(rows))


class Scorer:
    """Answers a sample in the conditions of this file."""

    def __init__(
        self,
        base: BaseModel,
        parametrizer: HypernetParametrizer,
        options: GenerationOptions | None = None,
        least_relevance: float = 0.0,
    ) -> None:
        """Put the parts together."""
        self.base, self.parametrizer = base, parametrizer
        self.least_relevance = least_relevance
        self.options = options or GenerationOptions()

    def answers(
        self, sample: Sample, conditions: Sequence[str] = CONDITIONS, seed: int = 0
    ) -> dict[str, list[str]]:
        """Return one answer a question in every condition."""
        return dict(self.each(sample, conditions, seed))

    def each(
        self, sample: Sample, conditions: Sequence[str], seed: int = 0
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield a condition's name and answers when it is done."""
        made = self.parametrizer.parametrize(sample.documents)
        own = [adapter.to(device=self.base.device) for adapter in made]
        asked = self._asked([question for question, _, _ in sample.questions], own)
        chosen = {name: _adapters(name, sample, own, seed, asked) for name in conditions}
        for name, adapter_of in chosen.items():
            yield name, self._answers(name, sample, adapter_of)

    def _asked(self, questions: Sequence[str], own: Sequence[Adapter]) -> Asked:
        """Return what tells, by numbers, whether a question is meant for a document."""
        if self.least_relevance <= 0:
            return lambda number, place: True
        keys = question_keys(self.base, questions, own[0].spec.layers[0])
        return lambda number, place: is_meant(own[place], keys[number], self.least_relevance)

    def _answers(
        self, condition: str, sample: Sample, adapter_of: Callable[[int], Adapter | None]
    ) -> list[str]:
        reads = condition.startswith(("in_context", "combine"))
        answers: list[str] = []
        for start in range(0, len(sample.questions), self.options.batch_size):
            part = sample.questions[start : start + self.options.batch_size]
            prompts = [
                question_prompt(
                    self.base.tokenizer, question, [sample.documents[d]] if reads else ()
                )
                for question, _, d in part
            ]
            adapters = [adapter_of(start + index) for index in range(len(part))]
            answers += generate(self.base, prompts, adapters, self.options)
        return answers

    def unrelated_nll(
        self, texts: Sequence[str], adapters: Sequence[Adapter | None]
    ) -> tuple[list[float], int]:
        """Return the NLL of every text, each with an adapter (or none) attached, and all tokens.

        Of a text the first 512 tokens are read; those behind the first 32 count, which say whether
        the adapter is meant.
        """
        tokenizer, totals, count = self.base.tokenizer, [], 0
        for text, adapter in zip(texts, adapters, strict=True):
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            ids = ids[:, :MOST_TOKENS].to(self.base.device)
            first = min(READ_TOKENS, ids.shape[1] // 2)
            begin = tokenizer.decode(ids[0, :first])
            if adapter is not None and not self._asked([begin], [adapter])(0, 0):
                adapter = None
            with torch.no_grad(), attached(self.base, adapter):
                logits = self.base.model(input_ids=ids).logits[0, first - 1 : -1]
            totals.append(
                cross_entropy(logits.float(), ids[0, first:], reduction="none").sum().item()
            )
            count += ids.shape[1] - first
        return totals, count


def _adapters(
    condition: str, sample: Sample, own: list[Adapter], seed: int, asked: Asked
) -> Callable[[int], Adapter | None]:
    """Return what gives the adapter of a question, by its number.

    Raises:
        ValueError: no other document for `shuffled`, or an unknown condition.
    """
    places = [d for _, _, d in sample.questions]
    if condition in ("closed_book", "in_context"):
        return lambda number: None
    if condition == "in_context_rows":
        rows = shared_rows(own[0])
        return lambda number: rows
    if condition in ("gold", "combine", "shuffled"):
        shift = len(own) // 2 if condition == "shuffled" else 0
        if len(own) < 2 and condition == "shuffled":
            raise ValueError("got 1 document, expected 2 or more: shuffled takes another's adapter")

        def single(number: int) -> Adapter | None:
            place = (places[number] + shift) % len(own)
            return own[place] if asked(number, place) else None

        return single
    if condition.startswith("rank:") and condition[5:].isdigit():
        rank = int(condition[5:])
        rank_of_own(rank, own[0].shared_rows)

        @lru_cache(1)
        def reduced(place: int) -> Adapter:
            return reduce_rank(own[place], rank)

        return lambda number: reduced(places[number])
    return _groups(condition, sample, own, seed, asked)


def _groups(
    condition: str, sample: Sample, own: list[Adapter], seed: int, asked: Asked
) -> Callable[[int], Adapter | None]:
    """Return what gives a question's document merged with others (see `_adapters`)."""
    count, _, method = condition.removeprefix("gold+").partition(":")
    if not condition.startswith("gold+") or not count.isdigit():
        raise ValueError(
            f"got condition {condition!r}, expected one of {', '.join(CONDITIONS)}, "
            "gold+K:relative, gold+K:concatenate or rank:R"
        )
    others = neighbours(sample.documents, int(count), seed)
    relative = method == "relative"
    retriever = make_retriever("auto", sample.documents) if relative else None

    @lru_cache(1)  # a document's questions follow each other
    def merged(group: tuple[int, ...], weights: tuple[float, ...] | None) -> Adapter:
        how = "auto" if relative else method or "auto"
        return merge([own[place] for place in group], weights, how)

    def of(number: int) -> Adapter | None:
        place = sample.questions[number][2]
        group = tuple(p for p in (place, *others[place]) if asked(number, p))
        if not group:
            return None
        if not relative:
            return merged(group, None)
        (hits,) = retriever.retrieve([sample.questions[number][0]], len(own))
        scores = {hit.document_id: hit.score for hit in hits}
        found = [scores.get(sample.documents[member].id, 0.0) for member in group]
        return merged(group, tuple(merge_weights(method, found)))

    return of


def shared_rows(adapter: Adapter) -> Adapter:
    """Return the adapter without the document's rows: the answer's format alone.

    Raises:
        ValueError: a head without shared rows.
    """
    if not adapter.shared_rows:
        raise ValueError("got a head without shared rows, expected ridge for in_context_rows")
    tensors = {path: adapter.split(path)[1] for path in adapter.tensors}
    return replace(adapter, tensors=tensors, memory=None, shared_rows=0)


def table(sample: Sample, answers: dict[str, list[str]]) -> dict[str, dict]:
    """Return [mean, low, high] of containment, exact match and F1 by condition (95 %)."""
    result = {}
    for condition, texts in answers.items():
        scores = [
            score_answer(text, golden)
            for text, (_, golden, _) in zip(texts, sample.questions, strict=True)
        ]
        row = {}
        for metric in ("containment", "exact_match", "f1"):
            values = [getattr(score, metric) for score in scores]
            enough = len(values) >= SMALLEST_SAMPLE
            low, high = bootstrap_interval(values) if enough else (math.nan, math.nan)
            row[metric] = [round(v, 4) for v in (sum(values) / len(values), low, high)]
        result[condition] = row
    return result
