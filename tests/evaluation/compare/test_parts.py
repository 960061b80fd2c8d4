"""Knowledge and side effects over a random parametrizer, against plain losses."""

from __future__ import annotations

import numpy as np
import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.compare import parts
from prag_core.evaluation.compare.cells import Cells
from prag_core.evaluation.compare.parts import knowledge, side_effects, similarity
from prag_core.evaluation.evaluate import scored
from prag_core.evaluation.results import summarise
from prag_core.pipeline.rag import ParametricRAG
from prag_core.training.loop import mean_nll
from prag_core.training.sequences import text_sequences
from tests.fixtures.parametrizers import RandomParametrizer

DOCUMENTS = [Document(f"Mill {n} stands at lake {n * n}.") for n in range(6)]
QUESTIONS = [
    Question(f"q{n}", f"Where is mill {n}?", ("lake",), (d.id,)) for n, d in enumerate(DOCUMENTS)
]


@pytest.fixture
def rags(tiny_base, tmp_path):
    rag = ParametricRAG(
        tiny_base, parametrizer=RandomParametrizer(tiny_base), store=tmp_path / "store"
    )
    return {"trained": rag.add_documents(DOCUMENTS)}


def test_losses_are_those_of_the_own_and_of_the_document_half_way_round(rags, tiny_base):
    part = knowledge(rags, DOCUMENTS, QUESTIONS, seed=0)
    rag, texts = rags["trained"], text_sequences(tiny_base, DOCUMENTS)
    ids = [document.id for document in DOCUMENTS]
    own = mean_nll(tiny_base, texts, ids, rag.adapter)
    other = mean_nll(tiny_base, texts, ids[3:] + ids[:3], rag.adapter)
    rows = [part["per_document"][i] for i in ids]
    assert [row["closed_book"] for row in rows] == pytest.approx(mean_nll(tiny_base, texts))
    assert [row["trained/parametric"] for row in rows] == pytest.approx(own)
    assert [row["trained/shuffled"] for row in rows] == pytest.approx(other)
    assert part["text"]["trained/parametric"]["mean"] == pytest.approx(np.mean(own))
    assert set(part["answers"]) == {*part["text"], "in_context"}


@pytest.mark.parametrize(("read", "gap"), [(1.0, 3 / 4), (5.0, None)])
def test_the_gap_is_that_between_closed_book_and_reading(read, gap, rags, monkeypatch):
    losses = {
        "closed_book": [4.0, 5, 6, 4, 5, 6], "in_context": [read] * 6,
        "trained/parametric": [2.0] * 6, "trained/shuffled": [5.0] * 6,
    }  # fmt: skip
    monkeypatch.setattr(parts, "_losses", lambda *_: (losses, losses))
    found = knowledge(rags, DOCUMENTS, QUESTIONS, seed=0)["gap_closed"]
    if gap is None:  # reading does not surely help
        assert found == {}
    else:
        assert found["trained"]["mean"] == pytest.approx(gap)


def test_without_questions_and_others_there_is_only_the_text(rags):
    part = knowledge(rags, DOCUMENTS[:1], [], seed=0)
    assert set(part["text"]) == {"closed_book", "trained/parametric"}
    assert part["answers"] is None and part["gap_closed"] == {}
    assert side_effects(part, Cells(QuestionSet("set", (), ())), ["trained"], seed=0) == {}


def test_side_effects_follow_losses_and_answers(rags):
    def answers(predictions: list[str]) -> dict:
        return {q.id: scored(q, text) for q, text in zip(QUESTIONS, predictions, strict=True)}

    shared = answers(["lake", "lake", "the lake", "lake", "hill", "hill"])
    other = answers(["lake", "lake", "lake", "mill", "lake", "hill"])
    report = summarise("set", QUESTIONS, {"closed_book": shared, "shuffled": other}, seed=0)
    cells = Cells(
        QuestionSet("set", tuple(DOCUMENTS), tuple(QUESTIONS)),
        reports={"trained": report},
        answers={"closed_book": shared, "trained/shuffled": other},
    )
    losses = knowledge(rags, DOCUMENTS, [], seed=0)
    effect = side_effects(losses, cells, ["trained"], seed=0)["trained"]
    without, with_other = (losses["text"][n]["mean"] for n in ("closed_book", "trained/shuffled"))
    assert effect["change"]["mean"] == pytest.approx(with_other / without - 1)
    assert effect["changed_answers"]["mean"] == pytest.approx(3 / 6)
    assert effect["kept"]["mean"] == pytest.approx(3 / 4)  # a new right answer is nothing kept


def test_what_another_prompt_changes_is_no_side_effect(rags):
    def answers(text: str, prompt: str) -> dict:
        return {q.id: scored(q, text) | {"prompt": prompt} for q in QUESTIONS}

    shared = {"closed_book": answers("hill", "turns")}
    other = answers("lake", "short")
    losses = knowledge(rags, DOCUMENTS, [], seed=0)

    def effect() -> dict:
        report = summarise("set", QUESTIONS, {**shared, "shuffled": other}, seed=0)
        whole = QuestionSet("set", tuple(DOCUMENTS), tuple(QUESTIONS))
        cells = Cells(whole, {"trained": report}, {**shared, "trained/shuffled": other})
        return side_effects(losses, cells, ["trained"], seed=0)["trained"]

    assert "changed_answers" not in effect()
    shared["closed_book:prompt:short"] = answers("lake", "short")
    assert effect()["changed_answers"]["mean"] == 0


def test_similarity_places_every_adapter(rags):
    part = similarity(rags, DOCUMENTS)
    assert [point["document"] for point in part["map"]] == list(range(6))
    assert set(part["within"]) == {"trained"} and "between" not in part
