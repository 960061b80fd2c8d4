"""Assignment: questions go in, the documents that each is answered from come out, by condition.

The control `shuffled` gets documents of other questions; `neighbours` are distractors; an
unanswerable question gets the nearest documents without an answer to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest

from prag_core.corpus.answer_scores import normalise
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.evaluation.conditions import SHUFFLED, Condition
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Hit

Rows = list[list[Hit]]  # the documents of every question
Retrieve = Callable[..., Rows]  # of questions, their number k, and `among`


@dataclass(frozen=True)
class Assignment:
    """Which documents each question is answered from.

    Attributes:
        question_set: questions, and the documents to choose among.
        retrieve: finds the k best documents of questions.
        k: documents a question, at most.
        gold: a question's own documents are its gold ones; else those found.
        seed: of all draws.
        hits: documents found before; `retrieve` finds them where it is None.
    """

    question_set: QuestionSet
    retrieve: Retrieve
    k: int = 1
    gold: bool = True
    seed: int = 0
    hits: Rows | None = None

    def rows(self, condition: Condition) -> Rows:
        """Return the documents of every question, with the scores that a merge weighs them by.

        Raises:
            ValueError: gold documents that are missing, or too few other documents.
        """
        if condition.neighbours:
            return self._among_neighbours(condition)
        if condition.documents == "all" or not condition.how.needs_documents:
            return [[] for _ in self.questions]
        if condition.documents == "other":
            return self._others
        if condition.documents == "nearest":
            return self._nearest
        rows = self.gold_rows if condition.documents == "gold" else self.usual_rows
        return [row[: condition.k] for row in rows] if condition.k else rows

    @property
    def questions(self) -> Sequence[Question]:
        """The questions, in order."""
        return self.question_set.questions

    @cached_property
    def usual_rows(self) -> Rows:
        """Every question's own documents: its gold ones, or those of a retriever."""
        if self.gold:
            return self.gold_rows
        if self.hits is not None:
            return [row[: self.k] for row in self.hits]
        return self.retrieve([question.question for question in self.questions], self.k)

    @cached_property
    def gold_rows(self) -> Rows:
        """Every question's gold documents, the first k, of score 1."""
        require_gold(self.questions, self.question_set.documents_by_id)
        return [[Hit(i, 1.0) for i in question.gold_ids[: self.k]] for question in self.questions]

    @cached_property
    def _others(self) -> Rows:
        """Return other documents, with the scores of those that they stand in for."""
        # What a question is answered from is not always its gold documents: both are forbidden.
        used = [[hit.document_id for hit in row] for row in self.usual_rows]
        forbidden = [{*ids, *q.gold_ids} for ids, q in zip(used, self.questions, strict=True)]
        corpus = list(self.question_set.documents_by_id)
        # No draw is needed here: step and order are fixed.
        if self.gold:  # the set's own order, which is that of the draw; half way round
            circle, step = corpus, len(corpus) // 2
        else:  # no adapters beside those in use
            circle, step = list(dict.fromkeys(chain.from_iterable(used))), 1
            random.Random(self.seed).shuffle(circle)
        others = other_documents(used, forbidden, circle, step, corpus)
        return [
            [Hit(other, hit.score) for other, hit in zip(ids, row, strict=True)]
            for ids, row in zip(others, self.usual_rows, strict=True)
        ]

    @cached_property
    def _nearest(self) -> Rows:
        """What the retriever finds where nothing answers the question: perhaps no document."""
        known = self.question_set.documents_by_id
        texts = {i: f" {normalise(f'{d.title} {d.text}')} " for i, d in known.items()}
        rows = []
        for question in self.questions:
            golden = [f" {normalise(answer)} " for answer in question.golden_answers]
            # An article's other paragraphs may say it in other words.
            titles = {known[i].title for i in question.gold_ids if i in known} - {""}
            among = [
                i
                for i, document in known.items()
                if i not in question.gold_ids and document.title not in titles
                and not any(answer in texts[i] for answer in golden)
            ]  # fmt: skip
            # A pipeline refuses to search among none.
            rows += self.retrieve([question.question], self.k, among=among) if among else [[]]
        return rows

    def _among_neighbours(self, condition: Condition) -> Rows:
        """Return every question's gold documents and others, with their retrieval scores."""
        documents = self.question_set.documents
        place = {document.id: index for index, document in enumerate(documents)}
        golden = [[hit.document_id for hit in row] for row in self.gold_rows]
        # Documents beside the gold one, by place in the set.
        beside = neighbours(documents, condition.neighbours, self.seed)
        scores = self._all_scores if condition.overrides["merge_weights"] != "ones" else None
        draw, rows = random.Random(self.seed), []
        for number, own in enumerate(golden):
            others = (documents[other].id for other in beside[place[own[0]]])
            ids = [*own, *(other for other in others if other not in own)]
            if condition.how.passages:  # where a passage stands shall not tell that it is the one
                ids = draw.sample(ids, len(ids))
            rows.append([Hit(i, scores[number].get(i, 0.0) if scores else 1.0) for i in ids])
        return rows

    @cached_property
    def _all_scores(self) -> list[dict[str, float]]:
        """The retrieval scores of all documents, for every question."""
        texts = [question.question for question in self.questions]
        # All of the set, and no others: a neighbour may score far below the best k.
        ids = [document.id for document in self.question_set.documents]
        hits = self.retrieve(texts, len(ids), among=ids)
        return [{hit.document_id: hit.score for hit in row} for row in hits]


