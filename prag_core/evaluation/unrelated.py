"""Unrelated: texts and choices of answers go in, how much adapters change them comes out.

Texts, by their loss: of a corpus, of whose last 4,000 some are drawn, or `package:NAME`, paragraphs
of an installed package's documentation, which is not from Wikipedia and is on every machine already
(docstrings, read without importing it; `numpy` is a dependency of this package, under the BSD
3-Clause licence: 413 paragraphs in 2.4.6).

Choices: general ability, without a benchmark's data, as multiple choice by likelihood. Of four
answers the model chooses the one that it finds most likely per token, closed-book: the golden one,
or one of three golden answers of other questions that are of its kind (see `answer_kinds`). The
adapter is that of a document which does not hold the answer, so that it should make no difference.
Chance is a quarter. It is no published task: it compares a model with itself, and says nothing of
others.
"""

from __future__ import annotations

import ast
import random
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata

import numpy as np

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.documents import Document, iter_documents
from prag_core.corpus.question_sets import load_question_set
from prag_core.corpus.questions import Question
from prag_core.corpus.text_tokens import text_ids
from prag_core.evaluation.answer_kinds import AnswerPool, within
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, Bootstrap, document_groups
from prag_core.model.base_model import BaseModel
from prag_core.model.wordings import DEFAULT, Wording
from prag_core.pipeline.rag import ParametricRAG
from prag_core.pipeline.relevance import is_meant, question_keys
from prag_core.training.loop import mean_nll
from prag_core.training.sequences import TrainingSequence, answer_sequences

POOL = 4000  # texts at the end of a corpus that are drawn from
MOST_TOKENS = 512  # of a text
READ_TOKENS = 32  # of it that say whether an adapter is meant; the loss is that of the others


