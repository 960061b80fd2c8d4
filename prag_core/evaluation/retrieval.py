"""Retrieval: questions with gold documents but no golden answers go in, recall comes out.

BEIR's sets are of this kind: nothing says what a right answer is, only where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from prag_core.corpus.question_sets import QuestionSet
from prag_core.retrieval.retriever import Hit


def retrieval_scores(
    question_set: QuestionSet, hits: Sequence[Sequence[Hit]], k: int
) -> dict[str, float]:
    """Score each question's first k documents against its gold ones; means over the questions.

    Returns:
        `recall`: share of a question's gold documents among them; `hit`: whether any is.

    Raises:
        ValueError: a question without gold documents.
    """
    without = [question.id for question in question_set.questions if not question.gold_ids]
    if without or not question_set.questions:
        raise ValueError(
            f"got {len(without)} questions of {question_set.name} with neither golden answers nor "
            "gold documents, expected one of both: add them, or leave these questions out"
        )
    shares = [
        len({hit.document_id for hit in row[:k]} & {*question.gold_ids}) / len({*question.gold_ids})
        for question, row in zip(question_set.questions, hits, strict=True)
    ]
    count = len(shares)
    return {
        "questions": count, "k": k, "recall": sum(shares) / count,
        "hit": sum(share > 0 for share in shares) / count,
    }  # fmt: skip
