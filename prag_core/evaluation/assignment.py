"""Assignment: questions go in, the documents that each is answered from come out.

The control `shuffled` gets documents of other questions; `neighbours` are distractors.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from prag_core.evaluation.results import SHUFFLED
from prag_core.retrieval.bm25 import make_retriever

if TYPE_CHECKING:
    from prag_core.corpus.documents import Document
    from prag_core.corpus.question_sets import Question, QuestionSet
    from prag_core.evaluation.options import AnsweringPipeline, EvaluationOptions

WITHOUT_DOCUMENTS = ("closed_book", "sft")


def assign_documents(
    rag: AnsweringPipeline,
    question_set: QuestionSet,
    questions: Sequence[Question],
    mode: str,
    options: EvaluationOptions,
) -> list[list[str]] | None:
    """Return the document ids of each question, or None to leave them to the pipeline."""
    if mode in WITHOUT_DOCUMENTS or (mode != SHUFFLED and options.retrieval == "retriever"):
        return None
    corpus = [document.id for document in question_set.documents]
    if options.retrieval == "retriever":
        hits = rag.retrieve([question.question for question in questions], options.k)
        used = [[hit.document_id for hit in row] for row in hits]
    else:
        require_gold(questions, corpus)
        used = [list(question.gold_ids[: options.k]) for question in questions]
    if mode != SHUFFLED:
        return used
    own = [{*row, *question.gold_ids} for row, question in zip(used, questions, strict=True)]
    return other_documents(used, own, corpus, options.seed)


def replaced_scores(
    rag: AnsweringPipeline, questions: Sequence[Question], mode: str, options: EvaluationOptions
) -> list[list[float]] | None:
    """Return the scores of the documents that `shuffled` replaces, so that it is merged alike."""
    if mode != SHUFFLED or options.retrieval != "retriever":
        return None
    hits = rag.retrieve([question.question for question in questions], options.k)
    return [[hit.score for hit in row] for row in hits]


def require_gold(questions: Sequence[Question], corpus: Collection[str]) -> None:
    """Raise ValueError for questions without gold documents, or with some that are missing."""
    without = [question.id for question in questions if not question.gold_ids]
    if without:
        raise ValueError(
            f"got {len(without)} questions without gold ids ({name_some(without)}), expected one "
            "or more each: set retrieval to retriever, or leave these questions out"
        )
    known = set(corpus)
    missing = [i for question in questions for i in question.gold_ids if i not in known]
    if missing:
        raise ValueError(
            f"got {len(missing)} gold ids that no document has ({name_some(missing)}), expected "
            "documents for all: load the corpus that belongs to these questions"
        )


def other_documents(
    used: Sequence[Sequence[str]],
    own: Sequence[Collection[str]],
    corpus: Sequence[str],
    seed: int,
) -> list[list[str]]:
    """Give every question documents of other questions, as many as it uses.

    The documents in use are put on a seeded random circle and each is replaced by the next one
    that is not the question's own: with one document a question, a derangement, so that every
    document stands in equally often.

    Args:
        used: document ids that each question is answered from.
        own: document ids that each question must not get.
        corpus: all document ids, drawn on where the documents in use do not suffice.
        seed: of the circle.

    Raises:
        ValueError: too few other documents.
    """
    circle = list(dict.fromkeys(chain.from_iterable(used)))
    draw = random.Random(seed)
    draw.shuffle(circle)
    position = {identifier: index for index, identifier in enumerate(circle)}
    rest = [identifier for identifier in dict.fromkeys(corpus) if identifier not in position]
    draw.shuffle(rest)
    others = []
    for row, forbidden in zip(used, own, strict=True):
        taken = set(forbidden)
        chosen = []
        for start in (position[identifier] + 1 for identifier in row):
            following = (circle[(start + step) % len(circle)] for step in range(len(circle)))
            other = next((i for i in chain(following, rest) if i not in taken), None)
            if other is None:
                raise ValueError(
                    f"got {len(circle) + len(rest)} documents, {len(forbidden)} of them one "
                    f"question's own, expected {len(row)} other for mode {SHUFFLED}: add "
                    f"documents, lower k, or leave {SHUFFLED} out of `modes`"
                )
            taken.add(other)
            chosen.append(other)
        others.append(chosen)
    return others


def neighbours(
    documents: Sequence[Document], count: int, seed: int, chosen: Sequence[int] | None = None
) -> list[list[int]]:
    """Return `count` other documents of each: BM25 neighbours and drawn ones in turn.

    The first n of a list are, for any n, half neighbours.

    Args:
        documents: to choose among.
        count: others of each; all there are, where they are fewer.
        seed: of the drawn ones.
        chosen: places of the documents that get others; all when omitted.
    """
    draw, found = random.Random(seed), []
    chosen = range(len(documents)) if chosen is None else chosen
    place = {document.id: index for index, document in enumerate(documents)}
    retriever = make_retriever("auto", documents)
    wanted = min((count + 1) // 2 + 1, len(documents))
    hits = retriever.retrieve([documents[index].text for index in chosen], wanted)
    for index, row in zip(chosen, hits, strict=True):
        near = [place[hit.document_id] for hit in row if place[hit.document_id] != index]
        near = near[: (count + 1) // 2]
        rest = [i for i in range(len(documents)) if i != index and i not in near]
        far = draw.sample(rest, min(len(rest), count - len(near)))
        mixed = [i for pair in zip_longest(near, far) for i in pair if i is not None]
        found.append(mixed)
    return found


def name_some(identifiers: Iterable[str], count: int = 3) -> str:
    """Name the first few identifiers, for an error message."""
    listed = list(dict.fromkeys(identifiers))
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
