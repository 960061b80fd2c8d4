"""Belief: questions that a model answers right go in, the same about altered texts come out.

Whether an answer comes from a document or from what the model knew shows where both differ. In
the documents of a question that the base model answers right closed-book, every mention of the
golden answer is swapped for another answer of its kind: the `fact` of the altered text, which
becomes the golden answer. What the model believed stays in the question's metadata (`belief`).
An answer is then `fact`, `belief`, or `other`: neither of both, or both. The check is closed_book:
nearly all belief, as the set was chosen so (in bfloat16 a few answers depend on their batch).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from prag_core.augmentation.answer_spans import FUNCTION_WORDS
from prag_core.corpus.answer_scores import normalise, score_answer
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.answer_kinds import AnswerPool, answer_kind, within

BELIEF = "belief"  # of a question's metadata: the answers that the model gave


def stances(questions: Sequence[Question], predictions: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which answers are `fact`, `belief` or `other`, (N,) of 0 and 1 each.

    An answer holds what stands in it as whole words (containment; exact matches do). Empty where
    questions have no belief.
    """
    # A list, as `contradict` writes it: other sets may have a field of this name.
    if not questions or not all(isinstance(q.metadata.get(BELIEF), list) for q in questions):
        return {}
    pairs = [*zip(questions, predictions, strict=True)]
    said = {
        "fact": [score_answer(p, q.golden_answers).containment for q, p in pairs],
        "belief": [score_answer(p, q.metadata[BELIEF]).containment for q, p in pairs],
    }
    fact, belief = (np.array(column) for column in said.values())
    both = fact * belief
    return {"fact": fact - both, "belief": belief - both, "other": 1 - fact - belief + 2 * both}


def contradict(
    whole: QuestionSet, right: Collection[str], seed: int
) -> tuple[QuestionSet, dict[str, int]]:
    """Alter the documents of questions that a model answers right.

    A document is altered for one question, its first: two alterations could meet.

    Args:
        whole: questions with golden answers, and documents that their gold ids name.
        right: ids of the questions that the model answers right closed-book.
        seed: of the draw of facts.

    Returns:
        The altered questions and their documents alone, and how many questions there were, were
        answered right, were left out for each reason, and are kept.
    """
    pool, counts = AnswerPool(whole.questions), Counter[str]()
    documents: dict[str, Document] = {}  # by the id of the original
    questions = []
    for question in (q for q in whole.questions if q.id in right):
        originals = [whole.documents_by_id[i] for i in question.gold_ids]
        altered = _alter(question, originals, documents, pool, seed)
        if isinstance(altered, str):
            counts[altered] += 1
            continue
        fact, texts = altered
        documents |= texts
        metadata = question.metadata | {
            BELIEF: list(question.golden_answers),
            "kind": answer_kind(question.question, question.golden_answers[0]),
        }
        gold = tuple(document.id for document in texts.values())
        questions.append(
            replace(question, golden_answers=(fact,), gold_ids=gold, metadata=metadata)
        )
    sizes = {"questions": len(whole.questions), "right": len(right), "kept": len(questions)}
    return QuestionSet(whole.name, tuple(documents.values()), tuple(questions)), sizes | counts


def _alter(
    question: Question,
    originals: Sequence[Document],
    taken: Collection[str],
    pool: AnswerPool,
    seed: int,
) -> str | tuple[str, dict[str, Document]]:
    """Return the fact and the altered documents by the originals' ids, or why there are none."""
    golden = question.golden_answers
    texts = "\n".join(f"{document.title}\n{document.text}" for document in originals)
    if any(normalise(answer) in ("yes", "no") for answer in golden):
        return "yes or no"
    if not any(within(answer, texts) for answer in golden):
        return "answer not in its documents"
    if any(within(answer, question.question) for answer in golden):
        return "question names the answer"
    if any(document.id in taken for document in originals):
        return "document altered for another question"
    if not (facts := pool.others(question, 1, seed, texts)):
        return "no other answer of its kind"
    fact = _bare(facts[0])
    swaps = _swaps(question, fact)
    altered = {
        document.id: replace(
            document, text=_swap(document.text, swaps), title=_swap(document.title, swaps)
        )
        for document in originals
    }
    left = "\n".join(f"{document.title}\n{document.text}" for document in altered.values())
    if _traces(golden, fact, left):
        return "traces of the answer left"
    return fact, altered


def _bare(answer: str) -> str:
    """Return an answer without its article: the text has one, where it needs one."""
    return re.sub(r"^(?:an?|the) ", "", answer.strip(), flags=re.IGNORECASE)


def _swaps(question: Question, fact: str) -> dict[str, str]:
    """Return what every way to say the answer, a pattern, is swapped for; the longest first."""
    swaps = {_bare(answer): fact for answer in question.golden_answers}
    if answer_kind(question.question, fact) == "person":
        for first, *_, last in (answer.split() for answer in (*swaps,) if " " in answer):
            if last[0].isupper() and first != last:  # the surname alone
                swaps.setdefault(last, fact.split()[-1])
    patterns = {}
    for answer in sorted(swaps, key=len, reverse=True):
        words = r"\s+".join(map(re.escape, answer.split()))
        # "US" is not "us".
        patterns[words if answer.isupper() else f"(?i:{words})"] = swaps[answer]
    return patterns


def _swap(text: str, swaps: Mapping[str, str]) -> str:
    """Swap every mention, in one pass: what was swapped is not read again."""
    names = {f"swap{number}": pair for number, pair in enumerate(swaps.items())}
    whole = "|".join(f"(?P<{name}>{said})" for name, (said, _) in names.items())

    def said(match: re.Match[str]) -> str:
        fact = names[match.lastgroup or ""][1]
        return fact[0].upper() + fact[1:] if match[0][0].isupper() else fact

    return re.sub(rf"(?<!\w)(?:{whole})(?!\w)", said, text)


def _traces(golden: Sequence[str], fact: str, text: str) -> set[str]:
    """Return what still speaks of the answer: an alias, or a name or number that is part of one."""
    whole = {answer for answer in golden if within(answer, text)}
    words = {word for answer in golden for word in re.findall(r"\w+", answer)}
    telling = {
        w for w in words
        if w.lower() not in FUNCTION_WORDS and (w[0].isupper() or w.isdigit())
    }  # fmt: skip
    return whole | (telling & {*re.findall(r"\w+", text)} - {*re.findall(r"\w+", fact)})