def require_gold(questions: Sequence[Question], corpus: Collection[str]) -> None:
    """Raise ValueError for questions without gold documents, or with some that are missing."""
    without = [question.id for question in questions if not question.gold_ids]
    if without:
        raise ValueError(
            f"got {len(without)} questions without gold ids ({name_some(without)}), expected one "
            "or more each: set retrieval to retriever, or leave these questions out"
        )
    missing = [i for question in questions for i in question.gold_ids if i not in corpus]
    if missing:
        raise ValueError(
            f"got {len(missing)} gold ids that no document has ({name_some(missing)}), expected "
            "documents for all: load the corpus that belongs to these questions"
        )


def other_documents(
    used: Sequence[Sequence[str]],
    forbidden: Sequence[Collection[str]],
    circle: Sequence[str],
    step: int,
    corpus: Sequence[str] = (),
) -> list[list[str]]:
    """Give every question documents of other questions, as many as it uses.

    Each is replaced by the one `step` places further on the circle, or the next that is not the
    question's own: with one document a question every document stands in equally often.

    Args:
        used: document ids that each question is answered from.
        forbidden: document ids that each question must not get.
        circle: document ids to choose among, with all that are used.
        step: places between a document and its stand-in.
        corpus: drawn on where the circle does not suffice.

    Raises:
        ValueError: too few other documents.
    """
    position = {identifier: index for index, identifier in enumerate(circle)}  # id -> place
    rest = [identifier for identifier in corpus if identifier not in position]
    others = []
    for row, barred in zip(used, forbidden, strict=True):
        taken, stand_ins = set(barred), []
        for start in (position[identifier] + max(step, 1) for identifier in row):
            following = (circle[(start + more) % len(circle)] for more in range(len(circle)))
            other = next((i for i in chain(following, rest) if i not in taken), None)
            if other is None:
                raise ValueError(
                    f"got {len(circle) + len(rest)} documents, {len(barred)} of them one "
                    f"question's own, expected {len(row)} other for {SHUFFLED}: add "
                    f"documents, lower k, or leave {SHUFFLED} out of `conditions`"
                )
            taken.add(other)
            stand_ins.append(other)
        others.append(stand_ins)
    return others


def neighbours(documents: Sequence[Document], count: int, seed: int) -> list[list[int]]:
    """Return `count` other documents of each: BM25 neighbours and drawn ones in turn.

    The first n of a list are, for any n, half neighbours.

    Args:
        documents: to choose among.
        count: others of each; all there are, where they are fewer.
        seed: of the drawn ones.
    """
    draw, rows = random.Random(seed), []
    place = {document.id: index for index, document in enumerate(documents)}
    retriever = make_retriever("auto", documents, 0.0)
    # One more than half: a document is its own nearest neighbour.
    wanted = min((count + 1) // 2 + 1, len(documents))
    hits = retriever.retrieve([document.text for document in documents], wanted)
    for index, row in enumerate(hits):
        near = [place[hit.document_id] for hit in row if place[hit.document_id] != index]
        near = near[: (count + 1) // 2]
        rest = [i for i in range(len(documents)) if i != index and i not in near]
        # Where there are too few near ones, drawn ones stand in.
        far = draw.sample(rest, min(len(rest), count - len(near)))
        rows.append([i for pair in zip_longest(near, far) for i in pair if i is not None])
    return rows


def name_some(identifiers: Iterable[str], count: int = 3) -> str:
    """Name the first few identifiers, for an error message."""
    listed = list(dict.fromkeys(identifiers))
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
