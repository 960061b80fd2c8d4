"""What evaluation refuses: folders of another run, bad question sets and bad options."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.conditions import EvaluationOptions
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.unrelated import Choices, UnrelatedTexts
from tests.fixtures.evaluations import StubRag, options, town_set


def test_folder_of_another_config_is_refused_and_kept(tmp_path):
    towns = town_set()
    config = {"base": {"name": "tiny"}, "layers": (0, 1)}
    evaluate(StubRag(towns), towns, options(), tmp_path, config)
    before = (tmp_path / "parametric.jsonl").read_bytes()
    evaluate(StubRag(towns), towns, options(), tmp_path, config)  # the same: fine
    with pytest.raises(ValueError, match=r"evaluation\.k 2, not 1: expected .* another folder"):
        evaluate(StubRag(towns), towns, options(k=2), tmp_path, config)
    with pytest.raises(ValueError, match=r"run\.base\.name 'other', not 'tiny'"):
        evaluate(StubRag(towns), towns, options(), tmp_path, config | {"base": {"name": "other"}})
    with pytest.raises(ValueError, match=r"question_set\.documents"):
        evaluate(StubRag(town_set(13)), town_set(13), options(), tmp_path, config)
    assert (tmp_path / "parametric.jsonl").read_bytes() == before
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json that is no JSON"):
        evaluate(StubRag(towns), towns, options(), tmp_path, config)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"results of parametric but no config\.json"):
        evaluate(StubRag(towns), towns, options(), tmp_path, config)


def test_malformed_line_is_named(tmp_path):
    towns = town_set(5)
    evaluate(StubRag(towns), towns, options(), tmp_path)
    path = tmp_path / "parametric.jsonl"
    good = path.read_text().splitlines(keepends=True)
    for bad in ("{\n", "3\n", "\n", '{"id": "q1"}\n'):
        path.write_text("".join([good[0], bad, *good[2:]]))
        with pytest.raises(ValueError, match=r"parametric\.jsonl, line 2, .*delete the line"):
            evaluate(StubRag(towns), towns, options(), tmp_path)


@pytest.mark.parametrize("condition", ["da_rag", "sft"])
def test_what_the_trained_path_alone_can_answer_is_refused_first(tmp_path, condition):
    towns = town_set()
    rag = StubRag(towns)
    rag.augmenter = rag.parametrizer = None
    with pytest.raises(ValueError, match=f"got condition {condition}, .*--path trained"):
        evaluate(rag, towns, options("closed_book", condition), tmp_path / "run")
    assert not rag.asked and not (tmp_path / "run").exists()


@pytest.mark.parametrize("stranger", [UnrelatedTexts(("Tea.",)), Choices("s", (), ())])
def test_unrelated_text_needs_documents(tmp_path, stranger):
    towns, folder = replace(town_set(), documents=()), tmp_path / "run"
    asked, rest = options("closed_book", retrieval="retriever"), {"unrelated": {"x": stranger}}
    with pytest.raises(ValueError, match=r"without documents, expected some, .* with a corpus, or"):
        evaluate(StubRag(towns), towns, asked, folder, **rest)
    assert not folder.exists()


def test_choices_whose_answers_every_document_holds_are_refused_first(tmp_path):
    towns, folder = town_set(1), tmp_path / "run"
    choices = {"x": Choices("s", towns.questions, (("Mayor0",),))}
    with pytest.raises(ValueError, match="got no document without an answer"):
        evaluate(StubRag(towns), towns, options("closed_book"), folder, unrelated=choices)
    assert not folder.exists()


@pytest.mark.parametrize("retrieval", ["gold", "retriever"])
def test_shuffled_refuses_a_corpus_of_one(tmp_path, retrieval):
    one = town_set(1)
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"got 1 documents, 1 .* expected 1 other for shuffled"):
        evaluate(StubRag(one), one, options("shuffled", retrieval=retrieval), folder)
    assert not folder.exists()


def test_shuffled_avoids_gold_documents_beyond_k(tmp_path):
    towns = town_set(2)
    both = tuple(document.id for document in towns.documents)
    towns = replace(towns, questions=(replace(towns.questions[0], gold_ids=both),))
    with pytest.raises(ValueError, match=r"got 2 documents, 2 of them .* expected 1 other"):
        evaluate(StubRag(towns), towns, options("shuffled"), tmp_path)


def changed_question(**changes) -> QuestionSet:
    towns = town_set(4)
    return replace(towns, questions=(*towns.questions[:3], replace(towns.questions[3], **changes)))


@pytest.mark.parametrize(
    ("question_set", "message"),
    [
        (replace(town_set(2), questions=()), "got no questions"),
        (changed_question(golden_answers=()), r"1 questions without golden answers \(q3\)"),
        (changed_question(gold_ids=()), r"1 questions without gold ids \(q3\).*retriever"),
        (
            changed_question(gold_ids=(town_set(1).documents[0].id, "zz")),
            r"1 gold ids that no document has \(zz\)",
        ),
        (changed_question(id="q0"), "4 questions with 3 different ids"),
    ],
)
def test_bad_question_sets_are_refused_before_anything_is_written(tmp_path, question_set, message):
    rag, folder = StubRag(question_set), tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        evaluate(rag, question_set, options(), folder)
    assert not rag.asked and not folder.exists()


def test_gold_ids_are_not_needed_without_gold_retrieval(tmp_path):
    question_set = changed_question(gold_ids=())
    evaluate(StubRag(question_set), question_set, options("closed_book"), tmp_path / "a")
    retrieved = options("parametric", "shuffled", retrieval="retriever")
    evaluate(StubRag(question_set), question_set, retrieved, tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": ()}, r"got conditions \[\], expected one or more different ones"),
        ({"conditions": ("closed",)}, r"got condition 'closed', expected one of closed_book"),
        ({"conditions": ("sft", "sft")}, r"got conditions \['sft', 'sft'\]"),
        ({"k": 0}, "got k 0"),
        ({"chunk": 0}, "chunk 0"),
        ({"retrieval": "best"}, "got retrieval 'best', expected gold or retriever"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**changes)