@dataclass(frozen=True)
class UnrelatedTexts:
    """Texts that no document of the question set is about."""

    texts: tuple[str, ...]
    licence: str = ""  # of a package's, with its version

    def owners(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents whose adapters are attached, one a text."""
        _require_documents(documents)
        return [documents[number % len(documents)] for number in range(len(self.texts))]

    def measure(self, rag: ParametricRAG, documents: Sequence[Document], seed: int) -> dict:
        """Return the loss without adapters, in nats a token, and how many times it is with them.

        Texts are what is resampled; those that meet one document's adapter count as one.
        """
        least = rag.answerer.options.least_relevance
        owners = [document.id for document in self.owners(documents)]
        adapters = [rag.adapter(owner) for owner in owners]
        # Sums, not means: long texts count for more, as their tokens do.
        plain, counts = text_losses(rag.base, self.texts)
        adapted, _ = text_losses(rag.base, self.texts, adapters, least)
        ratio = Bootstrap(owners, seed).ratio(adapted, plain)
        loss = sum(plain) / sum(counts)
        source = {"licence": self.licence} if self.licence else {}
        return {"texts": len(self.texts), "plain": loss, "ratio": asdict(ratio)} | source


def _require_documents(documents: Sequence[Document]) -> None:
    if not documents:
        raise ValueError(
            "got a question set without documents, expected some, with whose adapters what is "
            "unrelated is read: name a set with a corpus, or leave out unrelated"
        )


def draw_unrelated(source: str, count: int, seed: int) -> UnrelatedTexts | Choices:
    """Draw the texts of a source, or for `choices:SET` questions with answers to choose from."""
    kind, _, name = source.partition(":")
    return draw_choices(name, count, seed) if kind == "choices" else draw_texts(source, count, seed)


def draw_texts(source: str, count: int, seed: int) -> UnrelatedTexts:
    """Draw texts from the last 4,000 of a corpus, which the shipped configurations do not train on.

    Of a package (`package:NAME`) all are drawn from.

    Raises:
        ValueError: too few for an interval, or no such package.
    """
    kind, _, name = source.partition(":")
    if kind == "package":
        pool, licence = package_texts(name), package_licence(name)
    else:
        pool, licence = [d.text for d in deque(iter_documents(source), maxlen=POOL)], ""
    size = min(count, len(pool))
    if size < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {size} unrelated texts of {source}, expected {SMALLEST_SAMPLE} or more: raise "
            "texts, or name a larger corpus"
        )
    return UnrelatedTexts(tuple(random.Random(seed).sample(pool, size)), licence)


def meant(base: BaseModel, adapter: Adapter, text: str, least: float) -> Adapter | None:
    """Return an adapter that responds to a text by `least`, as a question's must; else None."""
    if least <= 0:
        return adapter
    (keys,) = question_keys(base, [text], adapter.spec.layers[:1])
    return adapter if is_meant(adapter, keys, least) else None


def text_losses(
    base: BaseModel,
    texts: Sequence[str],
    adapters: Sequence[Adapter] | None = None,
    least_relevance: float = 0.0,
) -> tuple[list[float], list[int]]:
    """Return the summed NLL of every text's tokens behind those read first, and their numbers.

    An adapter that responds less to the first tokens than `least_relevance` is left out, as it is
    for a question.
    """
    rows = [ids[:MOST_TOKENS] for ids in text_ids(base.tokenizer, texts)]
    sequences = [TrainingSequence(tuple(ids), min(READ_TOKENS, len(ids) // 2)) for ids in rows]

    def load(number: int) -> Adapter | None:
        beginning = base.tokenizer.decode(rows[number][: sequences[number].answer_start])
        return meant(base, adapters[number], beginning, least_relevance)

    # One adapter a text; `mean_nll` loads a batch of them at a time.
    places = range(len(rows)) if adapters else None
    means = mean_nll(base, sequences, places, load)
    counts = [len(sequence.ids) - sequence.answer_start for sequence in sequences]
    return [mean * count for mean, count in zip(means, counts, strict=True)], counts


ANSWERS = 4


@dataclass(frozen=True)
class Choices:
    """Questions with `ANSWERS` answers each, the golden one among them.

    Attributes:
        name: of the set.
        questions: what is asked.
        answers: of each, in random order.
    """

    name: str
    questions: tuple[Question, ...]
    answers: tuple[tuple[str, ...], ...]

    def owners(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents whose adapters are attached, one a question."""
        _require_documents(documents)
        owners = []
        for number, question in enumerate(self.questions):
            for document in (*documents[number % len(documents) :], *documents):  # round about
                text = f"{document.title} {document.text}"
                if not any(within(answer, text) for answer in question.golden_answers):
                    owners.append(document)
                    break
            else:
                raise ValueError(
                    f"got no document without an answer to {question.question!r}, expected one "
                    "whose adapter is unrelated: name other choices"
                )
        return owners

    def measure(self, rag: ParametricRAG, documents: Sequence[Document], seed: int) -> dict:
        """Return the accuracy without and with adapters, their paired difference, and chance."""
        least = rag.answerer.options.least_relevance
        owners = self.owners(documents)
        adapters = [rag.adapter(document.id) for document in owners]
        wording = rag.answerer.adapted_wording(adapters)  # one, so that adapters alone differ
        plain = self.chosen(rag.base, wording)
        adapted = self.chosen(rag.base, wording, adapters, least)
        pairs = zip(self.questions, self.answers, strict=True)
        golden = np.array([answers.index(q.golden_answers[0]) for q, answers in pairs])  # (N,)
        right, still = ((places == golden).astype(float) for places in (plain, adapted))
        # Questions that share an adapter are no independent samples either.
        shared = [
            replace(question, gold_ids=(*question.gold_ids, f"adapter {owner.id}"))
            for question, owner in zip(self.questions, owners, strict=True)
        ]
        bootstrap = Bootstrap(document_groups(shared), seed)
        return {
            "questions": len(self.questions),
            "chance": 1 / ANSWERS,
            "plain": asdict(bootstrap.mean(right)),
            "adapted": asdict(bootstrap.mean(still)),
            "difference": asdict(bootstrap.difference(still, right)),
            "changed": asdict(bootstrap.mean(plain != adapted)),
        }

    def chosen(
        self,
        base: BaseModel,
        wording: Wording = DEFAULT,
        adapters: Sequence[Adapter] | None = None,
        least: float = 0.0,
    ) -> np.ndarray:
        """Return the place of the most likely answer of every question, (N,)."""
        asked = [
            replace(question, golden_answers=(answer,))
            for question, answers in zip(self.questions, self.answers, strict=True)
            for answer in answers
        ]
        sequences = answer_sequences(base, asked, [()] * len(asked), wording)

        def load(row: int) -> Adapter | None:
            number = row // ANSWERS
            return meant(base, adapters[number], self.questions[number].question, least)

        losses = mean_nll(base, sequences, range(len(asked)) if adapters else None, load)
        return np.array(losses).reshape(-1, ANSWERS).argmin(1)  # (N * 4,) -> (N,)


def draw_choices(source: str, count: int, seed: int) -> Choices:
    """Draw questions, with three other answers each, of a question set.

    Raises:
        ValueError: too few questions with enough other answers for an interval.
    """
    whole = load_question_set(source)
    pool = AnswerPool(whole.questions)
    questions, answers = [], []
    for question in random.Random(seed).sample(whole.questions, len(whole.questions)):
        if len(questions) == count:
            break
        others = pool.others(question, ANSWERS - 1, seed) if question.golden_answers else []
        if len(others) == ANSWERS - 1:
            row = [question.golden_answers[0], *others]
            # No answer stands first by rule: where two are as likely, the first is chosen.
            answers.append(tuple(random.Random(f"{seed} {question.id}").sample(row, ANSWERS)))
            questions.append(question)
    if len(questions) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {len(questions)} questions of {source} with {ANSWERS - 1} other answers of their "
            f"kind, expected {SMALLEST_SAMPLE} or more: raise texts, or name a larger set"
        )
    return Choices(whole.name, tuple(questions), tuple(answers))


FEWEST_WORDS, MOST_WORDS = 35, 200  # of a paragraph, as of an introduction
PARAGRAPH = re.compile(r"\n\s*\n")
# What documents parameters or shows code is a list, no running text.
LIST = re.compile(r">>>|-----|^(Args|Returns|Raises|Attributes)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def package_texts(name: str) -> list[str]:
    """Return the distinct paragraphs, in the order of the package's files.

    Raises:
        ValueError: no such package is installed.
    """
    paragraphs: dict[str, None] = {}
    for source in _sources(_distribution(name)):
        try:
            nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
        except (SyntaxError, ValueError):  # a template, say
            continue
        for node in nodes:
            for paragraph in PARAGRAPH.split(ast.get_docstring(node) or ""):
                if _is_prose(text := " ".join(paragraph.split())):
                    paragraphs[text] = None
    return [*paragraphs]


def package_licence(name: str) -> str:
    """Return name, version and licence, as the package states it."""
    found = _distribution(name)
    fields = ("License-Expression", "Classifier", "License")  # the last one may be a whole text
    lines = [line for field in fields for line in found.metadata.get_all(field) or []]
    licences = [line for line in lines if "::" not in line or line.startswith("License ::")]
    licence = licences[0].splitlines()[0] if licences else "licence not stated"
    return f"{name} {found.version}, {licence.removeprefix('License :: ')}"


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:  # ValueError: an empty name
        raise ValueError(
            f"got the package {name!r}, which is not installed, expected one that is: name numpy"
        ) from error


def _sources(found: metadata.Distribution) -> Iterator[bytes]:
    """Yield the contents of the package's modules, without its tests."""
    for file in sorted(found.files or (), key=str):
        path = file.locate()
        if file.suffix == ".py" and "tests" not in file.parts and path.is_file():
            yield path.read_bytes()


def _is_prose(text: str) -> bool:
    words = len(text.split())
    return (
        FEWEST_WORDS <= words <= MOST_WORDS
        and text[0].isupper() and text.endswith(".") and not LIST.search(text)
    )  # fmt: skip
