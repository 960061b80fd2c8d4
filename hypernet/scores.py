"""Scores of a checkpoint: a question set goes in, answers in every condition come out.

closed_book     nothing but the question
in_context      the document in the prompt
in_context_rows the document in the prompt, and the rows that all documents share
gold            the document's adapter, no text
shuffled        another document's adapter
combine         the document's adapter, and the document in the prompt
gold+K          the document's adapter merged with those of K others, half of them BM25
                neighbours of the document; gold+K:concatenate by the plain sum
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hypernet.parametrizer import HypernetParametrizer
from prag_core.adapter import Adapter
from prag_core.assignment import neighbours
from prag_core.attach import attached
from prag_core.datasets import QuestionSet
from prag_core.decoding_rows import GenerationOptions
from prag_core.documents import Document
from prag_core.generate import generate
from prag_core.merge import merge
from prag_core.metrics import SMALLEST_SAMPLE, bootstrap_interval, score_answer
from prag_core.models import BaseModel
from prag_core.prompts import question_prompt

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
    questions: QuestionSet, documents: int, seed: int = 0, most_words: int = 200
) -> Sample:
    """Draw documents of at most `most_words` words, with all their questions."""
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
    return Sample(tuple(chosen), tuple(rows))


class Scorer:
    """Answers a sample in the conditions of this file."""

    def __init__(
        self,
        base: BaseModel,
        parametrizer: HypernetParametrizer,
        options: GenerationOptions | None = None,
    ) -> None:
        """Put the parts together."""
        self.base, self.parametrizer = base, parametrizer
        self.options = options or GenerationOptions()

    def answers(
        self, sample: Sample, conditions: Sequence[str] = CONDITIONS, seed: int = 0
    ) -> dict[str, list[str]]:
        """Return one answer a question in every condition."""
        made = self.parametrizer.parametrize(sample.documents)
        own = [adapter.to(device=self.base.device) for adapter in made]
        answers = {}
        for condition in conditions:
            adapters = self._adapters(condition, sample, own, seed)
            texts = condition.startswith(("in_context", "combine"))
            prompts = [
                question_prompt(
                    self.base.tokenizer, question, [sample.documents[d]] if texts else ()
                )
                for question, _, d in sample.questions
            ]
            answers[condition] = generate(self.base, prompts, adapters, self.options)
        return answers

    def _adapters(self, condition: str, sample: Sample, own: list[Adapter], seed: int):
        places = [d for _, _, d in sample.questions]
        if condition in ("closed_book", "in_context"):
            return None
        if condition == "in_context_rows":
            return shared_rows(own[0])
        if condition == "shuffled":
            return [own[(d + len(own) // 2) % len(own)] for d in places]
        if condition in ("gold", "combine"):
            return [own[d] for d in places]
        count, _, method = condition.removeprefix("gold+").partition(":")
        others = neighbours(sample.documents, int(count), seed)
        merged = {
            d: merge([own[d], *(own[o] for o in others[d])], method=method or "auto")
            for d in sorted(set(places))
        }
        return [merged[d] for d in places]

    def unrelated_nll(self, texts: Sequence[str], adapters: Sequence[Adapter | None]) -> float:
        """Return the mean NLL a token of plain texts, each with an adapter (or none) attached."""
        tokenizer, total, count = self.base.tokenizer, 0.0, 0
        for text, adapter in zip(texts, adapters, strict=True):
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            ids = ids.to(self.base.device)
            with torch.no_grad(), attached(self.base, adapter):
                logits = self.base.model(input_ids=ids).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
        return total / count


def shared_rows(adapter: Adapter) -> Adapter:
    """Return the adapter without the document's rows: the answer's format alone."""
    count = int(adapter.extra["shared_rows"])
    tensors = {
        path: (a[a.shape[0] - count :], b[:, b.shape[1] - count :])
        for path, (a, b) in adapter.tensors.items()
    }
    return replace(adapter, tensors=tensors, extra={})


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
