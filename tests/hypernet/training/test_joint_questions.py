"""Questions over two documents: what is written, and that training asks them of both."""

from __future__ import annotations

import json
import random

import pytest

from hypernet.cli import main
from hypernet.training.batches import BatchBuilder, BatchConfig
from hypernet.training.joint_questions import EARLIER, _dated
from hypernet.training.sources import make_items, read_question_set
from prag_core.corpus.documents import Document
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set

CORPUS = [
    Document("Red Dust is a 1932 drama film directed by Ada Quill.", "Red Dust (film)"),
    Document("Blue Sand is a 1950 comedy film directed by Bo Reed.", "Blue Sand"),
    Document("Ada Quill (born 3 March 1901) was a Norwegian painter and film maker.", "Ada Quill"),
    Document("Bo Reed (born May 5, 1912) was a Swedish singer, born in Ystad.", "Bo Reed"),
    Document("Cy Moss (born 7 May 1930) was a Swedish cyclist.", "Cy Moss"),
    Document("Bo Reed is a company that was founded in 1990.", "Bo Reed (company)"),  # a namesake
]
BORN = {"Ada Quill": 1901, "Bo Reed": 1912, "Cy Moss": 1930}
KINDS = {"Ada Quill": "Norwegian", "Bo Reed": "Swedish", "Cy Moss": "Swedish"}
KINDS |= {"Red Dust (film)": "drama", "Blue Sand": "comedy"}


@pytest.fixture
def corpus(tmp_path):
    records = [{"id": d.id, "title": d.title, "text": d.text} for d in CORPUS]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def write(corpus, *options):
    assert main(["joint_set", str(corpus), str(corpus / "set"), *options]) == 0
    return load_question_set(corpus / "set")


def test_answers_follow_from_both_documents(corpus):
    questions = write(corpus, "--questions", "60")
    titles = {document.id: document.title for document in questions.documents}
    kinds = set()
    for question in questions.questions:
        first, second = (titles[identifier] for identifier in question.gold_ids)
        text, (answer,) = question.question, question.golden_answers
        assert first != second
        if answer in ("yes", "no"):
            kinds.add(answer)
            assert (KINDS[first] == KINDS[second]) == (answer == "yes")
        elif question.metadata["type"] == "comparison":
            kinds.add("comparison")
            early, late = sorted((first, second), key=BORN.get)
            first_asked = any(word in text for word in ("first", "older", "earlier"))
            assert answer == (early if first_asked else late)
        else:
            kinds.add("bridge")
            assert {"Red Dust (film)": "Ada Quill", "Blue Sand": "Bo Reed"}[first] == second
            assert second not in text and first.removesuffix(" (film)") in text
            assert answer in next(d.text for d in CORPUS if d.title == second)
    assert kinds == {"yes", "no", "comparison", "bridge"}
    asked = {(question.question, question.gold_ids) for question in questions.questions}
    assert len(asked) == len(questions.questions)


def test_a_small_corpus_has_as_many_questions_as_there_are(corpus):
    questions = write(corpus, "--questions", "5000").questions
    assert len({(q.question, q.gold_ids) for q in questions}) == len(questions) < 500


def test_what_is_left_out_is_never_asked(corpus):
    (corpus / "titles.txt").write_text("Ada Quill\n")
    questions = write(
        corpus, "--questions", "40", "--leave_out.titles", str(corpus / "titles.txt"),
        "--leave_out.relations", "[place of birth, occupation]", "--leave_out.last_documents", "2",
    )  # fmt: skip
    titles = {document.title for document in questions.documents}
    assert titles == {"Red Dust (film)", "Blue Sand", "Bo Reed"}
    asks = LeaveOut(relations=("place of birth", "occupation")).asks
    assert not any(asks(question.question) for question in questions.questions)


def test_dates_are_compared_as_far_as_both_are_known():
    texts = {"A": (1994,), "B": (1994, 3), "C": (1994, 5), "D": (2001,)}
    rows = [(date, Document("text", title)) for title, date in texts.items()]
    pairs = set()
    for seed in range(200):
        _, _, said, first, second = _dated(next(iter(EARLIER)), rows, random.Random(seed))
        assert said in (first.title, second.title)
        pairs.add(frozenset((first.title, second.title)))
    assert pairs == {frozenset(pair) for pair in ("BC", "AD", "BD", "CD")}


def test_a_corpus_without_relations_is_refused(tmp_path, capsys):
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"title": "A", "text": "Words alone."}))
    assert main(["joint_set", str(tmp_path), str(tmp_path / "set")]) == 2
    assert "got 1 documents" in capsys.readouterr().err


def test_training_asks_them_of_groups_that_hold_both(corpus, tiny_base):
    write(corpus, "--questions", "40")
    items = read_question_set(str(corpus / "set"), tiny_base.tokenizer)
    assert all(item.joint and not item.pairs for item in items)
    settings = {"documents": 2, "groups": (2,), "questions": 2, "completions": 0, "unrelated": 0}
    config = BatchConfig(**settings, near_share=0.0, joint_share=1.0, passages=True)
    builder = BatchBuilder(tiny_base.tokenizer, [items], [1.0], config)
    asked = {question: {a.document.id, *others} for a in items for question, _, others in a.joint}
    taken = 0
    for step in range(12):
        batch = builder.build(step)
        text = tiny_base.tokenizer.decode(batch["rows"].ids[0])
        present = [ids for question, ids in asked.items() if question in text]
        assert all(ids == set(batch["document_ids"]) for ids in present)
        taken += bool(present)
        if present:  # the model that reads has both passages
            read = tiny_base.tokenizer.decode(batch["teacher"].ids[0])
            assert all(d.text in read for d in CORPUS if d.id in batch["document_ids"])
    assert taken >= 8


def test_documents_without_questions_over_several_draw_as_before(tiny_base):
    pairs = [[("Who?", "Al")]] * len(CORPUS)
    items = make_items(tiny_base.tokenizer, CORPUS, pairs)
    drawn = []
    for share in (0.0, 1.0):
        config = BatchConfig(documents=2, groups=(2,), near_share=0.0, joint_share=share)
        builder = BatchBuilder(tiny_base.tokenizer, [items], [1.0], config)
        drawn.append(builder.build(3)["document_ids"])
    assert drawn[0] == drawn[1]
