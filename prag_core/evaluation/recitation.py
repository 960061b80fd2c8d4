"""Recitation: documents go in, how much of their texts is given away comes out.

Every document is asked for in a few ways (`REQUESTS`): by its title, as the trained path learns
to recite it; so that the answer goes on from the text's first words; and as a text to go on from.
The answers' words are compared with the document's, both normalised as answers are scored:

    recited            share of the document's 8-grams that some answer holds
    recited_by_title   the same of the first request alone, which shows nothing of the text
    longest_run        words in a row that an answer has in common with the text, the most of all

Words that a request shows count for nothing. What `closed_book` and `shuffled` recite is what the
model knew, or guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np

from prag_core.corpus.answer_scores import normalise
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.corpus.text_tokens import plain, text_ids
from prag_core.model.base_model import BaseModel
from prag_core.model.options import GenerationOptions
from prag_core.model.prompts import Continuation, chat
from prag_core.training.sequences import recitation_request

REQUEST = "request"  # of a question's metadata
REQUESTS = ("title", "opening", "text")
GRAM, OPENING = 8, 12  # words
MOST_TOKENS = 512  # of an answer


def recitation_set(whole: QuestionSet) -> QuestionSet:
    """Return requests for the texts of all documents that are asked about, as a question set.

    The golden answer is the text. Texts of fewer words than a request shows and one 8-gram are
    left out.

    Raises:
        ValueError: no text is long enough.
    """
    gold = dict.fromkeys(i for question in whole.questions for i in question.gold_ids)
    documents = [whole.documents_by_id[i] for i in gold]
    documents = [
        d for d in documents
        # As they are compared, and as an opening is cut: between spaces.
        if min(len(normalise(d.text).split()), len(d.text.split())) >= OPENING + GRAM
    ]  # fmt: skip
    if not documents:
        raise ValueError(
            f"got no gold document of {OPENING + GRAM} words or more in {whole.name}, expected "
            "some to recite: name another question set"
        )
    questions = []
    for document in documents:
        request, opening = recitation_request(document), _opening(document.text)
        asked = {"title": request, "opening": f"{request} {opening}", "text": opening}
        questions += [
            Question(f"{document.id}-{kind}", text, (document.text,), (document.id,),
                     {REQUEST: kind, "asks": request, "opening": opening})
            for kind, text in asked.items()
        ]  # fmt: skip
    return replace(whole, name=f"{whole.name}-recitation", questions=tuple(questions))


def requests(base: BaseModel) -> Callable[[Question], Continuation]:
    """Return what writes a request's whole prompt."""

    def ask(question: Question) -> Continuation:
        kind, opening = question.metadata[REQUEST], question.metadata["opening"]
        if kind == "text":
            return Continuation(opening)
        prompt = chat(base.tokenizer, question.metadata["asks"])
        if kind == "title":
            return Continuation(prompt, verbatim=True)
        space = "" if base.tokenizer.chat_template else " "  # behind "Answer:"
        return Continuation(prompt + space + plain(base.tokenizer, opening), verbatim=True)

    return ask


def long_answers(
    base: BaseModel, questions: Iterable[Question], options: GenerationOptions
) -> GenerationOptions:
    """Return options by which an answer may be as long as the longest text, of several lines."""
    texts = {answer for question in questions for answer in question.golden_answers}
    longest = max(map(len, text_ids(base.tokenizer, texts)))
    return replace(options, max_new_tokens=min(longest, MOST_TOKENS), stop=())


def recitations(questions: Sequence[Question], predictions: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a document's measures for each of its requests, (N,); empty for other questions."""
    # Other sets may have a field of this name.
    if not questions or not all(q.metadata.get(REQUEST) in REQUESTS for q in questions):
        return {}
    by_document: dict[str, dict[str, tuple[np.ndarray, int]]] = {}
    asked = [(q.id.removesuffix(f"-{q.metadata[REQUEST]}"), q.metadata[REQUEST]) for q in questions]
    for question, (name, kind), said in zip(questions, asked, predictions, strict=True):
        measured = _recited(question.golden_answers[0], said, 0 if kind == "title" else OPENING)
        by_document.setdefault(name, {})[kind] = measured
    values: dict[str, list[float]] = {"recited": [], "recited_by_title": [], "longest_run": []}
    for name, _ in asked:
        answers = by_document[name]
        values["recited"].append(np.any([grams for grams, _ in answers.values()], 0).mean())
        values["recited_by_title"].append(answers["title"][0].mean())
        values["longest_run"].append(max(run for _, run in answers.values()))
    return {name: np.array(column, dtype=float) for name, column in values.items()}


def _recited(text: str, prediction: str, shown: int) -> tuple[np.ndarray, int]:
    """Return which 8-grams of a text an answer holds, (G,) of bool, and the longest common run.

    Args:
        text: of the document.
        prediction: the answer.
        shown: words of the text, as it is written, that the request shows.
    """
    words, said = normalise(text).split(), normalise(prediction).split()
    hidden = len(normalise(_opening(text, shown)).split())  # articles are no words here
    held = {tuple(said[i : i + GRAM]) for i in range(len(said) - GRAM + 1)}
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    held_at = np.array([i >= hidden and gram in held for i, gram in enumerate(grams)])
    matcher = SequenceMatcher(None, words[hidden:], said, autojunk=False)
    return held_at, matcher.find_longest_match().size


def _opening(text: str, count: int = OPENING) -> str:
    """Return the first words of a text."""
    return " ".join(text.split()[:count])
